"""Turn the stages' metrics into template variables, one function per section of the report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from isoflop.report import formats
from isoflop.report.charts import Point, draw_curves, draw_sensitivity, draw_tradeoff
from isoflop.report.facts import Facts, Points, Row, Variant, cell_in_words, share_interval
from isoflop.report.glossary import DROP_REASONS, LAW_PARAMETERS, LAW_PICTURES, OPTIMUM_PICTURES, SIZES_PICTURE
from isoflop.report.rendering import read_picture
from isoflop.report.scaling_words import (
    SYMBOLS,
    data_in_words,
    diagnostics_in_words,
    forecast_in_words,
    format_rows,
    held_out_in_words,
    lack_in_words,
    next_run_in_words,
    next_size_in_words,
    profile_in_words,
    shipped_in_words,
    trust_in_words,
)
from isoflop.runtime.errors import unmade
from isoflop.runtime.stage_code import project_code_sha256
from isoflop.shipping.redaction import is_private, published

_MOST_DROPPED = 20  # rows shown
_MOST_CONFUSIONS = 6
_MOST_CHANGED = 12  # predictions shown
_LOOSE = 0.25  # relative error above which a prediction inside its interval is no confirmation
_PLACES = {"interpolated": "no", "extrapolated": "yes", "unbounded": "no optimum"}


def answer(facts: Mapping[str, Facts], choice: Facts, rows: Sequence[Variant]) -> dict[str, Any]:
    """The shipped variant and why it was chosen."""
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
        "latency_of": f"median, {cell_in_words(facts['latency']['conditions']['headline'])}",
    }


def _verdict(score: Facts, in_study: bool) -> str:
    if score["inside"] is None:
        return "Not testable (no interval)"
    if not score["inside"]:
        return "Missed"
    if score["accuracy_inside"] is False:
        return "Inside for the loss, missed for the accuracy"
    if score["relative_error"] is None or abs(score["relative_error"]) > _LOOSE:
        return f"Inside a wide interval (error above {100 * _LOOSE:.0f} %)"
    return "Consistent, but no test: the law was fitted to runs of this width" if in_study else "Confirmed"


def data(facts: Facts, dropped: Sequence[Row]) -> dict[str, Any]:
    """The images of each split, and those that cleaning dropped."""
    return {"data": facts, "dropped": dropped[:_MOST_DROPPED], "reasons": DROP_REASONS}


def training(facts: Mapping[str, Facts], curves: Mapping[str, Mapping[str, Points]]) -> dict[str, Any]:
    """The training of the base model and its curves."""
    return {
        "train": facts["train"],
        "speed": facts["throughput"],
        "curves": [
            draw_curves(quantity, series)
            for quantity, series in curves.items()
            if any(len(points) > 1 for points in series.values())  # a single epoch is in the text
        ],
    }


def quality(evaluate: Facts, answers: Sequence[Row]) -> dict[str, Any]:
    """The base model's metrics on the test split, and its most frequent confusions."""
    confused = Counter((row["actual"], row["predicted"]) for row in answers if row["actual"] != row["predicted"])
    return {
        "evaluate": evaluate,
        "evaluate_interval": share_interval(evaluate["accuracy"], evaluate["images"]),
        "mistakes": sum(confused.values()),
        "confusions": sorted(confused.items(), key=lambda item: -item[1])[:_MOST_CONFUSIONS],
        "hardest": sorted(evaluate["per_class"].items(), key=lambda item: item[1]["f1"]),
    }


def study(facts: Mapping[str, Facts], pictures: Path | None) -> dict[str, Any]:
    """The scaling study: ``law`` and what follows from it, or None and in ``study_line`` why there is no law."""
    found = facts.get("scaling")
    if found is None:
        return {"law": None, "study_line": "not on this page: `dvc repro` runs the study and writes study/index.html"}
    if found.get("lacks"):
        return {"law": None, "study_line": lack_in_words(found)}
    return {
        **_law(found, facts["forecast"]["flags"], pictures),
        "forecast": facts["forecast"],
        "score": facts["score"],
        "next_size": next_size_in_words(found, facts["forecast"]),
        "forecast_result": forecast_in_words(facts["score"]),
        "format_rows": format_rows(facts["score"]),
        "shipped_result": shipped_in_words(facts["score"]),
        "verdict": _verdict(facts["score"], facts["forecast"]["in_study"]),
        "diagnostics": diagnostics_in_words(diagnosis["kind"] for diagnosis in found["diagnostics"]),
    }


