"""The report is one self-contained page of the stages' results; class and file names are escaped."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from isoflop.montage import write_montage
from isoflop.report.facts import share_interval
from isoflop.report.formats import loss, percent
from isoflop.report.glossary import DIAGNOSTICS
from isoflop.report.shown_params import Params
from isoflop.runtime.errors import UserError
from isoflop.runtime.stage_code import checkout, code_text, project_code_sha256
from isoflop.scaling.analysis import analyse
from isoflop.scaling.diagnostics import Kind
from isoflop.scaling.tables.runs import read_study
from stages import forecast, score
from tests.conftest import ROOT, run_command
from tests.report_project import CLASSES, outline, project, report, words, write_json, write_law_of
from tests.scaling_runs import edit, run_stage, write_formats, write_runs

__all__ = ["project"]  # the fixture

SECTIONS = ["data", "training", "quality", "scaling", "compression", "provenance", "glossary"]


def test_the_page_is_complete_and_loads_nothing(project: Path, tmp_path: Path) -> None:
    page = report(project, tmp_path / "report")
    parsed = outline(page)
    assert page.rstrip().endswith("</html>") and len(page.encode()) < 5_000_000
    assert parsed.sources and all(source.startswith("data:") for source in parsed.sources)
    assert parsed.tags.count("img") == 7  # of five montages
    # confusion and reliability, the law, curves, trade-offs, layers
    assert parsed.tags.count("svg") == 2 + 6 + 3 + 2 + 3
    assert "http:" not in page and "https:" not in page and "@import" not in page
    assert not re.findall(r"url\((?!#)", page), "only its own clip paths"
    targets = {name for kind, name in parsed.anchors if kind == "href"}
    ids = [name for kind, name in parsed.anchors if kind == "id"]
    assert targets and targets <= set(ids) and len(ids) == len(set(ids))


def test_the_sections_are_in_order(project: Path, tmp_path: Path) -> None:
    parsed = outline(report(project, tmp_path / "report"))
    found = [attributes["id"] for tag, attributes in parsed.attributes if tag in ("header", "section")]
    assert found == ["answer", *SECTIONS]
    links = [attributes["href"] for tag, attributes in parsed.attributes if tag == "a"]
    assert [link for link in links if link != "#diagnostics"] == [f"#{name}" for name in SECTIONS]


def test_the_shipped_model_comes_first(project: Path, tmp_path: Path) -> None:
    page = report(project, tmp_path / "report")
    answer = words(page[page.index("<header") : page.index("<main>")])
    low, high = (percent(end).replace("\u202f", " ") for end in share_interval(0.9778, 360))
    for expected in ("Shipped model: distilled-int8, 97.8 % accuracy, 13.5 kB, 0.0311 ms", f"95 % CI {low} to {high}",
                 "distilled-int8 is the fastest of ", "Width 48 (", "parameters): predicted loss"):  # fmt: skip
        assert expected in answer
    assert re.search(r"(Confirmed|Consistent, but no test[^.]*|Inside [^.]*|Missed)\. Width 32: predicted loss", answer)


def test_every_figure_has_a_text_alternative(project: Path, tmp_path: Path) -> None:
    parsed = outline(report(project, tmp_path / "report"))
    images = [attributes["alt"] for tag, attributes in parsed.attributes if tag == "img"]
    drawings = [attributes["aria-label"] for _, attributes in parsed.attributes if attributes.get("role") == "img"]
    assert len(images) == 7 and len(drawings) == parsed.tags.count("svg")
    assert all(images) and all(text and len(text) > 20 for text in drawings) and len(set(drawings)) == len(drawings)
    assert parsed.tags.count("figcaption") >= 5 + len(drawings)
    assert any("distilled-int8 (shipped): 97.8" in (text or "") for text in drawings)
    assert any("Validation accuracy over epochs; from 0.2 to" in (text or "") for text in drawings)


def test_it_follows_the_color_scheme_and_prints(project: Path, tmp_path: Path) -> None:
    page = report(project, tmp_path / "report")
    style = page[page.index("<style>") : page.index("</style>")]
    blocks = {
        name: style[style.index(name) :].split("\n}", 1)[0] for name in (":root", "@media (prefers-color-scheme: dark)")
    }
    drawings = "".join(re.findall(r"<svg.*?</svg>", page, re.DOTALL))
    used = set(re.findall(r"var\((--[\w-]+)\)", drawings))
    assert {"--ink", "--line-1", "--rule"} <= used
    for block in blocks.values():
        assert all(f"{name}:" in block for name in used), "a color that one scheme lacks"
    assert not re.findall(r"#(?:000000|ffffff|0072b2|d55e00)", drawings), "a fixed color"
    assert "@media print" in style and "<style" not in page[page.index("</style>") :]


def test_tables_sort_numerically_and_are_complete_without_a_script(project: Path, tmp_path: Path) -> None:
    page = report(project, tmp_path / "report")
    assert page.count("<script>") == 1 and "aria-sort" in page
    tables = re.findall(r'<table class="sortable">(.*?)</table>', page, re.DOTALL)
    assert len(tables) >= 8
    for table in tables:
        heads = len(re.findall("<th[ >]", table[: table.index("</thead>")]))
        rows = re.findall(r"<tr.*?</tr>", table[table.index("<tbody>") : table.index("</tbody>")], re.DOTALL)
        assert rows and all(len(re.findall("<t[dh][ >]", row)) == heads for row in rows), "a cell for each column"
        for cell in re.findall(r'data-sort="([^"]*)"', table):
            float(cell)
    assert 'data-sort="0.9875">98.8' in page


@pytest.mark.skipif(not shutil.which("chromium"), reason="needs Chromium")
def test_a_click_sorts(project: Path, tmp_path: Path) -> None:
    """In a browser: two clicks on a head sort by parameters, descending, then ascending; the heads are buttons."""
    page = report(project, tmp_path / "report")
    click = """<script>
      const table = document.querySelector("#compression table.sortable"), head = table.tHead.rows[0].cells[3];
      const seen = () => [...table.tBodies[0].rows].map((row) => row.cells[3].dataset.sort).join(" ");
      head.firstChild.click(); const down = head.ariaSort + " " + seen();
      head.firstChild.click();
      document.title = down + " | " + head.ariaSort + " " + seen() + " | " + head.firstChild.tagName;
    </script></body>"""
    page = re.sub("<meta http-equiv=.Content-Security-Policy.*?>", "", page)  # which blocks a script like this one
    (tmp_path / "click.html").write_text(page.replace("</body>", click))
    shown = run_command("chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'c'}",
                        "--dump-dom", (tmp_path / "click.html").as_uri(), cwd=tmp_path).stdout  # fmt: skip
    found = re.search(r"<title>descending (.*?) \| ascending (.*?) \| (\w+)</title>", shown)
    assert found
    down, up = ([int(number) for number in numbers.split()] for numbers in found.groups()[:2])
    assert down == sorted(down, reverse=True) and up == sorted(up) and len(up) == 8 and found[3] == "BUTTON"


def test_class_and_file_names_are_escaped(project: Path, tmp_path: Path) -> None:
    page = report(project, tmp_path / "report")
    assert page.count("<script") == 1 and "<img src=x" not in page and "<b>cats" not in page
    text = " ".join("".join(outline(page).text).split())
    assert all(name in text for name in CLASSES)
    assert "<img src=x onerror=alert(1)>.png" in text


def test_a_class_name_that_is_not_unicode_is_escaped(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    file = tmp_path / "project" / "metrics" / "data.json"
    file.write_text(file.read_text().replace("zero", r"\udce9t\udce9"))  # a folder name in Latin-1
    assert r"\udce9t\udce9" in report(tmp_path / "project", tmp_path / "report")


def test_the_page_shows_the_results_of_the_stages(project: Path, tmp_path: Path) -> None:
    text = words(report(project, tmp_path / "report"))
    law = json.loads((project / "scaling" / "scaling.json").read_text())
    chosen = json.loads((project / "ship" / "choice.json").read_text())
    assert chosen["chosen"] == "distilled-int8" and "distilled-int8 (shipped)" in text and chosen["why"] in text
    assert all(verdict["verdict"] in text for verdict in chosen["candidates"])
    known = law["parameters"]
    figures = [known["alpha"]["value"], known["alpha"]["low"], known["beta"]["value"], known["beta"]["high"]]
    for figure in (*figures, law["held_out"]["predicted"], law["held_out"]["actual"]):
        assert loss(figure) in text
    assert "N parameters" in text and law["form"] in text
    assert "twice the data would give" in text and "would narrow the law’s interval by" in text
    assert all(diagnosis["message"][1:] in text for diagnosis in law["diagnostics"])
    for expected in (
        "<b>cats</b>/mistakes.png", "photos/0.jpg (label",
        "30 dropped", "1 could not be decoded", "The first 20 of 30", "cats/18.png",
        "17.5 %of the 90 GFLOP/s measured for a matrix product", "2 620/simages; 15.7 GFLOP/s",
        f"4 of 360 images are misclassified. Most frequent (label → prediction): {CLASSES[0]} → {CLASSES[1]} (3)",
        "Width 32: predicted loss", "Predictions for the widths in scaling.predict",
        "−2.22", "0.057", "<b>seven", "changes the prediction for 7 test images", "The shipped variant changes 6:",
        "<i>conv8 (FP32)", "validation accuracy 98.0 % with distillation, 97.0 % for the control",
        "61.0 % before the last", "98.4 %", "75.1 %", "Channels: a 64 → 48.", "7 Gelu run in float", "4.5 MB",
        "Some CPU @ 2.0 GHz", "batch size 64, 1 thread", "isoflop savings",
    ):  # fmt: skip
        assert expected in text, expected
    assert "cats/19.png" not in text


def test_provenance_names_parameters_data_code_versions_and_costs(project: Path, tmp_path: Path) -> None:
    text = words(report(project, tmp_path / "report"))
    data = json.loads((project / "metrics" / "data.json").read_text())
    assert all(md5 in text for md5 in data["md5"].values())
    assert project_code_sha256(project) in text and "torch 2.13.0" in text and "ONNX Runtime 1.23.2" in text
    assert "learning_rate: 0.005" in text and "widths: [4, 6, 8, 12]" in text
    study = sum(row["flops"] for file in (project / "runs").iterdir() for row in json.loads(file.read_text())["runs"])
    assert f"scalingstudy,30runs–{study:.3g}".replace("e+", "e") in text.replace(" ", "")


def test_a_law_of_size_alone_and_without_a_held_out_width(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    for file in (tmp_path / "project" / "runs").iterdir():
        table = json.loads(file.read_text())
        table["runs"] = [row for row in table["runs"] if row["fraction"] == 1]
        file.write_text(json.dumps(table))
    analysis = analyse(read_study(tmp_path / "project" / "runs", [8, 16, 32]), 20, 0)
    write_law_of(analysis, tmp_path / "project", 64)
    text = words(report(tmp_path / "project", tmp_path / "report"))
    assert "L(N) = E + A/N^α" in text and "Nothing was held out" in text
    assert "this prediction is unreliable" in text and "No prediction: the runs do not separate" in text


def test_empty_sections_are_explained(project: Path, tmp_path: Path) -> None:
    """Nothing dropped, no error, no changed prediction, nothing quantized, no forecast interval; the base ships."""
    empty = tmp_path / "project"
    shutil.copytree(project, empty)
    change(empty / "metrics" / "data.json", lambda data: data["dropped"].update(dict.fromkeys(data["dropped"], 0)))
    (empty / "dropped.csv").write_text("name,reason,detail\n")
    (empty / "plots" / "confusion.csv").write_text("actual,predicted\n" + "zero,zero\n" * 360)
    change(empty / "metrics" / "evaluate.json", lambda evaluate: evaluate.update(accuracy=1.0))
    (empty / "plots" / "changed_predictions.csv").write_text("image,name,variant,actual,base,answered,change\n")
    change(empty / "scaling" / "forecast.json", lambda forecast: forecast.update(widths={}))
    change(empty / "scaling" / "score.json", lambda score: score.update(low=None, high=None, inside=None))
    for name in ("variants", "latency", "sessions"):
        change(
            empty / "metrics" / f"{name}.json",
            lambda blocks: [blocks.pop(key) for key in list(blocks) if key not in ("base", "conditions")],
        )
    change(empty / "ship" / "choice.json", lambda choice: choice.update(chosen="base"))
    for name in ("augmentation", "dropped", "mistakes", "changed_predictions"):
        write_montage([], empty / "plots" / f"{name}.svg", nothing="nothing")
    page = report(empty, tmp_path / "report")
    text = words(page)
    for expected in (
        "none dropped", "Dropped images: none. The checks in prepare.drop found no undecodable", "Augmentation: none",
        "All 360 images are classified correctly",
        "Compressed variants: none.", "the base itself ships: no compressed variant qualifies",
        "Not testable (no interval)", "Twice the width of the study’s largest model",
    ):  # fmt: skip
        assert expected in text, expected
    assert "Trained variants and their controls" not in text and "INT8 quantization" not in text
    assert "Most confident errors" not in text
    assert page.count("<img ") == 2  # saliency
    assert "Changed predictions" not in text and 'aria-label="Dropped images"' not in page


def change(file: Path, how: Any) -> None:
    content = json.loads(file.read_text())
    how(content)
    write_json(file, content)


def test_the_same_inputs_give_the_same_bytes_anywhere(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "elsewhere")
    assert report(project, tmp_path / "a") == report(tmp_path / "elsewhere", tmp_path / "b")


@pytest.mark.parametrize(
    "name",
    ["metrics/latency.json", "scaling/forecast.json", "scaling/score.json", "metrics/quantize-base.json",
     "scaling/pictures", "plots/saliency.svg", "plots/changed_predictions.csv", "ship/choice.json",
     "dropped.csv", "plots/training/plots/metrics"],
)  # fmt: skip
def test_a_missing_input_is_an_error(project: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "project"
    shutil.copytree(project, copy)
    missing = copy / name
    shutil.rmtree(missing) if missing.is_dir() else missing.unlink()
    with pytest.raises(UserError) as error:
        report(copy, tmp_path / "report")
    assert str(copy / "plots/training" if "training" in name else missing) in str(error.value)
    assert "dvc repro" in str(error.value) and not (tmp_path / "report").exists()


def test_a_broken_metrics_file_is_an_error(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    (tmp_path / "project" / "metrics" / "train.json").write_text("{")
    with pytest.raises(UserError, match=r"train\.json: not readable"):
        report(tmp_path / "project", tmp_path / "report")


def test_the_stage_runs_as_a_command(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    (tmp_path / "project" / "code.yaml").write_text(code_text(checkout(ROOT)))
    options = [
        "--metrics=metrics",
        "--plots=plots",
        "--choice=ship/choice.json",
        "--dropped=dropped.csv",
        "--scaling=scaling",
        "--report=report",
    ]
    command = ["python", "-m", "stages.study", *options, "--code", "src"]
    run_command(*command, cwd=tmp_path / "project", PYTHONPATH=str(ROOT))
    written = (tmp_path / "project" / "report" / "index.html").read_text()
    assert written == report(tmp_path / "project", tmp_path / "again")


def test_the_stage_shows_all_sections_of_the_parameters() -> None:
    assert set(Params.model_fields) == set(yaml.safe_load((ROOT / "params.yaml").read_text()))


def test_every_kind_of_diagnostic_has_a_text() -> None:
    assert set(DIAGNOSTICS) == set(get_args(Kind))


def test_the_page_without_the_study_names_it_in_one_line(project: Path, tmp_path: Path) -> None:
    page = report(project, tmp_path / "report", with_study=False)
    assert "Not on this page: `dvc repro` runs the study and writes study/index.html" in words(page)
    costs = page[page.index("<h3>Training compute") : page.index("Parameters (params.yaml)")]
    assert 'id="scaling"' not in page and "scaling study" not in costs


def test_a_study_without_a_law_is_one_line_with_its_next_command(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    runs = write_runs(tmp_path / "runs", widths=(8, 12, 16))
    edit(runs, 8, val_nll=2.3)
    folder = tmp_path / "project" / "scaling"
    shutil.rmtree(folder)
    run_stage(runs, folder, (8, 12, 16))
    formats = write_formats(folder / "formats.json", (8, 12, 16))
    params = forecast.Params(width=32, fraction=1.0, epochs=30, predict=[48])
    forecast.main(params, folder / "law.json", formats, folder / "forecast.json")
    train, variants, latency = (project / "metrics" / f"{name}.json" for name in ("train", "variants", "latency"))
    choice = project / "ship" / "choice.json"
    score.main(folder / "forecast.json", train, variants, latency, choice, folder / "score.json")
    page = report(tmp_path / "project", tmp_path / "report")
    line = words(page[page.index("<header") : page.index("<main>")])
    assert "No scaling law: got usable runs of 2 widths (12, 16), expected at least 3" in line
    assert "dvc exp run -S" in line and 'id="scaling"' not in page
