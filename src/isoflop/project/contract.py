"""Holds dvc.yaml to the stages: what a stage declares is what its signature, its schema and its imports say.

``python -m isoflop.project.contract`` lists what disagrees; with ``--fix`` it also writes the code dependencies and the
parameters of every stage into dvc.yaml. Options, inputs and outputs stay the author's.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel

from isoflop.project.yaml_text import dump_graph, load
from isoflop.runtime.params import Section, tracked_keys, variant_keys
from isoflop.runtime.signature import In, Out, contract, is_varied, option
from isoflop.runtime.stage_code import CODE_SUFFIXES, checkout, code_of_stage


def code_dependencies(stage: str, root: Path) -> list[str]:
    """The code that stage ``stage`` must declare, sorted: its own module first."""
    return list(code_of_stage(stage, checkout(root)))


def violations(root: Path) -> list[str]:
    """Every disagreement between dvc.yaml and the stages of the project at ``root``, a line each."""
    stages = _load(root)["stages"]
    return [f"{name}: {line}" for name, stage in stages.items() for line in _stage_violations(name, stage, root)]


def fix(root: Path) -> None:
    """Write the code dependencies and the parameters that the stages need into dvc.yaml."""
    content = _load(root)
    for name, whole in content["stages"].items():
        stage = _body(whole)
        data = [dep for dep in stage.get("deps", []) if not str(dep).endswith(CODE_SUFFIXES)]
        stage["deps"] = [*data, *code_dependencies(name, root)]
        keys = _expected_keys(name, stage["cmd"])
        if keys != set(stage.get("params", [])):
            stage["params"] = sorted(keys)
    (root / "dvc.yaml").write_text(dump_graph(content))


def _stage_violations(name: str, whole: dict[str, Any], root: Path) -> Iterator[str]:
    main, stage = _main(name), _body(whole)
    arguments = contract(main)
    entries = {f"${{{by}}}" for kind in arguments.values() if _is_section(kind) for by in variant_keys(kind).values()}
    yield from _difference("foreach", {str(whole["foreach"])} if "foreach" in whole else set(), entries)
    options = _options(stage["cmd"])
    known = {option(argument) for argument, kind in arguments.items() if not _is_section(kind)}
    known |= {"--variant"} if is_varied(arguments) else set()
    if known != set(options):
        yield f"cmd has the options {sorted(options)}, its signature {sorted(known)}"
        return
    inputs, outputs = set(_dependency_fields(main)), set()
    for argument, kind in arguments.items():
        if kind == In or get_origin(kind) is list:
            inputs.update(options[option(argument)])
        elif kind == Out:
            outputs.update(options[option(argument)])
    declared = [str(dep) for dep in stage.get("deps", [])]
    data = {dep for dep in declared if not dep.endswith(CODE_SUFFIXES)}
    code = {dep for dep in declared if dep.endswith(CODE_SUFFIXES)}
    outs = {str(out) for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])}
    yield from _difference("data deps", data, inputs)
    yield from _difference("outs", outs, outputs)
    yield from _difference("params", set(stage.get("params", [])), _expected_keys(name, stage["cmd"]))
    yield from _difference("code deps", code, set(code_dependencies(name, root)))


def _difference(what: str, declared: set[str], needed: set[str]) -> Iterator[str]:
    if needed - declared:
        yield f"{what}: missing {', '.join(sorted(needed - declared))}"
    if declared - needed:
        yield f"{what}: needless {', '.join(sorted(declared - needed))}"


def _main(stage: str) -> Any:
    return importlib.import_module(f"stages.{stage}").main


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _expected_keys(name: str, cmd: str) -> set[str]:
    """What a stage reads of params.yaml; an entry of ``variants`` by the name that its cmd is given."""
    kinds = [kind for kind in contract(_main(name)).values() if _is_section(kind)]
    variant = _options(cmd).get("--variant")
    varied = {f"{by}.{variant[0]}" for kind in kinds for by in variant_keys(kind).values()} if variant else set()
    return varied | {key for kind in kinds for key in tracked_keys(kind)}


def _body(stage: Any) -> Any:
    """What a stage of ``foreach`` does for each, else the stage itself."""
    return stage.get("do", stage)


def _dependency_fields(main: Any) -> Iterator[str]:
    """Parameters that name a file or folder which the stage reads: marked ``dependency`` in their schema."""
    for kind in contract(main).values():
        if _is_section(kind):
            for section, info in kind.model_fields.items():
                if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
                    for field, inner in info.annotation.model_fields.items():
                        extra = inner.json_schema_extra
                        if isinstance(extra, dict) and extra.get("dependency"):
                            yield f"${{{section}.{field}}}"


def _options(cmd: str) -> dict[str, list[str]]:
    options: dict[str, list[str]] = {}
    name = ""
    for token in cmd.split()[3:]:
        if token.startswith("--"):
            name = token
            options[name] = []
        else:
            options[name].append(token)
    return options


def _load(root: Path) -> Any:
    return load((root / "dvc.yaml").read_text())


if __name__ == "__main__":
    here = Path.cwd()
    sys.path.insert(0, str(here))
    if "--fix" in sys.argv[1:]:
        fix(here)
    found = violations(here)
    sys.exit("\n".join(found) if found else 0)
