"""``isoflop plan``: compute-optimal training for a budget, loss, size or latency, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isoflop.cli import main as cli
from tests.scaling_runs import run_stage, write_runs


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with a law and measured latencies."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "dvc.yaml").touch()
    run_stage(write_runs(folder / "runs", spread=0.005), folder / "scaling")
    (folder / "metrics").mkdir()
    timed = {
        "conditions": {"headline": "cell"},
        "base": {"cell": {"p50_ms": 0.4}},
        "distilled": {"cell": {"p50_ms": 0.1}},
        "pruned": {"cell": {"p50_ms": 0.05}},
        "distilled-int8": {"cell": {"p50_ms": 0.01}},
    }
    (folder / "metrics" / "latency.json").write_text(json.dumps(timed))
    sizes = {
        "base": {"network": "base", "made_by": "train", "parameters": 40_000},
        "distilled": {"network": "distilled", "made_by": "distill", "parameters": 10_000},
        "pruned": {"network": "pruned", "made_by": "prune", "parameters": 20_000},
        "distilled-int8": {"network": "distilled", "made_by": "distill", "parameters": 10_000},
        "untimed": {"network": "untimed", "made_by": "distill", "parameters": 30_000},
    }
    (folder / "metrics" / "variants.json").write_text(json.dumps(sizes))
    return folder


def planned(project: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main(["plan", *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_plan_for_a_budget_a_loss_a_size_and_a_latency(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    best = planned(project, capsys, "--flops", "1e11")
    assert best["loss_interval"][0] < best["loss"] < best["loss_interval"][1]
    assert best["parameters_interval"][0] < best["parameters"] < best["parameters_interval"][1]
    by_loss = planned(project, capsys, "--loss", str(best["loss"]))
    assert by_loss["flops"] == pytest.approx(1e11, rel=0.02)
    by_size = planned(project, capsys, "--parameters", str(best["parameters"]))
    assert by_size["loss"] == pytest.approx(best["loss"], rel=0.01)
    assert planned(project, capsys, "--latency-ms", "0.2")["parameters"] == pytest.approx(20_000, rel=0.02)
    assert cli.main(["plan", "--flops", "1e11"]) == 0
    shown = capsys.readouterr().out
    assert "planned budget (1e11 FLOPs): width" in shown and "95 % intervals of the loss: law" in shown


def test_plan_errors(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(project)
    assert cli.main(["plan", "--loss", "1e-6"]) == 1
    assert "which no budget reaches by the law L(N, D)" in capsys.readouterr().err
    assert cli.main(["plan", "--flops", "-3"]) == 2
    assert "--flops: got '-3', expected a positive number" in capsys.readouterr().err
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "--flops", "1e11"]) == 1
    assert capsys.readouterr().err == "error: scaling/law.json: not found; fix: `dvc repro` writes it\n"
    (tmp_path / "scaling").mkdir()
    (tmp_path / "scaling" / "law.json").write_text("{}")
    assert cli.main(["plan", "--flops", "1e11"]) == 1
    assert "law.json: not a readable law" in capsys.readouterr().err


def test_plan_of_a_law_without_a_compute_optimal_size_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").touch()
    run_stage(write_runs(tmp_path / "runs", fractions=(1.0,), spread=0.005), tmp_path / "scaling")
    monkeypatch.chdir(tmp_path)
    for asked in ("--flops", "--loss", "--parameters"):
        assert cli.main(["plan", asked, "0.5"]) == 1
        assert "law L(N) = E + A/N^α: has no best size" in capsys.readouterr().err
