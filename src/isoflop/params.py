"""Loading params.yaml: strictly typed sections, and errors that name the key, what was found and what was expected."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails
from yaml import YAMLError

from isoflop.errors import UserError

PARAMS_FILE = Path("params.yaml")


class Section(BaseModel):
    """Schema of a section of params.yaml, or of the sections that a stage sees.

    Strict: no value is coerced, no key is unknown, none has a default here (params.yaml is the one place where a
    value is written).
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


SectionT = TypeVar("SectionT", bound=Section)


def key(dotted: str, **constraints: Any) -> Any:
    """A field that stands for the part ``dotted`` of params.yaml (say ``train.width``), not a whole section."""
    return Field(json_schema_extra={"key": dotted}, **constraints)


def declared_keys(schema: type[Section]) -> dict[str, str]:
    """Field name → the dotted key of params.yaml that it stands for."""
    keys = {}
    for name, info in schema.model_fields.items():
        extra = info.json_schema_extra
        keys[name] = str(extra["key"]) if isinstance(extra, dict) and "key" in extra else name
    return keys


def load_params(schema: type[SectionT], file: Path = PARAMS_FILE) -> SectionT:
    """Read from ``file`` only the keys that ``schema`` declares, and validate them.

    Raises:
        UserError: the file is missing or is not YAML, a key is missing or unknown, a value has another type or is
            out of range; the message names the key, what was found and what was expected.
    """
    content = _read(file)
    values = {}
    keys = declared_keys(schema)
    for name, dotted in keys.items():
        value: Any = content
        for part in dotted.split("."):
            if not isinstance(value, dict) or part not in value:
                raise UserError(f"{file}: {dotted}: the key is missing")
            value = value[part]
        values[name] = value
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise UserError("; ".join(_explain(file, schema, keys, detail) for detail in error.errors())) from None


def _read(file: Path) -> dict[str, Any]:
    try:
        content = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
    except FileNotFoundError:
        raise UserError(f"{file}: not found; expected it in the folder the command runs in") from None
    except (YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise UserError(f"{file}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: found {type(content).__name__}, expected sections with keys")
    return {str(name): value for name, value in content.items()}


def _explain(file: Path, schema: type[Section], keys: dict[str, str], detail: ErrorDetails) -> str:
    first, *rest = detail["loc"]
    where = ".".join([keys.get(str(first), str(first)), *map(str, rest)])
    if detail["type"] == "missing":
        return f"{file}: {where}: the key is missing"
    if detail["type"] == "extra_forbidden":
        known = _fields_at(schema, [str(first), *map(str, rest[:-1])])
        nearest = difflib.get_close_matches(str(detail["loc"][-1]), known, n=1)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"expected one of {', '.join(known)}"
        return f"{file}: {where}: unknown key; {hint}"
    found = detail["input"]
    expected = detail["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
    return f"{file}: {where}: found {found!r} ({_yaml_type(found)}), expected {expected}"


def _fields_at(schema: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        info = schema.model_fields.get(part)
        annotation = info.annotation if info else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        schema = annotation
    return list(schema.model_fields)


def _yaml_type(value: object) -> str:
    names = {bool: "boolean", int: "integer", float: "number", str: "string", list: "list", dict: "mapping"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
