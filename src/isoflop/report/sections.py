"""What each section of the report shows, from the facts that the stages wrote to what the templates are given."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from isoflop.report import formats
from isoflop.report.charts import Point, draw_curves, draw_sensitivity, draw_tradeoff
from isoflop.report.curve_series import Points
from isoflop.report.facts import Facts, Row, Variant, cell_in_words, share_interval
from isoflop.report.glossary import DROP_REASONS, LAW_PARAMETERS
from isoflop.report.scaling_words import (
    SYMBOLS,
    data_in_words,
    forecast_in_words,
    held_out_in_words,
    next_run_in_words,
    next_size_in_words,
    profile_in_words,
)

_MOST_DROPPED = 20  # rows shown
_MOST_CONFUSIONS = 6
_MOST_FLIPS = 12
_LOOSE = 0.25  # off by more than this, a prediction within its interval says little
_PLACES = {"interpolated": "inside", "extrapolated": "beyond", "unbounded": "none: no best size"}


def answer(facts: Mapping[str, Facts], choice: Facts, rows: Sequence[Variant]) -> dict[str, Any]:
    """What ships and why, and what the law says of the next size."""
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
        "next_size_says": next_size_in_words(facts["scaling"], facts["forecast"]),
        "forecast_says": forecast_in_words(facts["score"]),
        "verdict": _verdict(facts["score"]),
        "diagnostics": list(
            dict.fromkeys(found["kind"].replace("_", " ") for found in facts["scaling"]["diagnostics"])
        ),
    }


def _verdict(score: Facts) -> str:
    if score["inside"] is None:
        return "cannot be judged, as it had no interval"
    if not score["inside"]:
        return "did not hold"
    far = score["relative_error"] is None or abs(score["relative_error"]) > _LOOSE
    return "held, but loosely" if far else "held"


def data(facts: Facts, dropped: Sequence[Row]) -> dict[str, Any]:
    """What the images are, and which were dropped."""
    return {"data": facts, "dropped": dropped[:_MOST_DROPPED], "reasons": DROP_REASONS}


def training(facts: Mapping[str, Facts], curves: Mapping[str, Mapping[str, Points]]) -> dict[str, Any]:
    """The training beside its forecast."""
    return {
        "train": facts["train"],
        "speed": facts["throughput"],
        "forecast": facts["forecast"],
        "score": facts["score"],
        "curves": [draw_curves(quantity, series) for quantity, series in curves.items()],
    }


def quality(evaluate: Facts, answers: Sequence[Row]) -> dict[str, Any]:
    """How the base model does on the test split, and what it mixes up."""
    mixed = Counter((row["actual"], row["predicted"]) for row in answers if row["actual"] != row["predicted"])
    return {
        "evaluate": evaluate,
        "evaluate_interval": share_interval(evaluate["accuracy"], evaluate["images"]),
        "mistakes": sum(mixed.values()),
        "confusions": sorted(mixed.items(), key=lambda item: -item[1])[:_MOST_CONFUSIONS],
        "hardest": sorted(evaluate["per_class"].items(), key=lambda item: item[1]["f1"]),  # stable: else their order
    }


def law(found: Facts) -> dict[str, Any]:
    """The law's figures, each with what it says."""
    rows = [
        {
            "symbol": SYMBOLS.get(name, name),
            "value": formats.loss(known["value"]),
            "interval": formats.between(known["low"], known["high"]),
            "says": LAW_PARAMETERS.get(name, ""),
        }
        for name, known in found["parameters"].items()
    ]
    return {
        "law": found,
        "law_rows": rows,
        "places": _PLACES,
        "held_out_says": held_out_in_words(found),
        "data_says": data_in_words(found["data_question"]),
        "next_run_says": next_run_in_words(found["next_run"]),
        "profiles_say": [profile_in_words(profile) for profile in found["profiles"]],
    }


def compression(
    facts: Mapping[str, Facts], rows: Sequence[Variant], quantized: Mapping[str, Facts], flips: Sequence[Row]
) -> dict[str, Any]:
    """The trade-offs, the layers, the flips, and the machine that the latencies were measured on."""
    images = facts["data"]["images"]["test"]
    points = [
        Point(row.name + (" (shipped)" if row.shipped else ""), row.accuracy, *share_interval(row.accuracy, images),
              row.latency_ms, row.bytes, 0, row.shipped)
        for row in rows
    ]  # fmt: skip
    shipped = next(row.name for row in rows if row.shipped)
    of_shipped = [flip for flip in flips if flip["variant"] == shipped]
    return {
        "tradeoffs": {by: draw_tradeoff(points, by) for by in ("latency_ms", "bytes")},
        "quantized": quantized,
        "sensitivity": {name: draw_sensitivity(name, found["layers"]) for name, found in quantized.items()},
        "sessions": facts["sessions"],
        "flipped": len({flip["image"] for flip in flips}),
        "flips": of_shipped[:_MOST_FLIPS],
        "flips_of_shipped": len(of_shipped),
        **_conditions(facts["latency"]),
    }


def _conditions(latency: Facts) -> dict[str, Any]:
    """The machine that the latencies were measured on, and every cell of them."""
    conditions = latency["conditions"]
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
        for name, cells in latency.items()
        if name != "conditions"
        for cell, numbers in cells.items()
    ]
    shown = {title: conditions[name] for name, title in names.items() if conditions.get(name) not in (None, "")}
    return {"conditions": shown, "timings": timings}
