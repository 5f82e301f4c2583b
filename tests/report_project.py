"""A fast synthetic project with the outputs of all stages before the report, for tests of the report and summary."""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.evaluation.changed_predictions import changed_predictions, write_changed_predictions
from isoflop.evaluation.plots import draw_confusion, draw_reliability
from isoflop.evaluation.scores import Bin
from isoflop.montage import Row, Tile, write_montage
from isoflop.report.page import write_report
from isoflop.runtime.params import read_params
from isoflop.scaling.analysis import Analysis, analyse
from isoflop.scaling.figures.pictures import write_pictures
from isoflop.scaling.forecasting import forecast, score
from isoflop.scaling.law_file import write_law
from isoflop.scaling.results import write_facts, write_points
from isoflop.scaling.tables.runs import read_study
from isoflop.shipping.choosing import Ship, ship, write_tradeoff
from tests.conftest import ROOT, ship_files
from tests.exports import write_model
from tests.scaling_runs import write_formats

CLASSES = ["<script>alert(1)</script>", 'zero & "one"', "{{ 7 * 7 }}", "ünïcode"]
_MEASURED = ("variants", "latency")
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
         "training_flops": 194_220_000_000, "train_loss": 0.52, "val_nll": 0.0712, "val_accuracy": 0.9814}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The outputs of the stages before the report, written by the stages' code where that needs no training."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("metrics", "plots", "onnx"):
        (folder / name).mkdir()
    (folder / "dvc.yaml").touch()
    write_variants(folder)
    write_scaling(folder)
    write_training(folder)
    for name, images in (
        ("mistakes", 2),
        ("saliency", 2),
        ("augmentation", 1),
        ("dropped", 1),
        ("changed_predictions", 1),
    ):
        pixels = np.random.default_rng(len(name)).integers(0, 256, (images, 8, 8, 3)).astype(np.uint8)
        tiles = [Tile(list(pixels), [f"<b>cats</b>/{name}.png", f"label: {CLASSES[0]}"])]
        write_montage([Row(CLASSES[1], tiles)], folder / "plots" / f"{name}.svg", nothing="none")
    bins = [Bin(0.7, 0.6, 10), Bin(0.95, 0.97, 80)]
    draw_reliability(bins, folder / "plots" / "reliability.svg")
    rows = [f"{found.confidence},{found.accuracy},{found.images}" for found in bins]
    (folder / "plots" / "reliability.csv").write_text("\n".join(["confidence,accuracy,images", *rows]) + "\n")
    draw_confusion(np.arange(90) % 4, np.arange(90) % 4, CLASSES, folder / "plots" / "confusion.svg")
    (folder / "code.yaml").write_text("stages: {train: 0a1b}\n")
    shutil.copy(ROOT / "presets" / "smoke.yaml", folder / "params.yaml")
    return folder


def write_scaling(folder: Path) -> None:
    """A study with noisy runs of a known law, analyzed like the stages do."""
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
    """The outputs of the stages scaling, forecast and score for an analysis."""
    (folder / "scaling").mkdir(exist_ok=True)
    write_facts(analysis, folder / "scaling" / "scaling.json")
    write_points(analysis, folder / "scaling" / "scaling.csv")
    shutil.rmtree(folder / "scaling" / "pictures", ignore_errors=True)
    write_pictures(analysis, folder / "scaling" / "pictures")
    write_law(analysis, folder / "law.json")
    formats = write_formats(folder / "scaling" / "formats.json")
    expected = forecast(folder / "law.json", formats, width, [48], epochs=12)
    write_json(folder / "scaling" / "forecast.json", expected)
    variants, latency = (json.loads((folder / "metrics" / f"{name}.json").read_text()) for name in _MEASURED)
    write_json(folder / "scaling" / "score.json", score(expected, TRAIN, variants, latency, "base-int8"))
    (folder / "law.json").unlink()


