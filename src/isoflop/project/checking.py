"""``isoflop check``: validation of params.yaml against the schemas of all stages, before any stage runs."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import create_model
from pydantic.fields import FieldInfo

from isoflop.project.plausibility import implausible
from isoflop.project.project_files import runs_installed_code
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import (
    PARAMS_FILE,
    ParamsError,
    Section,
    Shown,
    declared_keys,
    lines_of,
    load_params,
    read_params,
    value_at,
    variant_keys,
)
from isoflop.runtime.signature import contract
from isoflop.runtime.stage_code import STAGES_PACKAGE, installed


def stage_schemas(project: Path) -> dict[str, type[Section]]:
    """Return the schema of each stage that reads parameters, by stage name. The stages are those in ``project``, or
    those of the installed package if the project runs them.

    Raises:
        UserError: the project has no stages.
    """
    package, names = _stage_modules(project)
    if not names:
        raise UserError(f"{project / 'stages'}: got no stages, expected one module per stage of dvc.yaml")
    found = {name: _schema(package, name) for name in names}
    return {name: schema for name, schema in found.items() if schema}


def check_values_of_others(project: Path) -> None:
    """Validate the sections of params.yaml that other stages than the running one read.

    Missing and unknown sections are ignored, and so are stages that cannot be imported.

    Raises:
        UserError: a wrong value or an unknown key in a known section; the message names all of them.
    """
    package, names = _stage_modules(project)
    schemas = []
    for name in names:
        with contextlib.suppress(UserError):
            schemas += [schema] if (schema := _schema(package, name)) else []
    file = project / PARAMS_FILE
    present = read_params(file).keys()
    whole = [schema for schema in schemas if _sections_of(schema) <= present]
    if mistakes := _mistakes(_with_variants(whole, file), file):
        raise ParamsError(mistakes)


def _stage_modules(project: Path) -> tuple[str, list[str]]:
    """Return the package of the stages of ``project``, now importable, and their names."""
    if runs_installed_code(project):
        return STAGES_PACKAGE, installed().stage_names()
    if "stages" not in sys.modules:
        sys.path.insert(0, str(project))
        try:
            importlib.import_module("stages")
        finally:  # its modules are found by the package; other files of the project must not stand for libraries
            sys.path.remove(str(project))
    return "stages", sorted(file.stem for file in (project / "stages").glob("[!_]*.py"))


def _schema(package: str, name: str) -> type[Section] | None:
    """Return the schema of a stage's parameters; None if it reads none."""
    try:
        annotations = contract(importlib.import_module(f"{package}.{name}").main).values()
    except Exception as error:  # a module that a user added may do anything
        why = " ".join(str(error).split())
        raise UserError(f"{package}/{name}.py: not a stage ({type(error).__name__}: {why})") from None
    found = [one for one in annotations if isinstance(one, type) and issubclass(one, Section)]
    return found[-1] if found else None


def _sections_of(schema: type[Section]) -> set[str]:
    keys = [*declared_keys(schema).values(), *variant_keys(schema).values()]
    return {key.partition(".")[0] for key in keys}


def check(schemas: Iterable[type[Section]], file: Path = PARAMS_FILE) -> list[str]:
    """Validate all of ``file``: sections, keys and values, and each section against the rest.

    Returns:
        Warnings about values that are valid but probably not intended.

    Raises:
        ParamsError: names every mistake.
        UserError: the file is missing, or is not a YAML mapping.
    """
    schemas = list(schemas)
    content = read_params(file)
    whole = [schema for schema in schemas if _sections_of(schema) <= content.keys()]
    mistakes = _structure_mistakes(_all_fields(schemas), file, list(content))
    try:
        varied = list(_with_variants(whole, file))
    except UserError as error:
        mistakes.append(str(error))
        varied = [(schema, None) for schema in whole if not variant_keys(schema)]
    mistakes += _mistakes(varied, file)
    warnings: list[str] = []
    for section in _valid_sections(varied, file):
        try:
            warnings += section.cross_check(content, file)
        except UserError as error:
            mistakes += str(error).replace(f"; {file}: ", f"\n{file}: ").split("\n")
        except (LookupError, TypeError, ValueError, AttributeError):
            if not mistakes:  # else another section, which this one reads, is wrong
                raise
    if mistakes:
        raise ParamsError(_without_misspelled(mistakes, file))
    return list(dict.fromkeys(warnings + [f"{file}: {warning}" for warning in implausible(content)]))


def _without_misspelled(mistakes: Iterable[str], file: Path) -> list[str]:
    """Return ``mistakes`` without those about a missing key that is there, misspelled."""
    mistakes = list(mistakes)
    unknown = re.compile(rf"{re.escape(str(file))}: (.*?)[^.]+: unknown key; did you mean '(.+)'\?")
    meant = {f"{file}: {found[1]}{found[2]}: the key is missing" for found in map(unknown.match, mistakes) if found}
    return [mistake for mistake in mistakes if mistake not in meant]