def _law(found: Facts, flags: Sequence[str], pictures: Path | None) -> dict[str, Any]:
    """The fitted law: its parameters, tests and predictions.

    Args:
        pictures: folder of its figures, one panel each; what could not be drawn is not there.

    Raises:
        UserError: the folder is missing.
    """
    if not (pictures and pictures.is_dir()):
        raise unmade(pictures or Path("scaling/pictures"))
    drawn = {file.stem: read_picture(file) for file in sorted(pictures.glob("*.svg"))}
    rows = [
        {
            "symbol": SYMBOLS.get(name, name),
            "value": formats.loss(known["value"]),
            "interval": formats.between(known["low"], known["high"]),
            "meaning": LAW_PARAMETERS.get(name, ""),
        }
        for name, known in found["parameters"].items()
    ]
    return {
        "law": found,
        "law_rows": rows,
        "law_pictures": {title: drawn[name] for name, title in LAW_PICTURES.items() if name in drawn},
        "optimum_pictures": {title: drawn[name] for name, title in OPTIMUM_PICTURES.items() if name in drawn},
        "held_out_picture": drawn.get("held_out"),
        "image_sizes": image_size_rows(found.get("image_sizes", [])),
        "sizes_picture": drawn.get(SIZES_PICTURE[0]),
        "sizes_title": SIZES_PICTURE[1],
        "places": _PLACES,
        "has_optimum": any(best["parameters"] is not None for best in (found["optimal"] or {}).values()),
        "held_out_result": held_out_in_words(found),
        "trust": trust_in_words(found),
        "data_advice": data_in_words(found["data_question"]),
        "next_run": next_run_in_words(found["next_run"]),
        "profiles": [profile_in_words(profile) for profile in found["profiles"]],
        "forecast_flags": diagnostics_in_words(flags),
    }


def image_size_rows(sizes: Sequence[Facts]) -> list[Facts]:
    """The rows of scaling.json's ``image_sizes``, each with its width of the lowest loss."""
    return [row | {"best": min(row["points"], key=lambda point: point["loss"], default=None)} for row in sizes]


def compression(
    facts: Mapping[str, Facts], rows: Sequence[Variant], quantized: Mapping[str, Facts], changed: Sequence[Row]
) -> dict[str, Any]:
    """Trade-offs, changed predictions, quantization per layer, sessions and latencies."""
    images = facts["data"]["images"]["test"]
    points = [
        Point(row.name + (" (shipped)" if row.shipped else ""), row.accuracy, *share_interval(row.accuracy, images),
              row.latency_ms, row.bytes, 0, row.shipped)
        for row in rows
    ]  # fmt: skip
    shipped = next(row.name for row in rows if row.shipped)
    of_shipped = [change for change in changed if change["variant"] == shipped]
    return {
        "tradeoffs": {by: draw_tradeoff(points, by) for by in ("latency_ms", "bytes")},
        "quantized": quantized,
        "sensitivity": {name: draw_sensitivity(name, found["layers"]) for name, found in quantized.items()},
        "sessions": facts["sessions"],
        "changed_images": len({change["image"] for change in changed}),
        "changed": of_shipped[:_MOST_CHANGED],
        "changed_of_shipped": len(of_shipped),
        **_conditions(facts["latency"]),
    }


def _conditions(latency: Facts) -> dict[str, Any]:
    """The machine on which latency was measured, and the latency of every setting."""
    conditions = latency["conditions"]
    names = {
        "cpu": "CPU",
        "flags": "instruction sets",
        "cores": "cores available",
        "system": "OS",
        "onnxruntime": "ONNX Runtime",
        "load_average": "load average",
    }
    timed = {name: cells for name, cells in latency.items() if name != "conditions"}
    settings = list(next(iter(timed.values())))
    timings = {name: [cells[setting] for setting in settings] for name, cells in timed.items()}
    shown = {title: conditions[name] for name, title in names.items() if conditions.get(name) not in (None, "")}
    return {"conditions": shown, "timings": timings, "settings": list(map(cell_in_words, settings))}


def provenance(
    facts: Mapping[str, Facts], trained: Mapping[str, Facts], runs: Sequence[Row], params: Facts
) -> dict[str, Any]:
    """Parameters, hashes of code and data, versions, and the compute of each training.

    Nothing depends on when or where the page is rendered: the code is identified by a hash instead of a commit, and
    what the caches saved is left to ``isoflop savings``.

    Args:
        trained: name → metrics of the models that the compression stages trained.
        runs: runs of the study that the law was fitted to; empty on the page without the study.
    """
    costs = [{"what": "base", "epochs": facts["train"]["epochs"], "flops": facts["train"]["training_flops"],
              "seconds": facts["throughput"]["seconds"]}]  # fmt: skip
    costs += [
        {"what": name, "epochs": found["epochs"], "flops": found["training_flops"], "seconds": None}
        for name, found in trained.items()
    ]
    if runs:
        study = sum(float(run["flops"]) for run in runs)
        costs.append({"what": f"scaling study, {len(runs)} runs", "epochs": None, "flops": study, "seconds": None})
    return {
        "params": yaml.dump(
            published(params), Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=False, width=1000
        ),
        "data_md5": {} if is_private(params) else facts["data"]["md5"],
        "code_sha256": project_code_sha256(Path()),
        "versions": facts["throughput"]["versions"] | {"ONNX Runtime": facts["latency"]["conditions"]["onnxruntime"]},
        "costs": costs,
        "total_flops": sum(float(cost["flops"]) for cost in costs),
    }


class _Dumper(yaml.SafeDumper):
    """Lists of scalars on one line, as in params.yaml."""

    def represent_sequence(self, tag: str, sequence: Any, flow_style: bool | None = None) -> yaml.SequenceNode:
        plain = not any(isinstance(item, dict | list) for item in sequence)
        return super().represent_sequence(tag, sequence, flow_style=plain)
