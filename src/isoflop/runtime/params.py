"""Loading of params.yaml: strictly typed sections, and errors that name the key, the value and what was expected."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from isoflop.runtime.errors import UserError
from isoflop.runtime.mistakes import mistakes
from isoflop.runtime.plain_yaml import Lines, PlainYamlError, parse
from isoflop.runtime.terminal import printable

PARAMS_FILE = Path("params.yaml")
RENAMED = {  # old key → new key; the old ones are read until version 0.3
    "recipe.skip_easy": "recipe.infobatch",
    "train.micro_batches": "train.accumulate_grad_batches",
}


class ParamsError(UserError):
    """Mistakes in a file of parameters. Each is one line that starts with ``FILE: KEY: ``."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        self.mistakes = list(dict.fromkeys(mistakes))
        super().__init__("; ".join(self.mistakes))


class Section(BaseModel):
    """Schema of a section of params.yaml, or of the sections that a stage reads.

    Strict: values are not coerced, unknown keys are refused, and no key has a default, because params.yaml is the only
    place where a value is written.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    @property
    def is_shared(self) -> bool:
        """Whether several processes run the stage together."""
        return any(value.is_shared for value in vars(self).values() if isinstance(value, Section))

    def cross_check(self, params: Mapping[str, Any], file: Path) -> list[str]:
        """Check this section against the rest of ``params``, the content of ``file``; return warnings.

        Raises:
            UserError: the section does not fit the rest, or what it names is missing.
        """
        return []


RandomSeed = Annotated[int, Field(ge=0, le=2**32 - 1)]  # what NumPy, albumentations and Lightning accept
Shown = dict[str, Any]  # a section that a stage prints; the stages that compute with it validate it

SectionT = TypeVar("SectionT", bound=Section)


def key(dotted: str, **constraints: Any) -> Any:
    """Declare a field that is the key ``dotted`` of params.yaml, such as ``train.width``, not a whole section."""
    return Field(json_schema_extra={"key": dotted}, **constraints)


def varied(by: str) -> Any:
    """Declare a field that is a section in which one variant's entry under ``by`` replaces some values.

    ``prune: Prune = varied(by="variants.prune")`` is section ``prune`` with the values of ``variants.prune.NAME``,
    where NAME is the stage's argument ``variant``.
    """
    return Field(json_schema_extra={"varied_by": by})


def untracked(**constraints: Any) -> Any:
    """Declare a field of a section that cannot change any output: no stage reruns when it changes."""
    return Field(json_schema_extra={"untracked": True}, **constraints)


def declared_keys(schema: type[Section]) -> dict[str, str]:
    """Return the dotted key of params.yaml by field name."""
    return {name: _extra(info, "key") or name for name, info in schema.model_fields.items()}


def variant_keys(schema: type[Section]) -> dict[str, str]:
    """Return the dotted key whose entries vary a field, by field name, of the ``varied`` fields."""
    found = {name: _extra(info, "varied_by") for name, info in schema.model_fields.items()}
    return {name: by for name, by in found.items() if by}


def tracked_keys(schema: type[Section]) -> Iterator[str]:
    """Yield the dotted keys that decide a stage's outputs: sections, or the tracked keys of a section."""
    apart = set(untracked_keys(schema))
    for name, dotted in declared_keys(schema).items():
        section = schema.model_fields[name].annotation
        fields = section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else {}
        within = [f"{dotted}.{field}" for field in fields]
        yield from [key for key in within if key not in apart] if apart & set(within) else [dotted]


def untracked_keys(schema: type[Section]) -> Iterator[str]:
    """Yield the dotted keys that a stage reads and that cannot change any of its outputs."""
    for name, dotted in declared_keys(schema).items():
        section = schema.model_fields[name].annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from (
                f"{dotted}.{field}" for field, info in section.model_fields.items() if _extra(info, "untracked")
            )


def load_params(schema: type[SectionT], file: Path = PARAMS_FILE, variant: str | None = None) -> SectionT:
    """Read ``file`` and return what ``validated`` does.

    Raises:
        UserError: the file is missing or not YAML, or see ``validated``.
    """
    return validated(schema, read_params(file), file, variant)


def validated(schema: type[SectionT], content: dict[str, Any], file: Path, variant: str | None) -> SectionT:
    """Validate only the keys that ``schema`` declares in ``content``, which was read from ``file``.

    Args:
        variant: name of the entry whose values replace those of the ``varied`` fields.

    Raises:
        UserError: a key is missing or unknown, or a value has the wrong type or is out of range. The message names the
            key, the value and what was expected.
    """
    keys = declared_keys(schema)
    values = {name: value_at(content, dotted, file) for name, dotted in keys.items()}
    for name, changes in _variant_changes(schema, content, file, variant).items():
        if isinstance(values[name], dict):
            values[name] = values[name] | changes
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise ParamsError(mistakes(error, file, schema, keys, replaced_keys(schema, content, file, variant))) from None


