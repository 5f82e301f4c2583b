"""``isoflop plan``: compute-optimal training for a budget, loss, size or latency, and its errors."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from isoflop.cli import main as cli
from isoflop.project import yaml_text
from isoflop.report.formats import count
from isoflop.scaling.formats import read_formats
from isoflop.scaling.forms import L_ND
from tests.scaling_runs import (
    LAW,
    WIDTHS,
    loss_at,
    run_stage,
    size,
    write_formats,
    write_runs,
    write_smaller,
)


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


def loss_at_size(parameters: float, images: float) -> float:
    return float(L_ND.predict(LAW[None], np.array([[parameters], [images]]))[0, 0])


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
    assert "measured" not in shown  # the project has no params.yaml


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


def answered_by_runs(project: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    found = planned(project, capsys, *arguments)
    assert found["measured"]["command"] in shown_plan(capsys, *arguments)
    return {"reason": found["reason"], **found["measured"]}


def shown_plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert cli.main(["plan", *arguments]) == 0
    return capsys.readouterr().out


def studied(project: Path, widths: tuple[int, ...] = WIDTHS, untrained: int | None = None, **runs: Any) -> Path:
    """A project with a study, its parameters, and a timed training of 1e9 FLOP/s and 1,000 images/s.

    The runs of width ``untrained`` are no better than chance.
    """
    (project / "dvc.yaml").touch()
    write_runs(project / "runs", widths, spread=0.005, **runs)
    if untrained:
        file = project / "runs" / f"width-{untrained}.json"
        content = json.loads(file.read_text())
        content["runs"] = [row | {"val_nll": 2.3, "train_loss": 2.3} for row in content["runs"]]
        file.write_text(json.dumps(content))
    run_stage(project / "runs", project / "scaling", widths)
    made = {"fractions": [1.0], "epochs": [12], "budgets": [], "seeds": [0, 1]}
    (project / "params.yaml").write_text(yaml.safe_dump({"sweep": {"widths": list(widths), "runs": made}}))
    (project / "metrics").mkdir()
    (project / "metrics" / "throughput.json").write_text('{"images_per_s": 1000, "flops_per_s": 1e9}')
    return project


def test_where_the_law_has_no_best_size_the_runs_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studied(tmp_path, fractions=(1.0,)))
    spent = {width: 12 * 1220 * 384 * size(width) for width in WIDTHS}  # FLOPs of a run
    budget = 1.1 * spent[16]
    found = answered_by_runs(tmp_path, capsys, "--flops", f"{budget:.6g}")
    assert "law L(N) = E + A/N^α: has no best size" in found["reason"]
    assert found["best"]["width"] == 16 and found["best"]["seeds"] == 2 and found["meets_goal"]
    assert found["command"] == f"dvc exp run -S 'sweep.runs.budgets=[{budget:.3g}]' scaling".replace("e+", "e")
    old = 2 * sum(max(12 * 1220 / 1000, flops / 1e9) for flops in spent.values())
    new = 2 * sum(max(budget / (384 * size(width)) / 1000, budget / 1e9) for width in WIDTHS)
    assert found["seconds"] == pytest.approx(old + new, rel=0.01)  # the runs of a width are one stage
    by_loss = planned(tmp_path, capsys, "--loss", str(loss_at(12, 1220) * 1.02))  # which the law answers, too
    assert by_loss["measured"]["best"]["width"] == 12
    assert planned(tmp_path, capsys, "--parameters", str(size(12) + 5))["measured"]["best"]["width"] == 12
    assert answered_by_runs(tmp_path, capsys, "--latency-ms", "1")["best"]["width"] == 32  # no benchmark tells sizes
    small = answered_by_runs(tmp_path, capsys, "--flops", "10")
    assert small["best"]["width"] == 8 and not small["meets_goal"]
    assert "no run meets the goal; nearest: width 8" in shown_plan(capsys, "--flops", "10")


def test_a_study_without_a_law_answers_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studied(tmp_path, widths=(8, 16, 24), untrained=24))
    capsys.readouterr()  # what the stage printed
    found = answered_by_runs(tmp_path, capsys, "--flops", "1e12")
    assert "got usable runs of 2 widths (8, 16)" in found["reason"]
    assert found["command"] == "dvc exp run -S 'sweep.runs.epochs=[24,48]' scaling" and found["best"]["width"] == 16
    seen = (24 + 48) * 1220
    longer = 2 * sum(max(seen / 1000, seen * 384 * size(width) / 1e9) for width in (8, 16, 24))
    assert found["seconds"] == pytest.approx(longer, rel=0.01)


def test_a_law_that_answers_is_followed_by_the_best_measured_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studied(tmp_path))
    shown = shown_plan(capsys, "--flops", "1e11")
    assert shown.startswith("planned budget (1e11 FLOPs): width") and "\nbest measured: width" in shown


def test_the_image_size_is_chosen_by_the_law_of_each_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studied(tmp_path))
    write_smaller(tmp_path / "runs", {24: 1.1, 16: 1.6}, 32)
    law = json.loads((tmp_path / "scaling" / "law.json").read_text())
    metrics = run_stage(tmp_path / "runs", tmp_path / "sizes")
    assert json.loads((tmp_path / "sizes" / "law.json").read_text()).items() >= law.items()
    assert [row["image_size"] for row in metrics["image_sizes"]] == [16, 24, 32]
    assert [len(row["points"]) for row in metrics["image_sizes"]] == [5, 5, 5]
    assert (tmp_path / "sizes" / "pictures" / "image_sizes.svg").is_file()
    shutil.rmtree(tmp_path / "scaling")
    (tmp_path / "sizes").rename(tmp_path / "scaling")
    # at large budgets the loss decides, at small ones that smaller images leave FLOPs for a wider network
    assert sizes_of(tmp_path, capsys, "--flops", "1e15") == (32, True, [16, 24, 32])
    assert (sizes_of(tmp_path, capsys, "--flops", "3e9") or [32])[0] < 32
    assert sizes_of(tmp_path, capsys, "--parameters", "60000") == (32, True, [16, 24, 32])
    assert (sizes_of(tmp_path, capsys, "--loss", "0.5") or [32])[0] < 32
    assert "\nimage size: 32 pixels; predicted loss: 16 pixels " in shown_plan(capsys, "--flops", "1e15")


def test_without_laws_the_runs_choose_the_image_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(studied(tmp_path, widths=(8, 16, 24), untrained=24))
    assert sizes_of(tmp_path, capsys, "--flops", "1e12") is None
    write_smaller(tmp_path / "runs", {24: 1.002, 16: 1.3}, 32, widths=(8, 16, 24))
    assert sizes_of(tmp_path, capsys, "--flops", "1e12") == (24, False, [16, 24, 32])  # within 1 % of the lowest loss


def sizes_of(project: Path, capsys: pytest.CaptureFixture[str], *goal: str) -> tuple[int, bool, list[int]] | None:
    """The image size of a plan, whether a law chose it, and the sizes compared; None: no size is named."""
    capsys.readouterr()
    choice = planned(project, capsys, *goal)["measured"]["image_size"]
    return choice and (choice["chosen"], choice["by_law"], [one["image_size"] for one in choice["sizes"]])


def test_a_law_of_one_axis_predicts_instead_of_optimizing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").touch()
    run_stage(write_runs(tmp_path / "runs", fractions=(1.0,), spread=0.005), tmp_path / "scaling")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "--flops", "0.5"]) == 1
    assert "law L(N) = E + A/N^α: has no best size" in capsys.readouterr().err
    at_size = planned(tmp_path, capsys, "--parameters", "60000")
    assert at_size["interval"][0] < at_size["predicted"] < at_size["interval"][1] and at_size["trusted"]
    back = planned(tmp_path, capsys, "--loss", str(at_size["predicted"]))
    assert back["levels"]["parameters"] == pytest.approx(60_000, rel=0.01)
    assert cli.main(["plan", "--loss", "1e-9"]) == 1
    assert "--loss: got 1e-09, which no level reaches" in capsys.readouterr().err


def test_a_law_answers_outside_of_any_project(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    law = ["--law", str(project / "scaling" / "law.json")]
    answer = planned(project, capsys, *law, "--parameters", "40000", "--samples", "900")
    assert answer["levels"]["unique_samples"] == 900 and answer["levels"]["seen_samples"] == 12 * 900
    assert answer["predicted"] == pytest.approx(loss_at_size(40_000, 900), rel=0.02) and answer["trusted"]
    assert planned(project, capsys, *law, "--flops", "1e11")["parameters"] > 0
    assert cli.main(["plan", *law, "--samples", "900"]) == 1
    assert "got no --parameters, on which the loss depends" in capsys.readouterr().err
    assert cli.main(["plan", *law, "--latency-ms", "1"]) == 1
    assert "--latency-ms: got no project" in capsys.readouterr().err
    assert cli.main(["plan", *law]) == 2
    assert "Exactly 1 of {--flops, --loss, --parameters" in capsys.readouterr().err
    assert cli.main(["plan", "--law", "none.json", "--flops", "1e11"]) == 1
    assert capsys.readouterr().err.startswith("error: none.json: not found")


PARAMS = """# a comment
train:
  width: 16  # of the base
  fraction: 1.0