@dataclass(frozen=True)
class Remark:
    """A mistake or a warning; ``line`` is the line of ``key`` in the file, or None if neither is known."""

    line: int | None
    key: str
    message: str

    def located(self, file: Path) -> str:
        """Return the remark as one line that starts with ``FILE:LINE: KEY: ``."""
        where = f"{file}:{self.line}" if self.line else f"{file}"
        return f"{where}: {self.key}: {self.message}" if self.key else f"{where}: {self.message}"


def remarks(messages: Iterable[str], file: Path = PARAMS_FILE) -> list[Remark]:
    """Return messages of the form ``FILE: KEY: …`` as remarks, in the order of the file.

    A key that is missing is placed at the section that lacks it; messages without a line come last.

    Raises:
        UserError: the file is missing, or is not a YAML mapping.
    """
    lines = lines_of(file)
    found = []
    for message in messages:
        text = message.removeprefix(f"{file}: ").removeprefix(f"{PARAMS_FILE}: ")
        key, separator, rest = text.partition(": ")
        if not separator or " " in key:
            key, rest = "", text
        parts = key.split(".")
        known = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
        found.append(Remark(next((lines[name] for name in known if name in lines), None), key, rest))
    return sorted(found, key=lambda remark: remark.line or math.inf)


def _valid_sections(varied: Iterable[tuple[type[Section], str | None]], file: Path) -> list[Section]:
    """Return every section that is valid by itself, once."""
    found: list[Section] = []

    def load(schema: type[Section], variant: str | None) -> None:
        found.extend(value for value in dict(load_params(schema, file, variant)).values() if isinstance(value, Section))

    for schema, variant in varied:
        try:
            load(schema, variant)
        except UserError:  # then each section by itself
            for name, info in schema.model_fields.items():
                definition: Any = (Annotated[info.annotation, info], ...)
                with contextlib.suppress(UserError):
                    load(create_model("Part", __base__=Section, **{name: definition}), variant)
    return [section for index, section in enumerate(found) if section not in found[:index]]


def _all_fields(schemas: Sequence[type[Section]]) -> dict[str, FieldInfo]:
    """Return the field of each dotted key that a stage validates."""
    fields = {
        dotted: schema.model_fields[name]
        for schema in schemas
        for name, dotted in declared_keys(schema).items()
        if schema.model_fields[name].annotation != Shown
    }
    varied = {name for schema in schemas for name in variant_keys(schema)}
    return fields | {name: FieldInfo(annotation=fields[name].annotation) for name in varied}  # without any variant


def _structure_mistakes(fields: Mapping[str, FieldInfo], file: Path, present: Sequence[str]) -> list[str]:
    """Return the missing and unknown sections, and the wrong keys and values of the known ones."""
    known = list(dict.fromkeys(dotted.partition(".")[0] for dotted in fields))
    unknown = {name: difflib.get_close_matches(name, known, n=1) for name in present if name not in known}
    meant = [name for nearest in unknown.values() for name in nearest]  # misspelled, not missing
    mistakes = [f"{file}: {name}: the key is missing" for name in known if name not in (*present, *meant)]
    mistakes += [f"{file}: {name}: unknown key; {_hint(nearest, known)}" for name, nearest in unknown.items()]
    there = {dotted: info for dotted, info in fields.items() if dotted.partition(".")[0] in present}
    return mistakes + _mistakes([(_joined(there), None)], file)


def _mistakes(schemas: Iterable[tuple[type[Section], str | None]], file: Path) -> list[str]:
    found = []
    for schema, variant in schemas:
        try:
            load_params(schema, file, variant)
        except ParamsError as error:
            found += error.mistakes
        except UserError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def _with_variants(schemas: Iterable[type[Section]], file: Path) -> Iterator[tuple[type[Section], str | None]]:
    """Yield each schema with the variants that its stage runs for; None if it has no variants."""
    content = read_params(file)
    for schema in schemas:
        keys = variant_keys(schema).values()
        for key in keys:
            entries = value_at(content, key, file)
            if not isinstance(entries, dict):
                raise UserError(f"{file}: {key}: got {entries!r}, expected a mapping of names to entries")
            yield from ((schema, str(name)) for name in entries)
        if not keys:
            yield schema, None


def _joined(fields: Mapping[str, FieldInfo]) -> type[Section]:
    """Return one schema of dotted keys. A section that no stage reads as a whole is assembled from its parts."""
    sections: dict[str, dict[str, FieldInfo]] = {}
    for dotted, info in fields.items():
        first, _, rest = dotted.partition(".")
        sections.setdefault(first, {})[rest] = info
    definitions: dict[str, Any] = {}
    for name, parts in sections.items():
        whole = parts.get("")
        definitions[name] = (Annotated[whole.annotation, whole], ...) if whole else (_joined(parts), ...)
    return create_model("Params", __base__=Section, **definitions)


def _hint(nearest: list[str], known: list[str]) -> str:
    return f"did you mean {nearest[0]!r}?" if nearest else f"expected one of {', '.join(known)}"
