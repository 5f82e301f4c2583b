"""``docs/params.md``: every key of params.yaml, read from the schemas that the stages check it by.

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
from isoflop.runtime.params import Section, Shown, declared_keys, read_params, untracked_keys, value_at, variant_keys

REFERENCE = Path("docs/params.md")
DEFAULTS = Path("presets/digits.yaml")  # what params.yaml is in a clone

_HEAD = """# Every parameter

Made by `python -m isoflop.project.params_reference` from the schemas; edit those, not this page. Defaults are those of
`presets/digits.yaml`, which `params.yaml` is in a clone; `isoflop preset` lists the others. No schema has a default:
every key must be there. `isoflop check` names every mistake at once.

"Seen by" names the stages that read the key: a change makes these stale, and what follows runs again where their
outputs change. `sweep@` means a stage for each entry: a new entry is a new stage, the others stay. A stage in brackets
reads the key and is not run again for it, as it can change none of its outputs. Not listed is `report`, which shows the
sections as they stand and is written anew when they change. What each stage makes is in
[architecture](architecture.md).
"""

_TITLES = ("| key | allowed | default | what it is | seen by |", "|---|---|---|---|---|")


@dataclass
class Key:
    """A key of params.yaml that is a value, not a section."""

    info: FieldInfo
    about: str = ""
    seen_by: list[str] = field(default_factory=list)


def reference(project: Path) -> str:
    """The whole page, of the stages, dvc.yaml and default preset in ``project``."""
    schemas = stage_schemas(project)
    keys, intros = _keys(schemas)
    for dotted, stage in _entries(project / "dvc.yaml"):
        keys[dotted].seen_by = [name for name in keys[dotted].seen_by if name != stage] + [f"{stage}@"]
    defaults = read_params(project / DEFAULTS)
    parts = [_HEAD]
    for name, section in defaults.items():
        inside = [dotted for dotted in _leaves(section, name, keys)]
        stages = dict.fromkeys(stage.strip("@()") for dotted in inside for stage in keys[dotted].seen_by)
        parts += [f"## {name}\n", *(f"{_wrapped(text)}\n" for text in _introductions(name, intros, stages, project))]
        rows = [_row(dotted, keys[dotted], value_at(defaults, dotted, DEFAULTS)) for dotted in inside]
        parts.append("\n".join([*_TITLES, *rows]) + "\n")
    return "\n".join(parts)


def _keys(schemas: Mapping[str, type[Section]]) -> tuple[dict[str, Key], dict[str, str]]:
    """Dotted key → what is known of it, and dotted section → the docstring of its schema."""
    keys: dict[str, Key] = {}
    intros: dict[str, str] = {}
    for stage, schema in schemas.items():
        untracked = set(untracked_keys(schema))
        for dotted, info, about, of_section in _fields(schema, "", declared_keys(schema), intros):
            known = keys.setdefault(dotted, Key(info, about))
            if of_section:  # a stage that takes the key alone may say less
                known.info, known.about = info, about
            known.about = known.about or about
            known.seen_by.append(f"({stage})" if dotted in untracked else stage)
    for stage, schema in schemas.items():
        for by in variant_keys(schema).values():
            keys[by].seen_by.append(stage)
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
    """Field → the comment behind it in the source of ``schema``."""
    source = inspect.getsource(schema)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    (body,) = ast.parse(source).body
    assert isinstance(body, ast.ClassDef)
    fields = [node for node in body.body if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)]
    return {ast.unparse(node.target): comments[line] for node in fields if (line := node.end_lineno) in comments}


def _entries(graph: Path) -> Iterator[tuple[str, str]]:
    """The keys whose entries are a stage each in dvc.yaml, by ``foreach`` or ``matrix``, with the stage."""
    for name, stage in yaml.safe_load(graph.read_text())["stages"].items():
        for template in (stage.get("foreach"), *stage.get("matrix", {}).values()):
            if template:
                yield template.removeprefix("${").removesuffix("}"), name


def _leaves(tree: Any, prefix: str, keys: Mapping[str, Key]) -> Iterator[str]:
    """The keys below ``prefix``, in the order of the file; what is no key of a schema is a section."""
    if prefix in keys:
        yield prefix
    else:
        for name, value in tree.items():
            yield from _leaves(value, f"{prefix}.{name}", keys)


def _introductions(name: str, intros: Mapping[str, str], stages: Mapping[str, None], project: Path) -> Iterator[str]:
    """The docstrings of the section's schemas, or of its stages where it has no schema of its own."""
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
    cells = (f"`{dotted}`", allowed(known.info), f"`{shown}`", _plain(known.about), ", ".join(known.seen_by))
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def allowed(info: FieldInfo) -> str:
    """The values that a field takes, in words: types, bounds and choices, from pydantic's own JSON schema."""
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
        return f"string that fits `{schema['pattern']}`" if "pattern" in schema else "string"
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
    """One line of Markdown of a docstring's reStructuredText."""
    return " ".join(text.replace("``", "`").split())


def main(arguments: list[str], project: Path) -> None:
    """Write the page, or with ``--check`` compare it.

    Raises:
        UserError: an unknown argument, or a page that is not current.
    """
    if arguments not in ([], ["--check"]):
        raise UserError(f"found {' '.join(arguments)}, expected nothing or --check")
    text, file = reference(project), project / REFERENCE
    if not arguments:
        file.write_text(text)
    elif not file.is_file() or file.read_text() != text:
        raise UserError(f"{REFERENCE}: not what the schemas say; run `python -m isoflop.project.params_reference`")


if __name__ == "__main__":
    try:
        main(sys.argv[1:], Path.cwd())
    except UserError as error:
        sys.exit(f"error: {error}")
