"""``docs/params.md``: the reference of all keys of params.yaml, generated from the schemas of the stages.

``python -m isoflop.project.params_reference`` writes it; with ``--check`` it exits with 1 where the file is not
current. The comment behind a field of a schema describes its key; the schema's docstring introduces the section.
"""

from __future__ import annotations

import ast
import inspect
import io
import re
import sys
import textwrap
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import create_model
from pydantic.fields import FieldInfo

from isoflop.project.checking import stage_schemas
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_atomically
from isoflop.runtime.params import Section, Shown, declared_keys, read_params, untracked_keys, value_at, variant_keys

REFERENCE = Path("docs/params.md")
DEFAULTS = Path("presets/digits.yaml")  # params.yaml of a new clone

_HEAD = """# Every parameter

`python -m isoflop.project.params_reference` generates this page from the schemas; edit those, not this
page. The defaults are the values of `presets/digits.yaml`, the `params.yaml` of a new clone; `isoflop preset` lists the
other presets. Schemas have no defaults: every key must be present. `isoflop check` reports all mistakes at once.

"Read by" names the stages that read the key. A change makes them stale; later stages rerun if their inputs change.
`sweep@` is one stage per entry: a new entry adds a stage and leaves the others alone. A stage in parentheses reads the
key but does not rerun, because the key cannot change its outputs. `report` prints all sections, so it reruns for every
key and is not listed. [Architecture](architecture.md) describes the outputs of each stage.
"""

_TITLES = ("| key | allowed | default | description | read by |", "|---|---|---|---|---|")


@dataclass
class Key:
    """A key of params.yaml that is a value, not a section."""

    info: FieldInfo
    about: str = ""
    read_by: list[str] = field(default_factory=list)


def reference(project: Path) -> str:
    """Return the page, from the stages, dvc.yaml and default preset of ``project``."""
    schemas = stage_schemas(project)
    keys, intros = _keys(schemas)
    for dotted, stage in _entries(project / "dvc.yaml"):
        keys[dotted].read_by = [name for name in keys[dotted].read_by if name != stage] + [f"{stage}@"]
    defaults = read_params(project / DEFAULTS)
    parts = [_HEAD]
    for name, section in defaults.items():
        inside = [dotted for dotted in _leaves(section, name, keys)]
        stages = dict.fromkeys(stage.strip("@()") for dotted in inside for stage in keys[dotted].read_by)
        parts += [f"## {name}\n", *(f"{_wrapped(text)}\n" for text in _introductions(name, intros, stages, project))]
        rows = [_row(dotted, keys[dotted], value_at(defaults, dotted, DEFAULTS)) for dotted in inside]
        parts.append("\n".join([*_TITLES, *rows]) + "\n")
    return "\n".join(parts)


def _keys(schemas: Mapping[str, type[Section]]) -> tuple[dict[str, Key], dict[str, str]]:
    """Return the description of each dotted key, and the docstring of each section's schema."""
    keys: dict[str, Key] = {}
    intros: dict[str, str] = {}
    for stage, schema in schemas.items():
        untracked = set(untracked_keys(schema))
        for dotted, info, about, of_section in _fields(schema, "", declared_keys(schema), intros):
            known = keys.setdefault(dotted, Key(info, about))
            if of_section:  # a stage that reads this key only may describe less
                known.info, known.about = info, about
            known.about = known.about or about
            known.read_by.append(f"({stage})" if dotted in untracked else stage)
    for stage, schema in schemas.items():
        for by in variant_keys(schema).values():
            keys[by].read_by.append(stage)
    return keys, intros


def _fields(
    schema: type[Section], prefix: str, names: Mapping[str, str], intros: dict[str, str]
) -> Iterator[tuple[str, FieldInfo, str, bool]]:
    comments = field_comments(schema)
    for name, info in schema.model_fields.items():
        dotted = prefix + names.get(name, name)
        kind = info.annotation
        if kind == Shown:
            continue
        if isinstance(kind, type) and issubclass(kind, Section):
            intros[dotted] = _plain(inspect.getdoc(kind) or "")
            yield from _fields(kind, f"{dotted}.", {}, intros)
        else:
            yield dotted, info, comments.get(name, ""), bool(prefix)


