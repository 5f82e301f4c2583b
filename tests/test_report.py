"""The report is one whole page of what the stages wrote, and shows strangers' names as text."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from isoflop.errors import UserError
from isoflop.report.charts import draw, read_charts, round_numbers, thin
from isoflop.report.facts import share_interval
from isoflop.report.formats import count, loss, ms, percent, points, rounded, size, times
from isoflop.report.page import write_report
from isoflop.scaling.analysis import Analysis, analyse
from isoflop.scaling.commands import write_analysis
from isoflop.scaling.forecasting import forecast, score
from isoflop.scaling.runs import read_study
from isoflop.shipping import Ship, ship, write_tradeoff
from isoflop.tradeoff_picture import write_tradeoff_picture
from tests.conftest import ROOT, run_command, ship_files
from tests.test_prediction import write_model

CLASSES = ["<script>alert(1)</script>", 'zero & "one"', "{{ 7 * 7 }}", "ünïcode"]
VARIANTS = {  # accuracy, milliseconds, bytes, parameters
    "base": (0.9875, 0.0941, 120_345, 28_906),
    "distilled": (0.9806, 0.0533, 34_567, 7_610),
    "pruned": (0.9778, 0.0412, 40_321, 8_930),
    "sparse": (0.9792, 0.0939, 120_343, 28_906),
    "qat": (0.9875, 0.0940, 120_344, 28_906),
    "base-int8": (0.9875, 0.0502, 36_789, 28_906),
    "distilled-int8": (0.9778, 0.0311, 13_456, 7_610),
    "pruned-int8": (0.975, 0.0298, 15_678, 8_930),
}

TRAIN = {"parameters": 28_906, "macs": 1_000_000, "epochs": 30, "steps": 270, "images_seen": 32_370,
         "train_loss": 0.52, "val_nll": 0.0712, "val_accuracy": 0.9814}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the stages before the report leave behind, made by their code where that does not need a training."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("metrics", "plots", "onnx"):
        (folder / name).mkdir()
    (folder / "dvc.yaml").touch()
    write_scaling(folder)
    write_variants(folder)
    write_training(folder)
    for name in ("confusion", "reliability", "mistakes", "saliency", "augmentation"):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (60, 160, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / "plots" / f"{name}.png")
    return folder


def write_scaling(folder: Path) -> None:
    """A study of noisy runs about a known law, analysed as the stages do."""
    rng = np.random.default_rng(0)
    (folder / "runs").mkdir()
    for width in (8, 12, 16, 24, 32):
        parameters = 20 * width**2 + 100 * width
        rows = []
        for images in (270, 540, 1079):
            for seed in (0, 1):
                nll = (0.03 + 40 * parameters**-0.7 + 30 * images**-0.9) * np.exp(rng.normal(0, 0.02))
                seen = 12 * images
                rows.append({"fraction": images / 1079, "budget": None, "seed": seed, "unique_images": images,
                             "images_seen": seen, "flops": 9000.0 * parameters * seen, "val_nll": nll,
                             "val_accuracy": 1 - 0.3 * nll, "diverged": False})  # fmt: skip
        flops = 9000.0 * parameters
        table = {"width": width, "family": "cnn", "parameters": parameters, "body_parameters": parameters - 170,
                 "flops_per_image": flops,
                 "chance_nll": 1.386294, "runs": rows}  # fmt: skip
        (folder / "runs" / f"width-{width}.json").write_text(json.dumps(table))
    analysis = analyse(read_study(folder / "runs", [8, 12, 16, 24, 32]), 50, 0)
    write_law_of(analysis, folder, 32)


def write_law_of(analysis: Analysis, folder: Path, width: int) -> None:
    """What the stages scaling and forecast leave of an analysis."""
    write_analysis(analysis, folder / "analysis", "huber")
    (folder / "analysis" / "scaling.json").replace(folder / "metrics" / "scaling.json")
    for name in ("scaling", "held_out", "isoflop", "surface"):
        (folder / "analysis" / f"{name}.png").replace(folder / "plots" / f"{name}.png")
    expected = forecast(folder / "analysis" / "law.json", width, [48], epochs=12)
    write_json(folder / "metrics" / "forecast.json", expected)
    write_json(folder / "metrics" / "score.json", score(expected, TRAIN))
    shutil.rmtree(folder / "analysis")


def write_variants(folder: Path) -> None:
    compared: dict[str, dict[str, Any]] = {}
    timed, costs = {}, {}
    for name, (accuracy, latency_ms, weight, parameters) in VARIANTS.items():
        network = name.removesuffix("-int8")
        kinds = {"base": "train", "distilled": "distill", "pruned": "prune", "sparse": "sparsify", "qat": "qat"}
        compared[name] = {"network": network, "made_by": kinds[network],
                          "accuracy": accuracy, "nll": 0.05, "val_accuracy": accuracy, "val_nll": 0.05,
                          "parameters": parameters, "macs": 40 * parameters, "bytes": weight, "gzip_bytes": weight,
                          "agreement": 0.9972, "max_logit_difference": 0.1, "ece": 0.0123}  # fmt: skip
        if name != "base":
            compared[name]["against_base"] = {
                "gained": 3, "lost": 11, "difference": -0.0222, "low": -0.0431, "high": -0.0009, "p_value": 0.0574,
                "worst_classes": {"<b>seven": -0.0833},
            }  # fmt: skip
        speedup = VARIANTS["base"][1] / latency_ms
        timed[name] = {
            cell: {"p50_ms": factor * latency_ms, "p95_ms": 1.2 * factor * latency_ms, "p99_ms": 2 * latency_ms,
                   "images_per_s": round(1000 / latency_ms, 1), "speedup": speedup, "speedup_low": 0.97 * speedup,
                   "speedup_high": 1.03 * speedup}
            for cell, factor in (("batch1_threads1", 1), ("batch64_threads1", 40), ("batch1_threads2", 0.9))
        }  # fmt: skip
        costs[name] = {
            "load_ms": 3.2, "peak_memory_mb": 4.5, "operators": {"Conv": 3}, "int8_layers": 3, "float_layers": 1,
            "warnings": ["7 Gelu run in float"] if name == "pruned-int8" else [],
        }  # fmt: skip
        write_model(folder / "onnx" / f"{name}.onnx", CLASSES)
    conditions = {"headline": "batch1_threads1", "cpu": "Some CPU @ 2.0 GHz", "flags": "avx2 fma", "cores": 2,
                  "system": "Linux x86_64", "onnxruntime": "1.23.2", "load_average": 0.1}  # fmt: skip
    metrics = folder / "metrics"
    write_json(metrics / "variants.json", compared)
    write_json(metrics / "sessions.json", costs)
    students = {"teacher_val_accuracy": 0.99, "control_val_accuracy": 0.97, "taught_val_accuracy": 0.98}
    write_json(metrics / "distill-distilled.json", students | {"kept": "taught"})
    pruned = {"macs_ratio": 0.27, "val_accuracy_untuned": 0.61, "tuned_val_accuracy": 0.978,
              "control_val_accuracy": 0.969, "kept": "tuned", "channels": {"a": [64, 48], "b": [10, 10]}}  # fmt: skip
    write_json(metrics / "prune-pruned.json", pruned)
    write_json(metrics / "sparsify-sparse.json",
               {"zeros_ratio": 0.751, "val_accuracy_untuned": 0.5, "val_accuracy": 0.976})  # fmt: skip
    write_json(metrics / "qat-qat.json", {"val_accuracy": 0.984})
    for name in ("base", "distilled", "pruned"):
        layers = [{"name": f"<i>conv{number}", "kind": "Conv", "error": 0.01 * number, "int8": number < 8}
                  for number in range(1, 9)]  # fmt: skip
        write_json(
            metrics / f"quantize-{name}.json",
            {"method": "minmax", "errors": {"minmax": 0.0321, "entropy": 0.2}, "float_val_accuracy": 0.98,
             "val_accuracy": 0.975, "within_max_accuracy_drop": True, "layers_in_float": 1, "layers": layers},
        )  # fmt: skip
    write_json(metrics / "latency.json", timed | {"conditions": conditions})
    write_data(folder)
    params = Ship(objective="latency", max_accuracy_drop=0.01, max_latency_ms=None)
    variants, latency, data = (metrics / f"{name}.json" for name in ("variants", "latency", "data"))
    chosen_first = ship(variants, latency, data, folder / "onnx", params, "digits", **ship_files(folder / "ship"))
    write_tradeoff(chosen_first, folder / "plots" / "tradeoff.csv")
    write_tradeoff_picture(chosen_first, folder / "plots" / "tradeoff.png")


def write_data(folder: Path) -> None:
    splits = {"train": 270, "val": 60, "test": 90}
    reasons = {"undecodable": 1, "blank": 0, "conflicting_labels": 0, "leak": 0, "exact_duplicate": 29}
    data = {"classes": CLASSES, "num_classes": 4, "image_size": 2, "channels": 1, "resize": "crop",
            "normalization": "standard", "mean": [0.3], "std": [0.2],
            "images": {"source": 1710} | {name: 4 * number for name, number in splits.items()},
            "dropped": {"total": 30} | reasons, "per_class": dict.fromkeys(CLASSES, splits)}  # fmt: skip
    write_json(folder / "metrics" / "data.json", data)
    with (folder / "dropped.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["name", "reason", "detail"])
        writer.writerow(["<img src=x onerror=alert(1)>.png", "undecodable", "truncated"])
        writer.writerows([[f"cats/{n}.png", "exact_duplicate", "the same pixels as x.png"] for n in range(29)])


def write_training(folder: Path) -> None:
    write_json(folder / "metrics" / "train.json", TRAIN)
    curves = folder / "plots" / "training" / "plots" / "metrics"
    for name, first, last in (("train/loss", 2.3, 0.52), ("val/nll", 2.1, 0.07), ("val/accuracy", 0.2, 0.98)):
        (curves / name).parent.mkdir(parents=True, exist_ok=True)
        values = [last + (first - last) * 0.8**epoch for epoch in range(30)]
        lines = [f"{epoch}\t{value}" for epoch, value in enumerate(values)]
        (curves / f"{name}.tsv").write_text("\n".join([f"step\t{name.split('/')[1]}", *lines]) + "\n")
    per_class = {
        name: {"precision": 0.99 - 0.02 * place, "recall": 0.98, "f1": 0.985 - 0.01 * place, "images": 90}
        for place, name in enumerate(CLASSES)
    }
    evaluate = {"accuracy": 0.9875, "nll": 0.05, "precision": 0.9876, "recall": 0.9874, "f1": 0.9873, "ece": 0.0211}
    write_json(folder / "metrics" / "evaluate.json", evaluate | {"per_class": per_class})


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n")


def report(project: Path, target: Path) -> str:
    write_report(project / "metrics", project / "plots", project / "ship/choice.json", project / "dropped.csv", target)
    assert [file.name for file in target.iterdir()] == ["index.html"]
    return (target / "index.html").read_text()


class Outline(HTMLParser):
    """The tags that are open, in order, and every attribute that would load something."""

    VOID = ("meta", "link", "img", "br", "line")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.anchors: list[tuple[str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href") and value is not None and not value.startswith("#"):
                self.sources.append(value)
            if name == "id" or (name == "href" and value is not None and value.startswith("#")):
                self.anchors.append((name, (value or "").lstrip("#")))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(page: str) -> Outline:
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == [], "a tag is not closed"
    return parsed


def test_the_page_is_whole_and_loads_nothing(project: Path, tmp_path: Path) -> None:
    page = report(project, tmp_path / "report")
    parsed = outline(page)
    assert page.rstrip().endswith("</html>") and "@" not in re.sub(r"@media|CPU @", "", page)
    assert parsed.sources and all(source.startswith("data:") for source in parsed.sources)
    assert sum(source.startswith("data:image/png;base64,") for source in parsed.sources) == 10
    assert "script" not in parsed.tags and "url(" not in page and "http:" not in page and "https:" not in page
    targets = [name for kind, name in parsed.anchors if kind == "href"]
    assert targets and set(targets) == {name for kind, name in parsed.anchors if kind == "id"}


def test_strangers_names_are_text(project: Path, tmp_path: Path) -> None:
    page = report(project, tmp_path / "report")
    assert "<script" not in page and "<img src=x" not in page
    text = " ".join("".join(outline(page).text).split())
    assert all(name in text for name in CLASSES)
    assert "<img src=x onerror=alert(1)>.png" in text


def test_a_class_name_that_is_no_text_is_shown_escaped(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    file = tmp_path / "project" / "metrics" / "data.json"
    file.write_text(file.read_text().replace("zero", r"\udce9t\udce9"))  # a folder named in Latin-1
    assert r"\udce9t\udce9" in report(tmp_path / "project", tmp_path / "report")


def test_the_page_says_what_the_stages_found(project: Path, tmp_path: Path) -> None:
    text = " ".join("".join(outline(report(project, tmp_path / "report")).text).split())
    law = json.loads((project / "metrics" / "scaling.json").read_text())
    chosen = json.loads((project / "ship" / "choice.json").read_text())
    assert chosen["chosen"] == "distilled-int8" and "distilled-int8 (shipped)" in text and chosen["why"] in text
    assert all(verdict["verdict"] in text for verdict in chosen["candidates"])
    known = law["parameters"]
    figures = [known["alpha"]["value"], known["alpha"]["low"], known["beta"]["value"], known["beta"]["high"]]
    for figure in (*figures, law["held_out"]["predicted"], law["held_out"]["actual"]):
        assert loss(figure) in text
    assert "N parameters" in text and law["form"] in text
    assert "twice the data would give" in text and "would narrow the law by" in text
    assert all(diagnosis["message"][1:] in text for diagnosis in law["diagnoses"])
    assert "13.5\u202fkB" in text.replace(" kB", "\u202fkB") and "0.0311" in text
    assert "width 32: forecast a loss of" in text.replace("Width", "width")
    assert "−2.22" in text.replace("-", "−") and "0.057" in text and "<b>seven" in text
    assert "<i>conv8 8.0 % (in float), <i>conv7 7.0 %" in text.replace("\u202f", " ").replace("\xa0", " ")
    for says in (
        "98.0 % of the validation images taught and at 97.0 % untaught",
        "61.0 % were right before",
        "98.4 %",
        "75.1 %",
        "channels of a 64 → 48;",
    ):
        assert says in text.replace("\u202f", " ").replace("\xa0", " ")
    assert "and 2 more" in text and "7 Gelu run in float" in text and "4.5 MB" in text
    assert "The first 20 of 30" in text and "cats/18.png" in text and "cats/19.png" not in text
    assert "Some CPU @ 2.0 GHz" in text and "64 images at a time, 1 thread" in text


def test_a_law_of_size_alone_and_without_a_held_out_width(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    for file in (tmp_path / "project" / "runs").iterdir():
        table = json.loads(file.read_text())
        table["runs"] = [row for row in table["runs"] if row["fraction"] == 1]
        file.write_text(json.dumps(table))
    analysis = analyse(read_study(tmp_path / "project" / "runs", [8, 16, 32]), 20, 0)
    write_law_of(analysis, tmp_path / "project", 64)
    text = " ".join("".join(outline(report(tmp_path / "project", tmp_path / "report")).text).split())
    assert "L(N) = E + A/N^α" in text and "Nothing was held out" in text
    assert "does not vouch for this forecast" in text


def test_the_same_inputs_give_the_same_bytes_anywhere(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "elsewhere")
    assert report(project, tmp_path / "a") == report(tmp_path / "elsewhere", tmp_path / "b")


@pytest.mark.parametrize(
    "name",
    ["metrics/latency.json", "metrics/forecast.json", "metrics/score.json",
     "plots/held_out.png", "plots/saliency.png", "ship/choice.json",
     "dropped.csv", "plots/training/plots/metrics"],
)  # fmt: skip
def test_a_missing_input_is_named(project: Path, tmp_path: Path, name: str) -> None:
    copy = tmp_path / "project"
    shutil.copytree(project, copy)
    missing = copy / name
    shutil.rmtree(missing) if missing.is_dir() else missing.unlink()
    with pytest.raises(UserError) as error:
        report(copy, tmp_path / "report")
    assert str(missing if missing.suffix else copy / "plots/training") in str(error.value)
    assert "dvc repro" in str(error.value) and not (tmp_path / "report").exists()


def test_a_broken_metrics_file_is_named(project: Path, tmp_path: Path) -> None:
    shutil.copytree(project, tmp_path / "project")
    (tmp_path / "project" / "metrics" / "train.json").write_text("{")
    with pytest.raises(UserError, match=r"train\.json: not readable"):
        report(tmp_path / "project", tmp_path / "report")


def test_the_stage_runs_as_a_command(project: Path, tmp_path: Path) -> None:
    options = [f"--metrics={project / 'metrics'}", f"--plots={project / 'plots'}"]
    options += [
        f"--choice={project / 'ship/choice.json'}",
        f"--dropped={project / 'dropped.csv'}",
        f"--report={tmp_path / 'report'}",
    ]
    run_command("python", "-m", "stages.report", *options, cwd=ROOT)
    assert (tmp_path / "report" / "index.html").read_text() == report(project, tmp_path / "again")


def test_curves_of_one_quantity_share_a_chart(tmp_path: Path) -> None:
    root = tmp_path / "plots" / "metrics"
    for name in ("train/loss", "val/loss", "lr"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.tsv").write_text(f"step\t{name.split('/')[-1]}\n0\t1.0\n1\tnan\n2\t0.5\n")
    charts = read_charts(tmp_path)
    assert [(chart.title, [line.name for line in chart.lines]) for chart in charts] == [
        ("loss", ["train", "val"]),
        ("lr", [""]),
    ]
    assert all(line.points.count(",") == 2 and line.last == 0.5 for chart in charts for line in chart.lines)
    (root / "lr.tsv").write_text("step\tlr\n0\thello\n")
    with pytest.raises(UserError, match=r"lr\.tsv: found .*hello.* in line 2, expected numbers"):
        read_charts(tmp_path)


@pytest.mark.parametrize("values", [[1.0], [0.5, 0.5], [0.0, 0.0], [-3.0, 1e6], [1e-9, 2e-9], [99.0, 101.0]])
def test_curves_stay_within_their_chart(values: list[float]) -> None:
    chart = draw("quantity", {"train": [(float(step), value) for step, value in enumerate(values)]})
    for pair in chart.lines[0].points.split():
        x, y = map(float, pair.split(","))
        assert chart.left <= x <= chart.right and chart.top <= y <= chart.bottom
    assert all(chart.top <= tick.at <= chart.bottom for tick in chart.y_ticks)
    assert len({tick.label for tick in chart.y_ticks}) == len(chart.y_ticks) >= 2


def test_long_curves_are_thinned_and_end_where_they_ended() -> None:
    points = [(float(step), float(step % 7)) for step in range(12_345)]
    thinned = thin(points)
    assert len(thinned) <= 300 and thinned[-1] == points[-1]
    assert all(first[0] < second[0] for first, second in pairwise(thinned))


def test_axes_have_round_numbers() -> None:
    assert round_numbers(0.03, 0.97) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert round_numbers(12, 61) == [10, 20, 30, 40, 50, 60, 70]


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0.98765), "98.8 %"), (percent(0.99987), "99.99 %"), (percent(1), "100 %"), (percent(None), "–"),
        (count(1234567), "1 234 567"), (size(12_345), "12.3 kB"), (size(98), "98 bytes"), (size(999_600), "1000 kB"),
        (ms(0.012345), "0.0123 ms"), (ms(1234.5), "1 234 ms"), (times(3.14), "3.1×"), (times(0.876), "0.88×"),
        (points(-0.0031), "−0.3 points"), (loss(0.12345), "0.1235"), (loss(12.3456), "12.35"), (loss(None), "–"),
        (rounded(1_234_567), "1 230 000"), (rounded(4.5e12), "4.5e12"), (rounded(12.34), "12.3"),
    ],
)  # fmt: skip
def test_numbers_as_people_read_them(shown: str, expected: str) -> None:
    assert shown.replace("\u202f", " ") == expected


def test_the_interval_of_a_share_stays_within_0_and_1() -> None:
    low, high = share_interval(0.5, 100)
    assert (round(low, 3), round(high, 3)) == (0.404, 0.596)
    assert share_interval(1.0, 50)[1] == pytest.approx(1) and 0.9 < share_interval(1.0, 50)[0] < 1
    assert share_interval(0.0, 50)[0] == pytest.approx(0)
