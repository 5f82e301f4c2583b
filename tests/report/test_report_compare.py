"""Compare two real experiments: the page of `isoflop report --compare` and DVC's own plots."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from isoflop.cli import main as cli
from isoflop.report.compare import differing_metrics, differing_params, draw_tradeoffs, flat, headlines
from isoflop.report.revisions import Run
from tests.conftest import made_once, run_command
from tests.report_project import outline, words


@pytest.fixture(scope="module")
def compared(smoke: Path, shared_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The smoke project with two experiments (width, epochs) that run the pipeline up to ``evaluate``."""

    def make(clone: Path) -> None:
        shutil.copytree(smoke, clone, symlinks=True)
        for name, change in (("narrow", "train.width=8"), ("longer", "recipe.epochs=8")):
            run_command("dvc", "exp", "run", "--name", name, "-S", change, "evaluate", cwd=clone)
            run_command("git", "checkout", "-q", ".", cwd=clone)
        run_command("dvc", "checkout", "-q", cwd=clone)

    clone = tmp_path_factory.mktemp("compared") / "clone"  # the tests write pages into it
    shutil.copytree(made_once(shared_folder / "compared", make), clone, symlinks=True)
    return clone


def page_of(project: Path, monkeypatch: pytest.MonkeyPatch, *revisions: str) -> str:
    monkeypatch.chdir(project)
    assert cli.main(["report", "--compare", *revisions, "--out", "seen/page.html"]) == 0
    return (project / "seen" / "page.html").read_text()