recipe:
  epochs: 3
variants:
  distill:
    distilled: {of: base}
  prune: {}
  sparsify: {}
  qat: {}
  candidates: [base, distilled]
  float16: []
  tflite: [distilled]
ship:
  objective: latency
  max_latency_ms: null
"""


@pytest.fixture
def apply(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project with params.yaml and a measured throughput, whose study varies the epochs."""
    for name in ("metrics", "dvc.yaml"):
        source = project / name
        shutil.copytree(source, tmp_path / name) if source.is_dir() else shutil.copy(source, tmp_path / name)
    run_stage(write_runs(tmp_path / "runs", epochs=(3, 6, 12, 24), spread=0.005), tmp_path / "scaling")
    (tmp_path / "metrics" / "throughput.json").write_text('{"flops_per_s": 1e8}')
    (tmp_path / "params.yaml").write_text(PARAMS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_apply_writes_the_plan_and_says_what_to_expect(apply: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--latency-ms", "0.2", "--hours", "1", "--apply"]) == 0
    shown = capsys.readouterr().out
    text = (apply / "params.yaml").read_text()
    params = yaml_text.load(text)
    assert params["variants"]["candidates"] == [
        "base",
        "distilled",
    ]  # no file is forecast
    assert "# a comment" in text and "# of the base" in text and params["ship"]["max_latency_ms"] == 0.2
    assert params["train"]["width"] == 16  # the largest of at most 20,000 parameters, those of 0.2 ms
    flops = 384.0 * size(16) * 1220 * params["recipe"]["epochs"]
    assert flops == pytest.approx(3600 * 1e8, rel=0.1)  # the budget that the time pays for
    assert "params.yaml: train.width 16, train.fraction 1.0, recipe.epochs" in shown and "predicted loss" in shown
    (apply / "params.yaml").write_text(PARAMS)
    assert cli.main(["plan", "--hours", "0.1", "--apply"]) == 0
    assert yaml_text.load((apply / "params.yaml").read_text())["ship"]["max_latency_ms"] is None


def test_limits_of_the_file_choose_width_and_format(apply: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_formats(apply / "scaling" / "formats.json")
    formats = read_formats(apply / "scaling" / "formats.json")
    assert formats is not None
    shutil.rmtree(apply / "runs")  # params.yaml has no sweep
    found = planned(apply, capsys, "--latency-ms", "0.2")
    widest = formats.widest("int8", 0.2, None) or 0
    assert widest > (formats.widest("float", 0.2, None) or 0)  # INT8 is twice as fast here
    assert found["parameters"] == pytest.approx(size(widest), rel=0.02)
    assert found["formats"]["int8"]["latency_ms"]["high"] <= 0.2 < found["formats"]["float"]["latency_ms"]["high"]
    assert cli.main(["plan", "--bytes", "60000", "--hours", "1", "--apply"]) == 0
    shown, params = capsys.readouterr().out, yaml_text.load((apply / "params.yaml").read_text())
    width = params["train"]["width"]
    assert width == formats.widest("int8", None, 60_000) and params["ship"] == {
        "objective": "bytes", "max_latency_ms": None
    }  # fmt: skip
    assert f"bytes {count(size(width) + 40 * width + 6_000)} (" in shown
    assert params["variants"]["candidates"] == ["base"] and params["variants"]["distill"] == {}
    assert "variants distilled removed, for which there is no forecast" in shown
    assert f"file of width {width} in INT8: " in shown and "validation accuracy" in shown
    assert cli.main(["plan", "--bytes", "60000", "--latency-ms", "0.2", "--apply"]) == 0
    both = yaml_text.load((apply / "params.yaml").read_text())["ship"]
    assert both == {"objective": "bytes", "max_latency_ms": 0.2}, "the fastest file might be too large"
    for arguments, message in (
        (["--bytes", "100"], "--bytes: got 100, expected at least"),
        (["--bytes", "7000", "--latency-ms", "0.000001"], "--latency-ms: got 1e-06, expected at least"),
    ):
        assert cli.main(["plan", *arguments, "--apply"]) == 1
        assert message in capsys.readouterr().err


def test_bytes_need_the_measured_formats(apply: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "--bytes", "60000", "--apply"]) == 1
    assert "--bytes: got no scaling/formats.json" in capsys.readouterr().err
    assert cli.main(["plan", "--latency-ms", "1", "--flops", "1e11", "--hours", "1"]) == 2
    assert cli.main(["plan", "--latency-ms", "1", "--parameters", "100"]) == 2


def test_a_budget_buys_images_if_the_study_varies_only_these(apply: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("runs", "scaling"):
        shutil.rmtree(apply / name)
    run_stage(write_runs(apply / "runs", spread=0.005), apply / "scaling")  # of one length: 12 epochs
    assert cli.main(["plan", "--flops", "2e10", "--apply"]) == 0
    params = yaml_text.load((apply / "params.yaml").read_text())
    images = params["train"]["fraction"] * 1220
    assert 0 < params["train"]["fraction"] < 1 and params["recipe"]["epochs"] == 12
    assert 384.0 * size(params["train"]["width"]) * 12 * images == pytest.approx(2e10, rel=0.01)
    assert f"train.fraction {params['train']['fraction']}" in capsys.readouterr().out
    assert cli.main(["plan", "--flops", "1e13", "--apply"]) == 0
    assert yaml_text.load((apply / "params.yaml").read_text())["train"]["fraction"] == 1.0
    assert "more images would use all of it" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--parameters", "40000", "--samples", "900"], "--apply: got a single training, expected a goal"),
        (["--latency-ms", "0.001", "--hours", "1"], "--apply: got a plan for"),
    ],
)
def test_a_plan_that_cannot_be_applied_changes_nothing(
    apply: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert cli.main(["plan", *arguments, "--apply"]) == 1
    assert message in capsys.readouterr().err and (apply / "params.yaml").read_text() == PARAMS
