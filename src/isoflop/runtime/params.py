"""Loading params.yaml: strictly typed sections, and errors that name the key, what was found and what was expected."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from yaml import YAMLError

from isoflop.runtime.errors import UserError

PARAMS_FILE = Path("params.yaml")


class Section(BaseModel):
    """Schema of a section of params.yaml, or of the sections that a stage sees.

    Strict: no value is coerced, no key is unknown, none has a default here (params.yaml is the one place where a
    value is written).
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


Shown = dict[str, Any]  # a section that a stage shows as it stands: what it may be, the stages say that use it

SectionT = TypeVar("SectionT", bound=Section)


def key(dotted: str, **constraints: Any) -> Any:
    """A field that stands for the part ``dotted`` of params.yaml (say ``train.width``), not a whole section."""
    return Field(json_schema_extra={"key": dotted}, **constraints)


def varied(by: str) -> Any:
    """A field that is a section with some values replaced by those under ``by``, of which the stage makes one.

    ``prune: Prune = varied(by="variants.prune")`` is section ``prune`` with what ``variants.prune.NAME`` says, NAME
    being the stage's argument ``variant``.
    """
    return Field(json_schema_extra={"varied_by": by})


def untracked(**constraints: Any) -> Any:
    """A field of a section that can change no output: no stage is run again for it."""
    return Field(json_schema_extra={"untracked": True}, **constraints)


def declared_keys(schema: type[Section]) -> dict[str, str]:
    """Field name → the dotted key of params.yaml that it stands for."""
    return {name: _extra(info, "key") or name for name, info in schema.model_fields.items()}


def variant_keys(schema: type[Section]) -> dict[str, str]:
    """Field name → the dotted key whose entries vary it, of the fields that are ``varied``."""
    found = {name: _extra(info, "varied_by") for name, info in schema.model_fields.items()}
    return {name: by for name, by in found.items() if by}


def tracked_keys(schema: type[Section]) -> Iterator[str]:
    """The dotted keys whose values decide what a stage makes: a section's own, or those within it where some do not."""
    apart = set(untracked_keys(schema))
    for name, dotted in declared_keys(schema).items():
        section = schema.model_fields[name].annotation
        fields = section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else {}
        within = [f"{dotted}.{field}" for field in fields]
        yield from [key for key in within if key not in apart] if apart & set(within) else [dotted]


def untracked_keys(schema: type[Section]) -> Iterator[str]:
    """The dotted keys that a stage reads and that can change no output of it."""
    for name, dotted in declared_keys(schema).items():
        section = schema.model_fields[name].annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from (
                f"{dotted}.{field}" for field, info in section.model_fields.items() if _extra(info, "untracked")
            )


def load_params(schema: type[SectionT], file: Path = PARAMS_FILE, variant: str | None = None) -> SectionT:
    """Read from ``file`` only the keys that ``schema`` declares, and validate them.

    Args:
        variant: which entry replaces values of the fields that are ``varied``.

    Raises:
        UserError: the file is missing or is not YAML, a key is missing or unknown, a value has another type or is
            out of range; the message names the key, what was found and what was expected.
    """
    content = read_params(file)
    keys = declared_keys(schema)
    values = {name: value_at(content, dotted, file) for name, dotted in keys.items()}
    replaced: dict[str, str] = {}  # dotted key of a section's value → that of the variant's in its place
    for name, by in variant_keys(schema).items():
        entry = value_at(content, f"{by}.{variant}", file)
        if not isinstance(entry, dict) or not isinstance(entry.get("of"), str):
            raise UserError(
                f"{file}: {by}.{variant}: found {entry!r}, expected a mapping with of: the model to start from"
            )
        changes = {field: value for field, value in entry.items() if field != "of"}
        if isinstance(values[name], dict):
            values[name] = values[name] | changes
        replaced |= {f"{keys[name]}.{field}": f"{by}.{variant}.{field}" for field in changes}
        replaced |= {keys[name]: f"{by}.{variant}"} if changes else {}
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        meant = {_meant(schema, detail) for detail in error.errors() if detail["type"] == "extra_forbidden"}
        said = [
            _explain(file, schema, keys, replaced, detail)
            for detail in error.errors()
            if not (detail["type"] == "missing" and detail["loc"] in meant)  # said once: it is there, misspelled
        ]
        raise UserError("; ".join(said)) from None


def _extra(info: FieldInfo, name: str) -> str | None:
    extra = info.json_schema_extra
    return str(extra[name]) if isinstance(extra, dict) and name in extra else None


def value_at(content: Any, dotted: str, file: Path) -> Any:
    """What ``content``, read of ``file``, has under a dotted key.

    Raises:
        UserError: nothing.
    """
    for part in dotted.split("."):
        if not isinstance(content, dict) or part not in content:
            raise UserError(f"{file}: {dotted}: the key is missing")
        content = content[part]
    return content


def read_params(file: Path) -> dict[str, Any]:
    """All of ``file``, unchecked.

    Raises:
        UserError: it is missing, or is not a YAML mapping.
    """
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except FileNotFoundError:
        raise UserError(f"{file}: not found; expected it in the folder the command runs in") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: found {type(content).__name__}, expected sections with keys")
    return {str(name): value for name, value in content.items()}


def _explain(
    file: Path, schema: type[Section], keys: dict[str, str], replaced: dict[str, str], detail: ErrorDetails
) -> str:
    first, *rest = detail["loc"]
    where = ".".join([keys.get(str(first), str(first)), *map(str, rest)])
    where = replaced.get(where, where)
    if detail["type"] == "value_error" and detail["msg"].startswith("Value error, got "):  # of several keys together
        return f"{file}: {where}: {detail['msg'].removeprefix('Value error, ')}"
    if detail["type"] == "missing":
        return f"{file}: {where}: the key is missing"
    if detail["type"] == "extra_forbidden":
        meant, known = _meant(schema, detail), _fields_at(schema, detail["loc"][:-1])
        hint = f"did you mean {meant[-1]!r}?" if meant else f"expected one of {', '.join(known)}"
        return f"{file}: {where}: unknown key; {hint}"
    found = detail["input"]
    expected = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{file}: {where}: got {found!r} ({_yaml_type(found)}), expected {expected}"


def _meant(schema: type[BaseModel], detail: ErrorDetails) -> tuple[int | str, ...]:
    """The place of the key that an unknown one looks like; empty where there is none."""
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