def replaced_keys(schema: type[Section], content: dict[str, Any], file: Path, variant: str | None) -> dict[str, str]:
    """Return the key under which each value of a variant stands, by the key of the section that it replaces.

    ``{"prune.ratio": "variants.prune.narrow.ratio"}``, for example.
    """
    keys, bys = declared_keys(schema), variant_keys(schema)
    replaced: dict[str, str] = {}
    for name, changes in _variant_changes(schema, content, file, variant).items():
        own = f"{bys[name]}.{variant}"
        replaced |= {f"{keys[name]}.{field}": f"{own}.{field}" for field in changes}
        replaced |= {keys[name]: own} if changes else {}
    return replaced


def _variant_changes(
    schema: type[Section], content: dict[str, Any], file: Path, variant: str | None
) -> dict[str, dict[str, Any]]:
    """Return the values that the entry of ``variant`` replaces, by the name of the ``varied`` field."""
    found = {}
    for name, by in variant_keys(schema).items():
        entry = value_at(content, f"{by}.{variant}", file)
        if not isinstance(entry, dict) or not isinstance(entry.get("of"), str):
            raise UserError(
                f"{file}: {by}.{variant}: got {entry!r}, expected a mapping with `of`, the model to start from"
            )
        found[name] = {field: value for field, value in entry.items() if field != "of"}
    return found


def _extra(info: FieldInfo, name: str) -> str | None:
    extra = info.json_schema_extra
    return str(extra[name]) if isinstance(extra, dict) and name in extra else None


def value_at(content: Any, dotted: str, file: Path) -> Any:
    """Return the value of a dotted key in ``content``, which was read from ``file``.

    Raises:
        UserError: there is no such key.
    """
    for part in dotted.split("."):
        if not isinstance(content, dict) or part not in content:
            raise UserError(f"{file}: {dotted}: the key is missing")
        content = content[part]
    return content


def read_params(file: Path) -> dict[str, Any]:
    """Return the sections of ``file`` without validation.

    Raises:
        UserError: the file is missing, is not a YAML mapping, or has a value with an interpolation: DVC does not
            resolve it in params.yaml, so a change of what it refers to would rerun no stage.
    """
    sections = read_mapping(file)
    if references := [key for key, value in _strings(sections) if "${" in value]:
        raise ParamsError(
            [f"{file}: {key}: got an interpolation (${{…}}), expected a plain value; fix: write the value"
             for key in references]
        )  # fmt: skip
    for section, before, after in list(renamed_keys(sections)):
        sections[section] = {after if name == before else name: value for name, value in sections[section].items()}
        _warn_once(
            f"{file}: {section}.{before}: renamed to {section}.{after}; the old name works until 0.3; fix: "
            "`isoflop upgrade`"
        )
    return sections


def read_mapping(file: Path) -> dict[str, Any]:
    """Return the content of any YAML file that is a mapping, such as dvc.lock.

    Raises:
        UserError: the file is missing, or is not a YAML mapping.
    """
    content = {} if (found := _parsed(file)[0]) is None else found
    if not isinstance(content, dict):
        raise UserError(f"{file}: got {type(content).__name__}, expected sections with keys")
    return {str(name): value for name, value in content.items()}


def lines_of(file: Path) -> Lines:
    """Return the line of every dotted key of ``file``; renamed keys are found under both names.

    Raises:
        UserError: see ``read_params``.
    """
    content, lines = _parsed(file)
    renamed = {f"{section}.{after}": lines[f"{section}.{before}"] for section, before, after in renamed_keys(content)}
    return lines | renamed


def _parsed(file: Path) -> tuple[Any, Lines]:
    try:
        return parse(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: not found; expected it in the working directory") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not valid YAML: {error}") from None
    except PlainYamlError as error:
        where = f"{file}:{error.line}" if error.line else f"{file}"
        raise UserError(f"{where}: not valid YAML: {error}") from None


def _strings(content: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield every string in ``content``, keys included, with its dotted key."""
    if isinstance(content, str):
        yield prefix, content
        return
    entries = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for name, value in entries:
        dotted = f"{prefix}.{name}" if prefix else str(name)
        if isinstance(name, str):
            yield dotted, name
        yield from _strings(value, dotted)


def renamed_keys(sections: Any) -> Iterator[tuple[str, str, str]]:
    """Yield section, old key and new key of every key in ``sections`` that ``RENAMED`` renames."""
    for old, new in RENAMED.items():
        section, before = old.split(".")
        after = new.partition(".")[2]
        keys = sections.get(section) if isinstance(sections, dict) else None
        if isinstance(keys, dict) and before in keys and after not in keys:
            yield section, before, after


@functools.cache
def _warn_once(message: str) -> None:
    print(f"warning: {printable(message)}", file=sys.stderr)
