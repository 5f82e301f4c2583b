"""Each stage, run in an empty folder with only what it declares, makes its outputs, the same bytes, nothing else."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from isoflop.runtime.params import Section, untracked_keys, value_at
from isoflop.runtime.signature import contract
from isoflop.runtime.stage_code import CODE_STAGE, checkout, code_of_stage, import_closure, is_runtime
from tests.conftest import ROOT, run_command

EXTRAS = {"tflite"}  # whose package is no development dependency


def stage_names() -> list[Any]:
    """Every stage of the smoke preset's graph; of those that one template makes, all but the first are nightly."""
    graph = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((ROOT / "presets" / "smoke.yaml").read_text())
    names: list[Any] = []
    for name, stage in graph.items():
        if name == CODE_STAGE:  # whose input is all code
            continue
        template = stage.get("foreach") or next(iter(stage.get("matrix", {}).values()), None)
        if template is None:
            names.append(name)
            continue
        section, key = template.removeprefix("${").removesuffix("}").split(".")
        items = params[section][key]
        if name in EXTRAS:
            continue
        assert len(items), f"{template}: the smoke preset should have some"
        first, *others = (f"{name}@{item}" for item in items)
        names += [first, *(pytest.param(other, marks=pytest.mark.nightly) for other in others)]
    return names


# Times are measured anew each time, so what follows from them may differ; all else must not.
MEASURED = {"benchmark", "formats", "ship", "report", "study"}
MEASURED_FILES = {Path("metrics/throughput.json")}


@pytest.mark.parametrize("name", stage_names())
def test_stage_needs_and_makes_only_what_it_declares(smoke: Path, tmp_path: Path, name: str) -> None:
    stage = yaml.safe_load((smoke / "dvc.lock").read_text())["stages"][name]
    code = checkout(smoke)
    every = [code.name(file) for folder in (code.package, code.stages) for file in folder.rglob("*.py")]
    needed = [*filter(is_runtime, every), *code_of_stage(name.partition("@")[0], code), "code.yaml"]
    if "whole_params=True" in (code.stages / f"{name.partition('@')[0]}.py").read_text():
        needed += import_closure(code.package / "project" / "checking.py", code)  # by name: its code decides no result
    for dependency in [*(dep["path"] for dep in stage.get("deps", [])), *needed]:
        copy(smoke / dependency, tmp_path / dependency)
    params = stage.get("params", {}).get("params.yaml", {})
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(nested(params | harmless(name.partition("@")[0], smoke))))
    before = files(tmp_path)

    run_command("sh", "-c", stage["cmd"], cwd=tmp_path, PYTHONDONTWRITEBYTECODE="1")

    made = files(tmp_path) - before
    outputs = [Path(out["path"]) for out in stage["outs"]]
    strays = {file for file in made if not any(file == out or out in file.parents for out in outputs)}
    assert not strays, "written beside the declared outputs"
    expected = {file for file in files(smoke) if any(file == out or out in file.parents for out in outputs)}
    assert made == expected
    if name not in MEASURED:
        same = sorted(made - MEASURED_FILES)
        different = [file for file in same if (tmp_path / file).read_bytes() != (smoke / file).read_bytes()]
        assert not different, "the same inputs gave other bytes in another folder"


def harmless(stage: str, smoke: Path) -> dict[str, Any]:
    """What a stage reads of params.yaml beyond what it declares, as it can change no output."""
    content = yaml.safe_load((smoke / "params.yaml").read_text())
    kinds = contract(importlib.import_module(f"stages.{stage}").main).values()
    schemas = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Section)]
    return {key: value_at(content, key, smoke) for schema in schemas for key in untracked_keys(schema)}


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)


def nested(params: dict[str, Any]) -> dict[str, Any]:
    """{"train.width": 8} → {"train": {"width": 8}}"""
    tree: dict[str, Any] = {}
    for dotted, value in params.items():
        *parents, last = dotted.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
        branch[last] = value
    return tree


def files(folder: Path) -> set[Path]:
    """All files below ``folder``, but for git's, DVC's and isoflop's own state."""
    own = {".git", ".dvc", ".isoflop"}
    return {
        path.relative_to(folder)
        for path in folder.rglob("*")
        if path.is_file() and path.relative_to(folder).parts[0] not in own
    }
