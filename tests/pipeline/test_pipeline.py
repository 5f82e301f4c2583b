"""The whole pipeline, for real: `dvc repro` of the smoke preset in a clone, experiments on it, and a prediction."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests.clones import executed
from tests.conftest import copy_project, run_command


def test_repro_runs_every_stage_and_a_second_one_none(smoke: Path, clone: Path) -> None:
    stages = set(yaml.safe_load((smoke / "dvc.lock").read_text())["stages"])
    assert executed((smoke / ".isoflop" / "repro.log").read_text()) == stages
    again = run_command("dvc", "repro", cwd=clone)
    assert executed(again.stdout) == set()
    assert "Data and pipelines are up to date." in again.stdout


def test_metrics_have_their_stable_names(smoke: Path) -> None:
    files = [file for folder in ("metrics", "scaling") for file in (smoke / folder).glob("*.json")]
    metrics = {file.stem: json.loads(file.read_text()) for file in files}
    assert {"data", "train", "evaluate", "scaling", "forecast", "variants", "latency"} <= set(metrics)
    assert {"accuracy", "nll", "precision", "recall", "f1", "ece"} <= set(metrics["evaluate"])
    names = ["base", "distilled", "pruned", "sparse", "qat"]
    assert list(metrics["variants"]) == [*names, *(f"{name}-int8" for name in names), "base-float16"]
    assert metrics["sparsify-sparse"]["zeros_ratio"] == pytest.approx(0.5, abs=0.01)
    assert metrics["variants"]["sparse"]["parameters"] == metrics["variants"]["pruned"]["parameters"]
    for variant in metrics["variants"].values():
        assert {"accuracy", "parameters", "macs", "bytes"} <= set(variant)
    assert metrics["variants"]["base"]["accuracy"] == pytest.approx(metrics["evaluate"]["accuracy"], abs=1e-6)
    shown = run_command("dvc", "metrics", "show", "--md", cwd=smoke).stdout
    assert "metrics/base.json" in shown and "metrics/shipped.json" in shown and "evaluate" not in shown


def test_the_shipped_model_classifies_an_image(smoke: Path, tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    files = []
    for index in range(10):  # the first ten are the digits 0 to 9, enlarged as a user's picture would be
        pixels = (digits.images[index] * 255 / 16).round().astype("uint8")
        files.append(str(tmp_path / f"{index}.png"))
        Image.fromarray(pixels).resize((80, 80), Image.Resampling.NEAREST).convert("RGB").save(files[-1])
    answer = run_command("isoflop", "predict", "ship/model.onnx", *files, "--json", "--top", "3", cwd=smoke).stdout
    predictions = json.loads(answer)["predictions"]
    assert len(predictions) == 10
    best = [prediction["top"][0]["class"] for prediction in predictions]
    assert json.loads((smoke / "metrics/evaluate.json").read_text())["accuracy"] > 0.6
    assert sum(name == str(index) for index, name in enumerate(best)) >= 6


def test_the_report_and_the_checksums_are_whole(smoke: Path) -> None:
    page = (smoke / "report/index.html").read_text()
    assert page.rstrip().endswith("</html>")
    assert "http://" not in page.replace("http://www.w3.org", "") and 'src="https' not in page
    run_command("sha256sum", "-c", "--strict", "SHA256SUMS", cwd=smoke / "ship")


def test_summary_ends_a_repro(smoke: Path) -> None:
    summary = run_command("isoflop", "summary", cwd=smoke).stdout
    for word in ("base", "distilled-int8", "pruned", "report/index.html"):
        assert word in summary


def test_another_width_leaves_the_study_alone_and_the_old_one_runs_nothing(wider: Path, tmp_path: Path) -> None:
    ran = {name.split("@")[0] for name in executed((wider / ".isoflop" / "wider.log").read_text())}
    assert {"train", "evaluate", "forecast", "distill", "prune", "export", "compare", "benchmark", "report"} <= ran
    assert not ran & {"download", "prepare", "augment", "sweep", "scaling"}
    clone = tmp_path / "clone"
    shutil.copytree(wider, clone, symlinks=True)
    width = yaml.safe_load((clone / "params.yaml").read_text())["train"]["width"]
    again = run_command("dvc", "exp", "run", "-S", "train.width=24", cwd=clone)
    assert executed(again.stdout) == set()
    compared = run_command("dvc", "metrics", "diff", cwd=clone).stdout
    assert "parameters" in compared and len(compared.splitlines()) <= 12  # a header and at most ten values
    back = run_command("dvc", "exp", "run", "-S", f"train.width={width}", cwd=clone)
    assert executed(back.stdout) == set()


def test_a_variant_more_runs_its_own_stages_alone(clone: Path) -> None:
    """What was tried before is not tried again, and every candidate is a point."""
    more = [
        "+variants.distill.small={of: base, width_ratio: 0.25, epochs: 1}",
        "variants.candidates=[base,distilled,pruned,sparse,qat,small]",
    ]
    first = run_command("dvc", "exp", "run", *(part for change in more for part in ("-S", change)), cwd=clone)
    own = {"distill@small", "export@small", "quantize@small"}
    # the times, measured anew, may have another one ship, which the demo follows
    assert executed(first.stdout) - {"demo"} == own | {"compare", "benchmark", "ship", "report", "score", "study"}
    variants = json.loads((clone / "metrics/variants.json").read_text())
    assert variants["small"]["parameters"] < variants["distilled"]["parameters"]
    points = {line.split(",")[0] for line in (clone / "plots/tradeoff.csv").read_text().split()}
    assert {"small", "small-int8"} <= points


def test_a_width_more_in_the_study_and_back_leaves_the_lock_as_it_was(clone: Path) -> None:
    before = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]
    widths = yaml.safe_load((clone / "params.yaml").read_text())["sweep"]["widths"]
    more = run_command("dvc", "exp", "run", "-S", f"sweep.widths={[*widths, max(widths) + 4]}", cwd=clone)
    assert {name for name in executed(more.stdout) if name.startswith("sweep")} == {f"sweep@{max(widths) + 4}"}
    back = run_command("dvc", "exp", "run", "-S", f"sweep.widths={widths}", cwd=clone)
    assert executed(back.stdout) <= {"scaling"}  # its folder of runs had one more
    assert yaml.safe_load((clone / "dvc.lock").read_text())["stages"]["scaling"] == before["scaling"]
    assert executed(run_command("dvc", "repro", cwd=clone).stdout) == set()


@pytest.mark.parametrize("width", ["0", "-3", "8.5", "wide"])
def test_a_width_of_the_study_that_is_none_is_named(clone: Path, width: str) -> None:
    options = ["--train", "t", "--val", "v", "--views", "w", "--runs", "r.json", "--network", "n"]
    command = [sys.executable, "-m", "stages.sweep", f"--width={width}", *options]
    failed = run_command(*command, cwd=clone, check=False)
    said = f"error: sweep: params.yaml: sweep.widths: got '{width}', expected integers from 1 to 99999\n"
    assert (failed.returncode, failed.stderr) == (1, said)


def test_the_default_reaches_98_percent(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "digits", preset="digits")
    run_command("dvc", "repro", "evaluate", cwd=project)
    evaluated = json.loads((project / "metrics/evaluate.json").read_text())
    assert evaluated["accuracy"] >= 0.98


def test_plots_are_shown_by_dvc(clone: Path) -> None:
    run_command("dvc", "plots", "show", "--out", "shown", cwd=clone)
    page = (clone / "shown" / "index.html").read_text()
    for plot in ("Confusion", "Training_loss", "Scaling_law", "Accuracy_against_latency"):
        assert plot in page


def test_a_failing_stage_names_the_key_and_keeps_what_came_before(clone: Path) -> None:
    params = (clone / "params.yaml").read_text()
    (clone / "params.yaml").write_text(params.replace("  ece_bins: 15", "  ece_bins: many"))
    before = (clone / "models/base/weights.safetensors").read_bytes()
    failed = run_command("dvc", "repro", cwd=clone, check=False)
    assert failed.returncode != 0
    assert "params.yaml: evaluate.ece_bins: got 'many' (string), expected a valid integer" in failed.stderr
    assert "Traceback" not in failed.stderr
    assert (clone / "models/base/weights.safetensors").read_bytes() == before
    (clone / "params.yaml").write_text(params)
    assert executed(run_command("dvc", "repro", cwd=clone).stdout) == set()


def test_check_finds_a_mistake_before_any_stage_runs(tmp_path: Path) -> None:
    project = copy_project(tmp_path / "project")
    params = (project / "params.yaml").read_text()
    (project / "params.yaml").write_text(params.replace("  objective: latency", "  objective: speed"))
    done = run_command("isoflop", "check", cwd=project, check=False)
    assert done.returncode != 0
    assert "ship.objective: got 'speed' (string), expected" in done.stderr
    assert done.stderr.count("\n") == 1