def field_comments(schema: type[Section]) -> dict[str, str]:
    """Return the comment behind each field in the source of ``schema``, by field."""
    source = inspect.getsource(schema)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    fields = [node for node in body.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {ast.unparse(node.target): comments[line] for node in fields if (line := node.end_lineno) in comments}


def _entries(graph: Path) -> Iterator[tuple[str, str]]:
    """Yield the keys with one stage per entry (``foreach`` or ``matrix`` in dvc.yaml), and the stage."""
    for name, stage in yaml.safe_load(graph.read_text())["stages"].items():
        for template in (stage.get("foreach"), *stage.get("matrix", {}).values()):
            if template:
                yield template.removeprefix("${").removesuffix("}"), name


def _leaves(tree: Any, prefix: str, keys: Mapping[str, Key]) -> Iterator[str]:
    """Yield the keys below ``prefix`` in file order; a name that no schema has as a key is a section."""
    if prefix in keys:
        yield prefix
    else:
        for name, value in tree.items():
            yield from _leaves(value, f"{prefix}.{name}", keys)


def _introductions(name: str, intros: Mapping[str, str], stages: Mapping[str, None], project: Path) -> Iterator[str]:
    """Yield the docstrings of the section's schemas, or of its stages if it has no schema."""
    own = {dotted: text for dotted, text in intros.items() if dotted.split(".")[0] == name}
    if not own:
        for stage in stages:
            text = ast.get_docstring(ast.parse((project / "stages" / f"{stage}.py").read_text())) or ""
            yield _plain(f"`{stage}`: {text}")
    for dotted, text in own.items():
        said = re.sub(rf"^(Section )?`{re.escape(dotted)}`(\.|: ?)\s*", "", text)
        if said:
            yield said[0].upper() + said[1:] if dotted == name else f"`{dotted}`: {said}"


def _row(dotted: str, known: Key, default: Any) -> str:
    shown = yaml.safe_dump(default, default_flow_style=True, width=4096).removesuffix("\n").removesuffix("\n...")
    cells = (f"`{dotted}`", allowed(known.info), f"`{shown}`", _plain(known.about), ", ".join(known.read_by))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def allowed(info: FieldInfo) -> str:
    """Return the allowed values of a field in words: types, bounds and choices, from its JSON schema."""
    definition: Any = (Annotated[info.annotation, info], ...)
    one = create_model("One", __base__=Section, value=definition)
    return _in_words(one.model_json_schema()["properties"]["value"])


def _in_words(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return ", or ".join(_in_words(choice) for choice in schema["anyOf"])
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else None):
        *others, last = (f"`{choice}`" for choice in choices)
        return f"{', '.join(others)} or {last}" if others else last
    kind = schema.get("type")
    if kind == "array":
        least = f" of at least {schema['minItems']}" if "minItems" in schema else ""
        return f"list{least}, each: {_in_words(schema['items'])}"
    if kind in ("integer", "number"):
        return _range(schema, "whole number" if kind == "integer" else "number")
    if kind == "string":
        return f"string that matches `{schema['pattern']}`" if "pattern" in schema else "string"
    return {"boolean": "`true` or `false`", "null": "null", "object": "mapping"}[str(kind)]


def _range(schema: Mapping[str, Any], kind: str) -> str:
    least, most = schema.get("minimum"), schema.get("maximum")
    if kind == "whole number" and schema.get("exclusiveMinimum") == 0:
        least = 1
    if least is not None and most is not None:
        return f"{kind} from {least:,} to {most:,}"
    bounds = []
    if least is not None:
        bounds.append(f"of {least:,} or more")
    elif "exclusiveMinimum" in schema:
        bounds.append(f"above {schema['exclusiveMinimum']:,}")
    if most is not None:
        bounds.append(f"at most {most:,}")
    elif "exclusiveMaximum" in schema:
        bounds.append(f"below {schema['exclusiveMaximum']:,}")
    return f"{kind} {' and '.join(bounds)}".rstrip()


def _wrapped(text: str) -> str:
    return textwrap.fill(text, 118, break_long_words=False, break_on_hyphens=False)


def _plain(text: str) -> str:
    """Return a docstring as one line of Markdown."""
    return " ".join(text.replace("``", "`").split())


def main(arguments: list[str], project: Path) -> None:
    """Write the page, or with ``--check`` compare it.

    Raises:
        UserError: the argument is unknown, or the page is not current.
    """
    if arguments not in ([], ["--check"]):
        raise UserError(f"got {' '.join(arguments)}, expected no argument or --check")
    text, file = reference(project), project / REFERENCE
    if not arguments:
        write_atomically(file, text)
    elif not file.is_file() or file.read_text() != text:
        raise UserError(f"{REFERENCE}: differs from the schemas; fix: `python -m isoflop.project.params_reference`")


if __name__ == "__main__":
    try:
        main(sys.argv[1:], Path.cwd())
    except UserError as error:
        sys.exit(f"error: {error}")
