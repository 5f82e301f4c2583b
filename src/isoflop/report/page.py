"""The report: one self-contained HTML page, its pictures inside it, drawn from what the stages wrote."""

from __future__ import annotations

import base64
import csv
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from isoflop.errors import UserError
from isoflop.report import formats
from isoflop.report.charts import read_charts
from isoflop.report.compression_words import controls_in_words
from isoflop.report.facts import (
    Facts,
    cell_in_words,
    read_facts,
    share_interval,
    variants,
)
from isoflop.report.glossary import DROP_REASONS, GLOSSARY
from isoflop.report.scaling_words import (
    SYMBOLS,
    data_in_words,
    forecast_in_words,
    held_out_in_words,
    next_run_in_words,
    profile_in_words,
)
from isoflop.variants import INT8

_METRICS = ("data", "train", "evaluate", "scaling", "forecast", "score", "variants", "latency", "sessions")
_PICTURES = (
    "tradeoff", "scaling", "held_out", "isoflop", "surface", "confusion", "reliability", "mistakes", "saliency",
    "augmentation",
)  # fmt: skip
_MOST_DROPPED = 20  # rows shown
_PLACES = {
    "inside": "inside",
    "extrapolated": "beyond",
    "unbounded": "none: no best size",
}


def write_report(metrics: Path, plots: Path, choice: Path, dropped: Path, report: Path) -> None:
    """Write ``report/index.html``. The same inputs give the same bytes.

    Args:
        metrics: folder of the metrics files (JSON).
        plots: folder of the pictures (PNG) and of the training curves.
        choice: choice.json of what is shipped.
        dropped: CSV of the images that cleaning dropped.

    Raises:
        UserError: one of the files is missing or cannot be read.
    """
    facts = {name: read_facts(metrics / f"{name}.json") for name in _METRICS}
    int8 = [name.removesuffix(INT8) for name in facts["variants"] if name.endswith(INT8)]
    quantized = {name: read_facts(metrics / f"quantize-{name}.json") for name in int8}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(formats.FILTERS)
    page = environment.get_template("page.html").render(
        css=Markup((Path(__file__).parent / "page.css").read_text(encoding="utf-8")),
        pictures={name: _data_uri(plots / f"{name}.png") for name in _PICTURES},
        charts=read_charts(plots / "training"),
        dropped=_read_dropped(dropped),
        glossary=GLOSSARY,
        reasons=DROP_REASONS,
        places=_PLACES,
        quantized=quantized,
        controls=controls_in_words(metrics, facts["variants"]),
        sessions=facts["sessions"],
        **_headline(facts, read_facts(choice)),
        **_law(facts["scaling"]),
        **_training(facts),
        **_conditions(facts),
    )
    report.mkdir(parents=True)
    # a file name that is no text has been escaped in dropped.csv; what is left of such in class names is shown as such
    (report / "index.html").write_text(page, encoding="utf-8", errors="backslashreplace")


def _data_uri(picture: Path) -> str:
    try:
        content = picture.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{picture}: not found; run `dvc repro`") from None
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def _read_dropped(file: Path) -> list[dict[str, str]]:
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = csv.DictReader(stream)
            return [row for row, _ in zip(rows, range(_MOST_DROPPED), strict=False)]
    except FileNotFoundError:
        raise UserError(f"{file}: not found; run `dvc repro`") from None


def _headline(facts: dict[str, Facts], choice: Facts) -> dict[str, Any]:
    """What was shipped, why, and the variants that it was chosen from."""
    rows = variants(facts["variants"], facts["latency"], choice["chosen"])
    base = rows[0]
    chosen = next(row for row in rows if row.shipped)
    return {
        "variants": rows,
        "base": base,
        "shipped": chosen,
        "why": choice["why"],
        "verdicts": {item["variant"]: item["verdict"] for item in choice["candidates"]},
        "shrink": base.bytes / chosen.bytes,
        "difference": chosen.accuracy - base.accuracy,
        "accuracy_interval": share_interval(chosen.accuracy, facts["data"]["images"]["test"]),
        "latency_of": f"median of {cell_in_words(facts['latency']['conditions']['headline'])}",
    }


def _law(law: Facts) -> dict[str, Any]:
    """The law's figures, each with what it says."""
    says = {
        "E": "the loss that remains, whatever the size and the data",
        "A": "how much the loss gains from size, at N = 1",
        "alpha": "how fast that falls: twice the parameters leave 2 to the power of -α of it",
        "B": "how much the loss gains from data, at D = 1",
        "beta": "how fast that falls: twice the training images leave 2 to the power of -β of it",
        "G": "how much the loss gains from training longer, at S = 1",
        "gamma": "how fast that falls: twice the images seen leave 2 to the power of -γ of it",
        "L0": "the loss with no size or data at all",
        "bend": "how much the law bends towards that loss",
    }
    rows = [
        {
            "symbol": SYMBOLS.get(name, name),
            "value": formats.loss(known["value"]),
            "interval": formats.between(known["low"], known["high"]),
            "says": says.get(name, ""),
        }
        for name, known in law["parameters"].items()
    ]
    return {
        "law": law,
        "law_rows": rows,
        "held_out_says": held_out_in_words(law),
        "data_says": data_in_words(law["data_question"]),
        "next_run_says": next_run_in_words(law["next_run"]),
        "profiles_say": [profile_in_words(profile) for profile in law["profiles"]],
    }


def _training(facts: dict[str, Facts]) -> dict[str, Any]:
    """The data, the training beside its forecast, and how the base model does."""
    evaluate = facts["evaluate"]
    return {
        "data": facts["data"],
        "train": facts["train"],
        "forecast": facts["forecast"],
        "score": facts["score"],
        "forecast_says": forecast_in_words(facts["score"]),
        "evaluate": evaluate,
        "hardest": sorted(evaluate["per_class"].items(), key=lambda item: item[1]["f1"]),  # stable: else their order
    }


def _conditions(facts: dict[str, Facts]) -> dict[str, Any]:
    """The machine that the latencies were measured on, and every cell of them."""
    conditions = facts["latency"]["conditions"]
    names = {
        "cpu": "processor",
        "flags": "instruction sets",
        "cores": "cores in use",
        "system": "system",
        "onnxruntime": "ONNX Runtime",
        "load_average": "load when measured",
    }
    timings = [
        {"name": name, "setting": cell_in_words(cell), **numbers}
        for name, cells in facts["latency"].items()
        if name != "conditions"
        for cell, numbers in cells.items()
    ]
    shown = {title: conditions[name] for name, title in names.items() if conditions.get(name) not in (None, "")}
    return {"conditions": shown, "timings": timings}