def write_variants(folder: Path) -> None:
    compared: dict[str, dict[str, Any]] = {}
    timed, costs = {}, {}
    for name, (accuracy, latency_ms, weight, parameters) in VARIANTS.items():
        network = name.removesuffix("-int8")
        kinds = {"base": "train", "distilled": "distill", "pruned": "prune", "sparse": "sparsify", "qat": "qat"}
        compared[name] = {"network": network, "made_by": kinds[network],
                          "accuracy": accuracy, "nll": 0.05, "val_accuracy": accuracy, "val_nll": 0.05,
                          "balanced_accuracy": accuracy, "macro_f1": accuracy, "lowest_recall": accuracy - 0.02,
                          "lowest_recall_class": "3", "val_balanced_accuracy": accuracy,
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
    students = {"teacher_val_accuracy": 0.99, "control_val_accuracy": 0.97, "distilled_val_accuracy": 0.98}
    write_json(
        metrics / "distill-distilled.json",
        students | {"kept": "distilled", "epochs": 30, "training_flops": 5_000_000_000},
    )
    pruned = {"macs_ratio": 0.27, "val_accuracy_untuned": 0.61, "tuned_val_accuracy": 0.978,
              "control_val_accuracy": 0.969, "kept": "tuned", "epochs": 15, "training_flops": 4_000_000_000,
              "channels": {"a": [64, 48], "b": [10, 10]}}  # fmt: skip
    write_json(metrics / "prune-pruned.json", pruned)
    write_json(metrics / "sparsify-sparse.json",
               {"zeros_ratio": 0.751, "val_accuracy_untuned": 0.5, "val_accuracy": 0.976,
                "epochs": 5, "training_flops": 3_000_000_000})  # fmt: skip
    write_json(metrics / "qat-qat.json", {"val_accuracy": 0.984, "epochs": 5, "training_flops": 2_000_000_000})
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
    params = Ship(objective="latency", metric="accuracy", max_accuracy_drop=0.01, max_latency_ms=None)
    variants, latency, data = (metrics / f"{name}.json" for name in ("variants", "latency", "data"))
    chosen_first = ship(variants, latency, data, folder / "onnx", params, "digits", **ship_files(folder / "ship"))
    write_tradeoff(chosen_first, folder / "plots" / "tradeoff.csv")
    answers = {name: np.arange(90) % 4 for name in VARIANTS}
    for index, name in enumerate(VARIANTS):
        answers[name] = np.where(np.arange(90) < index, (np.arange(90) + 1) % 4, answers[name])
    changed = changed_predictions(answers, np.arange(90) % 4)
    write_changed_predictions(
        changed, CLASSES, [f"photos/{n}.jpg" for n in range(90)], folder / "plots" / "changed_predictions.csv"
    )


def write_data(folder: Path) -> None:
    splits = {"train": 270, "val": 60, "test": 90}
    reasons = {"undecodable": 1, "blank": 0, "conflicting_labels": 0, "leak": 0, "exact_duplicate": 29}
    data = {"classes": CLASSES, "num_classes": 4, "image_size": 2, "channels": 1, "resize": "crop",
            "normalization": "standard", "mean": [0.3], "std": [0.2],
            "images": {"source": 1710} | {name: 4 * number for name, number in splits.items()},
            "dropped": {"total": 30} | reasons, "per_class": dict.fromkeys(CLASSES, splits),
            "md5": {name: f"{number:032x}.dir" for name, number in splits.items()}}  # fmt: skip
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
        name: {"precision": 0.99 - 0.02 * index, "recall": 0.98, "f1": 0.985 - 0.01 * index, "images": 90}
        for index, name in enumerate(CLASSES)
    }
    speed = {"seconds": 12.34, "images_per_s": 2623.2, "flops_per_s": 15_740_000_000,
             "peak_flops_per_s": 90_000_000_000,
             "share_of_peak": 0.1749, "device": "Some CPU", "threads": 1, "dtype": "float32",
             "versions": {"python": "3.11.7", "torch": "2.13.0"}}  # fmt: skip
    write_json(folder / "metrics" / "throughput.json", speed)
    with (folder / "plots" / "confusion.csv").open("w", newline="") as stream:
        rows = csv.writer(stream)
        rows.writerow(["actual", "predicted"])
        rows.writerows([[name, name] for name in CLASSES for _ in range(89)])
        rows.writerows([[CLASSES[0], CLASSES[1]]] * 3 + [[CLASSES[2], CLASSES[3]]])
    evaluate = {
        "images": 360,
        "accuracy": 0.9875,
        "nll": 0.05,
        "precision": 0.9876,
        "recall": 0.9874,
        "f1": 0.9873,
        "ece": 0.0211,
    }
    write_json(folder / "metrics" / "evaluate.json", evaluate | {"per_class": per_class})


def write_json(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=1) + "\n")


def report(project: Path, target: Path, *, with_study: bool = True) -> str:
    """Write the report of a project, with or without its study, and return its HTML."""
    params = read_params(project / "params.yaml")
    inputs = project / "metrics", project / "plots", project / "ship" / "choice.json", project / "dropped.csv"
    with contextlib.chdir(project):
        write_report(*inputs, params, target, project / "scaling" if with_study else None)
    assert [file.name for file in target.iterdir()] == ["index.html"]
    return (target / "index.html").read_text()


class Outline(HTMLParser):
    """The tags of a page with their attributes, the resources it loads, its anchors and its text."""

    VOID = ("meta", "link", "img", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, dict[str, str | None]]] = []
        self.sources: list[str] = []
        self.anchors: list[tuple[str, str]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ("src", "href") and value is not None and not value.startswith("#"):
                self.sources.append(value)
            if name == "id" or (name == "href" and value is not None and value.startswith("#")):
                self.anchors.append((name, (value or "").lstrip("#")))

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def outline(page: str) -> Outline:
    """Parse a page; fail if a tag is not closed."""
    parsed = Outline()
    parsed.feed(page)
    parsed.close()
    assert parsed.open == [], "a tag is not closed"
    return parsed


def words(page: str) -> str:
    """Return the text of a page, with plain spaces."""
    return " ".join("".join(outline(page).text).replace("\u202f", " ").split())
