"""Messages for values of params.yaml that do not fit their schema: the key, the value and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from isoflop.runtime.terminal import without_credentials

_MOST_SHOWN = 200  # characters of a wrong value in a message


def mistakes(
    error: ValidationError, file: Path, schema: type[BaseModel], keys: Mapping[str, str], replaced: Mapping[str, str]
) -> list[str]:
    """Return a line for each mistake, starting with ``FILE: KEY: ``.

    Args:
        keys: the dotted key of each field of ``schema``.
        replaced: the key under which the value of a variant stands, by the key that it replaces.
    """
    meant = {_meant(schema, detail) for detail in error.errors() if detail["type"] == "extra_forbidden"}
    return [
        _explain(file, schema, keys, replaced, detail)
        for detail in error.errors()
        if not (detail["type"] == "missing" and detail["loc"] in meant)  # reported once: the key is there, misspelled
    ]


def _explain(
    file: Path, schema: type[BaseModel], keys: Mapping[str, str], replaced: Mapping[str, str], detail: ErrorDetails
) -> str:
    first, *rest = detail["loc"]
    where = ".".join([keys.get(str(first), str(first)), *map(str, rest)])
    where = replaced.get(where, where)
    if detail["type"] == "value_error" and detail["msg"].startswith("Value error, got "):  # about several keys
        return f"{file}: {where}: {detail['msg'].removeprefix('Value error, ')}"
    if detail["type"] == "missing":
        return f"{file}: {where}: the key is missing"
    if detail["type"] == "extra_forbidden":
        meant, known = _meant(schema, detail), _fields_at(schema, detail["loc"][:-1])
        hint = f"did you mean {meant[-1]!r}?" if meant else f"expected one of {', '.join(known)}"
        return f"{file}: {where}: unknown key; {hint}"
    got = detail["input"]
    expected = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    shown = without_credentials(repr(got))
    shown = f"{shown[:_MOST_SHOWN]}…" if len(shown) > _MOST_SHOWN else shown
    return f"{file}: {where}: got {shown} ({_yaml_type(got)}), expected {expected}"


def _meant(schema: type[BaseModel], detail: ErrorDetails) -> tuple[int | str, ...]:
    """Return the path of the known key that is most similar to an unknown one; empty if none is similar."""
    *path, name = detail["loc"]
    nearest = difflib.get_close_matches(str(name), _fields_at(schema, path), n=1)
    return (*path, *nearest) if nearest else ()


def _fields_at(schema: type[BaseModel], path: Sequence[int | str]) -> list[str]:
    for part in path:
        info = schema.model_fields.get(str(part))
        annotation = info.annotation if info else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        schema = annotation
    return list(schema.model_fields)


def _yaml_type(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list", dict: "mapping"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
