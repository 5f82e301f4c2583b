"""Changing a parameter makes exactly the stages stale that the table says: tried for every value of params.yaml."""

from __future__ import annotations

import copy
import functools
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT, run_command
from tests.staleness import leaves, stale

# Which stages a section, or a part of one, makes stale. The longest key that fits a parameter decides.
TABLE: dict[str, set[str]] = {
    "data": {"download"},
    "data.source": {"download", "ship"},
    "prepare": {"prepare"},
    "augment": {"augment"},
    "model": {"train", "sweep"},
    "model.pretrained": {"weights", "train", "sweep"},
    "recipe": {"train", "sweep", "distill", "prune", "sparsify", "qat"},
    "recipe.epochs": {"train", "sweep", "distill", "prune", "sparsify", "qat", "forecast"},
    "train": {"train"},
    "train.width": {"train", "forecast"},
    "train.fraction": {"train", "forecast"},
    "train.logger": set(),
    "evaluate": {"evaluate"},
    "sweep.runs": {"sweep"},
    "sweep.widths": {"scaling", "formats", "sweep@new"},
    "scaling": {"scaling"},
    "scaling.predict": {"forecast"},
    "distill": {"distill"},
    "prune": {"prune"},
    "sparsify": {"sparsify"},
    "qat": {"qat"},
    "variants.distill": {"distill", "compare"},
    "variants.prune": {"prune", "compare"},
    "variants.sparsify": {"sparsify", "compare"},
    "variants.qat": {"qat", "compare"},
    "variants.candidates": {"export@new", "quantize@new", "compare", "benchmark"},
    "variants.float16": {"float16@new", "compare", "benchmark"},
    "variants.tflite": {"tflite@new"},
    "export": {"export", "formats"},
    "quantize": {"quantize", "formats"},
    "benchmark": {"benchmark", "formats"},
    "ship": {"ship"},
    "demo": {"demo"},
    "demo.enabled": {"onnxruntime_web", "demo"},
}


def changed(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    if isinstance(value, list):
        return [*value, changed(value[-1])] if value else [1]
    return 1 if value is None else value + "x"


@pytest.fixture
def parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC parses params.yaml once for each stage, and dvc.yaml and dvc.lock for each status; once a text is enough."""
    from dvc.parsing import interpolate
    from dvc.utils import strictyaml
    from dvc.utils.serialize import _yaml

    parse = functools.cache(_yaml.parse_yaml)
    monkeypatch.setattr(interpolate, "parse_expr", functools.cache(interpolate.parse_expr))
    for module in (_yaml, strictyaml):
        monkeypatch.setattr(module, "parse_yaml", lambda *text, **how: copy.deepcopy(parse(*text, **how)))


@pytest.mark.usefixtures("parsed_once")
def test_each_parameter_makes_exactly_its_stages_stale(smoke: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(smoke, project, symlinks=True)
    text = (project / "params.yaml").read_text()
    params = yaml.safe_load(text)
    assert set(params) == {name.split(".")[0] for name in TABLE}, "a section that the table lacks"
    assert stale(project) == set(), "the untouched clone is stale"
    known = set(yaml.safe_load((project / "dvc.lock").read_text())["stages"])
    wrong = {}
    for path in leaves(params):
        edited = yaml.safe_load(text)
        branch = edited
        for part in path[:-1]:
            branch = branch[part]
        branch[path[-1]] = changed(branch[path[-1]])
        if path == ("data", "path"):  # it must exist to be hashed
            shutil.copytree(project / params["data"]["path"], project / edited["data"]["path"], dirs_exist_ok=True)
        (project / "params.yaml").write_text(yaml.safe_dump(edited, sort_keys=False))
        dotted = ".".join(map(str, path))
        row = max((name for name in TABLE if f"{dotted}.".startswith(f"{name}.")), key=len)
        found = {collapse(name, known) for name in stale(project)}
        expected = TABLE[row] | {"report", "study"}  # which show them all
        if found != expected:
            wrong[dotted] = {"stale": found, "expected": expected}
    assert wrong == {}


def collapse(stage: str, known: set[str]) -> str:
    """sweep@8 → sweep; a stage that the graph did not have → sweep@new."""
    return stage.partition("@")[0] + ("" if stage in known else "@new")


@pytest.mark.parametrize("preset", sorted(file.stem for file in (ROOT / "presets").glob("*.yaml")))
def test_every_preset_has_the_same_keys(preset: str) -> None:
    """A key that a preset lacks, or has alone, would be a surprise after `isoflop preset`."""

    def keys(tree: Any) -> Any:
        return {name: keys(value) for name, value in tree.items()} if isinstance(tree, dict) else None

    def sections(file: Path) -> Any:
        params = yaml.safe_load(file.read_text())
        return keys(params | {"variants": dict.fromkeys(params["variants"])})  # whose entries are the preset's own

    assert sections(ROOT / "presets" / f"{preset}.yaml") == sections(ROOT / "params.yaml")


def test_the_graph_is_valid_for_every_preset(tmp_path: Path) -> None:
    """`dvc stage list` resolves the templates with each preset's values."""
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    run_command("dvc", "init", "--no-scm", "-q", cwd=tmp_path)
    for file in sorted((ROOT / "presets").glob("*.yaml")):
        shutil.copy(file, tmp_path / "params.yaml")
        assert "report" in run_command("dvc", "stage", "list", "--name-only", cwd=tmp_path).stdout
