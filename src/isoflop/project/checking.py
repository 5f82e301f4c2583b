"""``isoflop check``: all of params.yaml against the schemas of all stages, before any of them runs."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import create_model
from pydantic.fields import FieldInfo
from yaml import YAMLError

from isoflop.project.project_files import runs_installed_code
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import (
    PARAMS_FILE,
    Section,
    Shown,
    declared_keys,
    load_params,
    read_params,
    value_at,
    variant_keys,
)
from isoflop.runtime.signature import contract
from isoflop.runtime.stage_code import STAGES_PACKAGE, installed


def stage_schemas(project: Path) -> dict[str, type[Section]]:
    """Stage → the schema of the parameters that it sees, of all stages that see any: those in ``project``, or the
    installed package's where it runs those.

    Raises:
        UserError: the project has no stages.
    """
    package, names = _stage_modules(project)
    if not names:
        raise UserError(f"{project / 'stages'}: found no stages, expected a module for each stage of dvc.yaml")
    found = {name: _schema(package, name) for name in names}
    return {name: schema for name, schema in found.items() if schema}


def check_values_of_others(project: Path) -> None:
    """For a stage that runs: the values of all sections that params.yaml of ``project`` has and its stages know.

    A section that is missing or that no stage knows, and a stage that cannot be imported, are no business of it.

    Raises:
        UserError: every wrong value or unknown key in a known section, in one line.
    """
    package, names = _stage_modules(project)
    schemas = []
    for name in names:
        with contextlib.suppress(UserError):
            schemas += [schema] if (schema := _schema(package, name)) else []
    file = project / PARAMS_FILE
    present = read_params(file).keys()
    whole = [schema for schema in schemas if {key.partition(".")[0] for key in _all_keys(schema)} <= present]
    if mistakes := _mistakes(_seen(whole, file), file):
        raise UserError("; ".join(mistakes))


def _stage_modules(project: Path) -> tuple[str, list[str]]:
    """The package that has the stages of ``project``, which can be imported then, and their names."""
    if runs_installed_code(project):
        return STAGES_PACKAGE, installed().stage_names()
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))
    return "stages", sorted(file.stem for file in (project / "stages").glob("[!_]*.py"))


def _schema(package: str, name: str) -> type[Section] | None:
    """Of the parameters of a stage; None where it has none."""
    try:
        annotations = contract(importlib.import_module(f"{package}.{name}").main).values()
    except Exception as error:  # a stage of the user's may be anything
        why = " ".join(str(error).split())
        raise UserError(f"{package}/{name}.py: not a stage ({type(error).__name__}: {why})") from None
    found = [one for one in annotations if isinstance(one, type) and issubclass(one, Section)]
    return found[-1] if found else None


def _all_keys(schema: type[Section]) -> Iterator[str]:
    yield from declared_keys(schema).values()
    yield from variant_keys(schema).values()


def check(schemas: Iterable[type[Section]], file: Path = PARAMS_FILE) -> list[str]:
    """Validate ``file``: no section or key that no stage knows, every value as its schema wants it.

    Returns:
        What is allowed, but hardly meant.

    Raises:
        UserError: every mistake, in one line. The augmentation policy is looked at when all else is right, as that
            takes the import of albumentations.
    """
    schemas = list(schemas)
    fields = {
        dotted: schema.model_fields[name]
        for schema in schemas
        for name, dotted in declared_keys(schema).items()
        if schema.model_fields[name].annotation != Shown
    }
    varied = {name for schema in schemas for name in variant_keys(schema)}
    fields |= {name: FieldInfo(annotation=fields[name].annotation) for name in varied}  # as the section stands
    known = list(dict.fromkeys(dotted.partition(".")[0] for dotted in fields))
    present = _sections(file, known)
    unknown = {name: difflib.get_close_matches(name, known, n=1) for name in present if name not in known}
    meant = [name for nearest in unknown.values() for name in nearest]  # not missing, but misspelled
    mistakes = [f"{file}: {name}: the key is missing" for name in known if name not in (*present, *meant)]
    mistakes += [f"{file}: {name}: unknown key; {_hint(nearest, known)}" for name, nearest in unknown.items()]
    there = {dotted: info for dotted, info in fields.items() if dotted.partition(".")[0] in present}
    mistakes += _mistakes([(_joined(there), None)], file) or ([] if mistakes else _mistakes(_seen(schemas, file), file))
    if mistakes:
        raise UserError("; ".join(mistakes))
    content = read_params(file)
    loaded = [load_params(schema, file, variant) for schema, variant in _seen(schemas, file)]
    sections = [section for values in loaded for section in dict(values).values() if isinstance(section, Section)]
    return list(dict.fromkeys(warning for section in sections for warning in section.cross_check(content, file)))


def _mistakes(schemas: Iterable[tuple[type[Section], str | None]], file: Path) -> list[str]:
    found = []
    for schema, variant in schemas:
        try:
            load_params(schema, file, variant)
        except UserError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def _seen(schemas: Iterable[type[Section]], file: Path) -> Iterator[tuple[type[Section], str | None]]:
    """Each schema as a stage sees it: one that makes variants once for each of them."""
    content = read_params(file)
    for schema in schemas:
        keys = variant_keys(schema).values()
        yield from ((schema, str(name)) for key in keys for name in value_at(content, key, file))
        if not keys:
            yield schema, None


def _sections(file: Path, known: list[str]) -> list[str]:
    """The names of the sections in ``file``; those ``known`` where it cannot be read, for load_params to say why."""
    try:
        content = OmegaConf.load(file)
    except (OSError, UnicodeDecodeError, YAMLError, OmegaConfBaseException):
        return known
    return [str(name) for name in content] if isinstance(content, DictConfig) else known


def _joined(fields: Mapping[str, FieldInfo]) -> type[Section]:
    """One schema of dotted keys: a section that some stage sees whole is that; others are put together from parts."""
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
