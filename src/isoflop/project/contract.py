"""Checks dvc.yaml against the stages: a stage declares what its signature and its schema say.

``python -m isoflop.project.contract`` lists what disagrees. With ``--fix`` it first writes the params of every stage
into dvc.yaml; options, inputs and outputs are the author's.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_origin

from pydantic import BaseModel

from isoflop.project.yaml_text import dump_graph, flow, flow_mapping, load
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_atomically
from isoflop.runtime.params import Section, tracked_keys, variant_keys
from isoflop.runtime.signature import In, Out, contract, is_varied, option
from isoflop.runtime.stage_code import CODE_FILE, CODE_STAGE

_MOST_ON_A_LINE = 5  # params


def violations(root: Path) -> list[str]:
    """Return every disagreement between dvc.yaml and the stages of the project at ``root``, one line each."""
    stages = _load(root)["stages"]
    return [f"{name}: {line}" for name, stage in stages.items() for line in _stage_violations(name, stage, root)]


def fix(root: Path) -> None:
    """Write the params that the stages need into dvc.yaml."""
    content = _load(root)
    for name, whole in content["stages"].items():
        stage = _body(whole)
        keys = _expected_keys(name, stage["cmd"])
        if keys != _param_keys(stage.get("params", [])):
            _set_params(stage, name, keys)
    write_atomically(root / "dvc.yaml", dump_graph(content))


def _set_params(stage: Any, name: str, keys: set[str]) -> None:
    """Write the keys of a stage, on one line if they are few, below its command."""
    own = sorted(key for key in keys if not key.startswith(f"{CODE_FILE.name}:"))
    digest = [flow_mapping({CODE_FILE.name: flow([f"stages.{name}"])})] if name != CODE_STAGE else []
    params = [*own, *digest]
    if "params" not in stage:
        stage.insert(list(stage).index("cmd") + 1, "params", None)
    stage["params"] = params if len(params) > _MOST_ON_A_LINE else flow(params)


def _stage_violations(name: str, whole: dict[str, Any], root: Path) -> Iterator[str]:
    stage = _body(whole)
    command = str(stage["cmd"]).split()
    if command[:3] != ["python", "-m", f"stages.{name}"]:
        yield f"cmd: got {' '.join(command[:3])}, expected python -m stages.{name}, whose code its digest is of"
        return
    main = _main(name)
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
    outs = {name for kind in ("outs", "metrics", "plots") for name in _out_paths(stage.get(kind, []))}
    yield from _difference("deps", {str(dep) for dep in stage.get("deps") or []}, inputs)
    yield from _difference("outs", outs, outputs)
    yield from _difference("params", _param_keys(stage.get("params", [])), _expected_keys(name, stage["cmd"]))


def _out_paths(outs: Iterable[Any]) -> Iterator[str]:
    for out in outs:  # a path, or a path with its options
        yield from map(str, out) if isinstance(out, dict) else [str(out)]


def _param_keys(params: Iterable[Any]) -> set[str]:
    """Return the keys of params.yaml, and those of another file as ``FILE:KEY``."""
    keys = set()
    for item in params:
        keys |= {f"{file}:{key}" for file, names in item.items() for key in names} if isinstance(item, dict) else {item}
    return keys


def _difference(what: str, declared: set[str], needed: set[str]) -> Iterator[str]:
    if needed - declared:
        yield f"{what}: missing {', '.join(sorted(needed - declared))}"
    if declared - needed:
        yield f"{what}: needless {', '.join(sorted(declared - needed))}"


def _main(stage: str) -> Any:
    try:
        return importlib.import_module(f"stages.{stage}").main
    except ModuleNotFoundError as error:
        raise UserError(
            f"dvc.yaml: stage {stage}: got no module for it ({error}), expected stages/{stage}.py"
        ) from None


def _is_section(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Section)


def _expected_keys(name: str, cmd: str) -> set[str]:
    """What a stage reads of params.yaml; an entry of ``variants`` by the name that its cmd is given."""
    kinds = [kind for kind in contract(_main(name)).values() if _is_section(kind)]
    variant = _options(cmd).get("--variant")
    varied = {f"{by}.{variant[0]}" for kind in kinds for by in variant_keys(kind).values()} if variant else set()
    digest = {f"{CODE_FILE.name}:stages.{name}"} if name != CODE_STAGE else set()
    return digest | varied | {key for kind in kinds for key in tracked_keys(kind)}


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
        elif name:
            options[name].append(token)
        else:
            raise UserError(f"dvc.yaml: cmd: got the argument {token!r}, expected options alone: {cmd}")
    return options


def _load(root: Path) -> Any:
    return load((root / "dvc.yaml").read_text())


if __name__ == "__main__":
    here = Path.cwd()
    sys.path.insert(0, str(here))
    if sys.argv[1:] not in ([], ["--fix"]):
        sys.exit(f"error: got {' '.join(sys.argv[1:])}, expected no argument or --fix")
    try:
        if sys.argv[1:]:
            fix(here)
        found = violations(here)
    except UserError as error:
        sys.exit(f"error: {error}")
    sys.exit("\n".join(found) if found else 0)