def test_two_experiments_side_by_side(
    compared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = page_of(compared, monkeypatch, "narrow", "longer")
    assert capsys.readouterr().out == "seen/page.html: narrow and longer\n"
    parsed, text = outline(page), words(page)
    assert "http:" not in page and "https:" not in page and len(page) < 5_000_000
    assert all(source.startswith("data:") for source in parsed.sources)
    sections = [attributes["id"] for tag, attributes in parsed.attributes if tag == "section"]
    assert sections == ["params", "headlines", "curves", "tradeoffs", "metrics"]
    rows = dict(re.findall(r'<tr><th scope="row">([\w.]+)</th>((?:<td>[^<]*</td>)+)</tr>', page))
    width, epochs = (yaml.safe_load((compared / "params.yaml").read_text())[a][b] for a, b in
                     (("train", "width"), ("recipe", "epochs")))  # fmt: skip
    assert rows["train.width"] == f"<td>8</td><td>{width}</td>"
    assert rows["recipe.epochs"] == f"<td>{epochs}</td><td>8</td>"
    assert "recipe.batch_size" not in rows
    assert rows["train.steps"] == f"<td>{10 * epochs}</td><td>80</td>"
    assert re.search(r"Paired comparison of the base models, B − A: test accuracy \+\d+\.\d+ pp", text)
    assert len(re.findall("over epochs; A: from .*?; B: from ", page)) == 3
    drawings = [
        attributes["aria-label"] or "" for _, attributes in parsed.attributes if attributes.get("role") == "img"
    ]
    # both ran up to `evaluate`, so what they measured of the variants is older than their parameters
    assert any("A base-int8 (stale): " in drawn and "B base-int8 (stale): " in drawn for drawn in drawings)


def test_one_revision_is_compared_with_the_workspace(compared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = words(page_of(compared, monkeypatch, "HEAD"))
    assert "HEAD (commit " in text and "workspace" in text
    assert "All parameters are the same." in text and "No metric differs, apart from timings." in text
    assert "The difference is not significant." in text


def test_the_page_is_the_same_each_time_and_nothing_is_checked_out(
    compared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = page_of(compared, monkeypatch, "narrow", "HEAD")
    assert page_of(compared, monkeypatch, "narrow", "HEAD") == first
    shutil.rmtree(compared / "seen")
    assert run_command("git", "status", "--porcelain", cwd=compared).stdout == ""


def test_dvc_plots_diff_overlays_both_experiments(compared: Path) -> None:
    shown = json.loads(run_command("dvc", "plots", "diff", "narrow", "longer", "--json", cwd=compared).stdout)["data"]
    assert list(shown) == [
        "Training loss", "Validation NLL", "Validation accuracy", "Confusion", "Scaling law",
        "Accuracy against latency", "Accuracy against bytes",
    ]  # fmt: skip
    for name, (plot,) in shown.items():
        spec = plot["content"] if isinstance(plot["content"], dict) else json.loads(plot["content"])
        rows = spec["data"]["values"]
        assert {row["rev"] for row in rows} == {"narrow", "longer"}, name
        assert "<DVC_METRIC" not in json.dumps(spec), name
        if name != "Confusion":  # it is not overlaid
            assert spec["encoding"]["color"]["scale"]["domain"] == ["narrow", "longer"], name
    epochs = [sum(row["rev"] == rev for row in values(shown["Training loss"])) for rev in ("narrow", "longer")]
    assert epochs[1] == 8 > epochs[0]
    law = shown["Scaling law"][0]["content"]
    spec = law if isinstance(law, dict) else json.loads(law)
    assert spec["encoding"]["x"]["scale"]["type"] == spec["encoding"]["y"]["scale"]["type"] == "log"
    assert {row["field"] for row in values(shown["Scaling law"])} == {"loss", "predicted"}
    assert {row["variant"] for row in values(shown["Accuracy against bytes"])} > {"base", "base-int8"}


def values(plots: list[dict[str, Any]]) -> list[dict[str, Any]]:
    content = plots[0]["content"]
    spec = content if isinstance(content, dict) else json.loads(content)
    rows: list[dict[str, Any]] = spec["data"]["values"]
    return rows


@pytest.mark.parametrize(
    ("revisions", "expected"),
    [
        (["nonsense"], "error: --compare nonsense: no such revision or experiment; "),
        (["HEAD~1", "HEAD"], "error: --compare HEAD~1: dvc.lock: not found in that commit; fix: run `dvc repro`, "),
        (["HEAD"] * 7, "error: --compare: got 7 runs, expected at most 6"),
    ],
)
def test_an_impossible_comparison_is_a_one_line_error(
    compared: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    revisions: list[str],
    expected: str,
) -> None:
    monkeypatch.chdir(compared)
    assert cli.main(["report", "--compare", *revisions, "--out", "none.html"]) == 1
    error = capsys.readouterr().err
    assert error.startswith(expected) and error.count("\n") == 1 and not (compared / "none.html").exists()


def test_results_missing_from_the_cache_are_a_one_line_error(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(compared, tmp_path / "clone", symlinks=True)
    shutil.rmtree(tmp_path / "clone" / ".dvc" / "cache" / "files")
    monkeypatch.chdir(tmp_path / "clone")
    assert cli.main(["report", "--compare", "narrow", "longer"]) == 1
    assert "error: --compare narrow: its results are neither in the cache nor in a remote" in capsys.readouterr().err


def test_a_run_whose_data_metrics_are_missing_is_drawn_without_intervals(
    tmp_path: Path,
) -> None:
    """The run stopped early or is from an older version."""
    (tmp_path / "plots").mkdir()
    rows = "variant,accuracy,latency_ms,bytes,chosen\nbase,0.9,2.5,4000,yes\n"
    (tmp_path / "plots" / "tradeoff.csv").write_text(rows)
    letters = {letter: Run(letter, "", tmp_path) for letter in "AB"}
    facts: dict[str, dict[str, Any]] = {"A": {"data": {"images": {"test": 100}}}, "B": {}}
    drawn = draw_tradeoffs(letters, facts)
    assert [figure.title for figure in drawn] == [
        "Accuracy vs. median latency, ms", "Accuracy vs. file size, kB",
    ]  # fmt: skip
    assert all("A base (shipped): 90" in figure.alt and "B base (shipped): 90" in figure.alt for figure in drawn)


def test_before_the_first_commit_the_error_names_the_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "dvc.yaml").touch()
    run_command("git", "init", "-q", cwd=tmp_path)
    run_command("dvc", "init", "-q", cwd=tmp_path)
    monkeypatch.chdir(tmp_path)
    for revision in ("HEAD", "nonsense"):
        assert cli.main(["report", "--compare", revision]) == 1
        error = capsys.readouterr().err
        assert error == f"error: --compare {revision}: git has no commits; fix: run `dvc repro`, then `git commit`\n"


def test_without_options_it_prints_the_path_of_the_report(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(smoke / "src")
    assert cli.main(["report"]) == 0
    assert Path(capsys.readouterr().out.strip()).resolve() == smoke / "report" / "index.html"
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report"]) == 1
    assert capsys.readouterr().err == "error: report/index.html: not found; fix: `dvc repro` writes it\n"


def test_only_differences_are_listed(tmp_path: Path) -> None:
    for name, text in (("a", "x: {y: 1, z: null}\nsame: [1, 2]\n"), ("b", "x: {y: 2}\nsame: [1, 2]\n")):
        (tmp_path / name).write_text(text)
    files = [tmp_path / "a", tmp_path / "b", tmp_path / "none"]
    assert differing_params(files) == {
        "x.y": ["1", "2", "–"],
        "x.z": ["null", "–", "–"],
        "same": ["[1, 2]", "[1, 2]", "–"],
    }
    runs: list[dict[str, dict[str, Any]]] = [
        {"train": {"loss": 0.5, "note": "a"}, "latency": {"ms": 1}},
        {"train": {"loss": 0.25, "note": "b"}},
    ]
    assert differing_metrics(runs) == {"train.loss": ["0.5", "0.25"]}
    assert flat({"a": {"b": 1}, "c": []}) == {"a.b": 1, "c": []}


def test_missing_metrics_are_skipped() -> None:
    whole = {
        "train": {"val_nll": 0.2, "parameters": 100},
        "evaluate": {"accuracy": 0.9, "images": 100, "nll": 0.3, "ece": 0},
    }
    lines = {line.name: line for line in headlines([whole, {"train": {"val_nll": 0.1}}])}
    names = ("test accuracy", "test NLL", "test ECE", "validation NLL", "parameters")
    assert set(lines) == {f"base: {name}" for name in names}
    assert lines["base: validation NLL"].differences == ["−50.0\u202f%"]
    assert lines["base: parameters"].values == ["100", "–"] and lines["base: parameters"].differences == ["–"]
    assert lines["base: test accuracy"].intervals == ["82.6\u202f% to 94.5\u202f%", ""]


def test_results_older_than_their_parameters_are_marked_stale(
    compared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The experiments ran up to ``evaluate``: what follows from the base is as it was before."""
    page = page_of(compared, monkeypatch, "HEAD", "narrow")
    text = words(page)
    assert "Stale: the parameters, code or data of a run changed" in text and "B: metrics/" in text
    rows = {row[0]: row for row in re.findall(r'<tr><th scope="row">([^<]+)</th>(.*?)</tr>', page, re.DOTALL)}
    assert "(stale)" in rows["shipped model: median latency"][1] and "<td>stale</td>" in rows["base: median latency"][1]
    assert "stale" not in rows["base: test accuracy"][1]
    capsys.readouterr()

    shutil.copytree(compared, tmp_path / "clone", symlinks=True)
    monkeypatch.chdir(tmp_path / "clone")
    assert cli.main(["summary"]) == 0
    assert "stale" not in capsys.readouterr().out
    run_command("dvc", "exp", "run", "-S", "train.width=8", "evaluate", cwd=tmp_path / "clone")
    assert cli.main(["summary", "--json"]) == 0
    stale = set(json.loads(capsys.readouterr().out)["stale"])
    assert {"export@base", "compare", "benchmark", "ship", "report"} <= stale and not stale & {
        "train",
        "evaluate",
        "scaling",
    }
    assert cli.main(["summary"]) == 0
    shown = capsys.readouterr().out
    assert "report/index.html (stale)" in shown and "`dvc repro` updates the results" in " ".join(shown.split())
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().err.startswith("warning: report/ is older than params.yaml (train.width)")


def test_a_comparison_is_no_output_of_the_pipeline(
    smoke: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(smoke)
    for file, output in (("report/page.html", "report"), ("metrics/data.json", "metrics/data.json")):
        assert cli.main(["report", "--compare", "HEAD", "--out", file]) == 1
        expected = f"error: --out: got {file}, where the pipeline writes {output}; fix: choose another path\n"
        assert capsys.readouterr().err == expected
