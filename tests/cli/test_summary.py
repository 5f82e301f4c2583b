"""``isoflop summary`` says in a screenful what the metrics files hold."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from isoflop.cli import main as cli
from isoflop.cli.summary import class_lines
from isoflop.report.formats import loss, signed_percent
from tests.report_project import VARIANTS, project
from tests.scaling_runs import edit, run_stage, write_runs

__all__ = ["project"]  # the fixture


@pytest.fixture
def finished(project: Path, tmp_path: Path) -> Path:
    """A project with all that a whole `dvc repro` leaves for the summary."""
    shutil.copytree(project, tmp_path / "finished")
    (tmp_path / "finished" / "report").mkdir()
    (tmp_path / "finished" / "report" / "index.html").touch()
    return tmp_path / "finished"


def test_the_summary_shows_variants_law_forecast_and_report(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["summary"]) == 0
    shown = capsys.readouterr().out
    lines = {line.split()[0]: line for line in shown.splitlines() if line.strip()}
    for name in VARIANTS:
        row = lines[name].replace("\u202f", " ")
        assert ("(shipped)" in row) == (name == "distilled-int8")
    assert lines["distilled-int8"].replace("\u202f", " ").split()[2:] == [
        "97.8", "%", "7", "610", "13.5", "kB", "0.0311", "ms", "3.0×",
    ]  # fmt: skip
    law, score = (json.loads((finished / "scaling" / f"{name}.json").read_text()) for name in ("scaling", "score"))
    known = law["parameters"]
    unwrapped = " ".join(shown.split())
    assert f"α = {loss(known['alpha']['value'])} (" in unwrapped
    assert f"β = {loss(known['beta']['value'])} (" in unwrapped
    held_out = next(line for line in shown.splitlines() if "(held out)" in line)
    trained = next(line for line in shown.splitlines() if "(base)" in line)
    for row, facts in ((held_out, law["held_out"]), (trained, score)):
        assert all(loss(facts[name]) in row for name in ("predicted", "low", "high", "actual"))
        assert signed_percent(facts["relative_error"]) in row
    assert "next run  " in shown and "data      " in shown
    assert lines["report"].split() == ["report", "report/index.html"]
    assert "batch size 1, 1 thread" in shown


def test_from_a_subfolder_the_report_is_named_from_there(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished / "metrics")
    assert cli.main(["summary"]) == 0
    assert "../report/index.html" in capsys.readouterr().out


@pytest.mark.parametrize(
    "name", ["metrics/variants.json", "scaling/score.json", "ship/choice.json", "report/index.html"]
)
def test_a_missing_file_is_one_line_that_says_what_to_do(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (finished / name).unlink()
    monkeypatch.chdir(finished)
    assert cli.main(["summary"]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == f"error: {name}: not found; fix: `dvc repro` writes it\n"


def test_without_the_study_the_variants_are_shown(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After `dvc repro ship`."""
    for left in ("scaling/scaling.json", "scaling/forecast.json", "scaling/score.json", "report/index.html"):
        (finished / left).unlink()
    monkeypatch.chdir(finished)
    assert cli.main(["summary"]) == 0
    shown = capsys.readouterr().out
    assert "distilled-int8 (shipped)" in shown and "study      did not run yet; `dvc repro` runs it" in shown
    assert "report     not written yet; `dvc repro report` writes it" in shown
    assert cli.main(["summary", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["scaling"] is None


def test_a_study_without_a_law_is_a_line_with_its_next_command(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = write_runs(finished / "few", widths=(8, 12, 16))
    edit(runs, 8, val_nll=2.3, train_loss=2.3)
    shutil.rmtree(finished / "scaling" / "pictures")
    run_stage(runs, finished / "scaling", (8, 12, 16))
    monkeypatch.chdir(finished)
    assert cli.main(["summary"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "distilled-int8 (shipped)" in shown and "report report/index.html" in shown
    assert "got usable runs of 2 widths (12, 16), expected at least 3; excluded: 6 undertrained; next: " in shown
    assert "`dvc exp run -S 'sweep.runs.epochs=[24,48]'`" in shown


def test_no_line_is_wider_than_100_columns(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished)
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["summary"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100 and not any("…" in line for line in lines)


def test_a_class_that_is_never_found_is_named() -> None:
    block = {"accuracy": 0.993, "balanced_accuracy": 0.5, "lowest_recall": 0.0, "lowest_recall_class": "defect"}
    ((title, line),) = class_lines(block)
    assert title == "recall" and line.startswith("never finds 'defect'; balanced accuracy 50.0\u202f%; ")
    ((_, line),) = class_lines(block | {"lowest_recall": 0.25})
    assert line.startswith("finds 25.0\u202f% of the test images of 'defect'; ")
    assert line.endswith("set recipe.class_weights: balanced and ship.metric: balanced_accuracy")
    ((_, line),) = class_lines(block, is_weighted=True)
    assert line.endswith("or raise recipe.epochs")
    assert class_lines(block | {"lowest_recall": 0.9}) == []
