"""What ``isoflop compress`` prints."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from isoflop.cli.summary import print_lines
from isoflop.compression.layer_words import group_of
from isoflop.report.formats import ms, percent, size, times
from isoflop.runtime.terminal import printable

_WORTH_IT = 1.1  # speed-up below which INT8 is not worth an error
_RANGES = {"dynamic": "ranges of activations computed in every run; between linear layers in float"}
_ANSWERS = {
    "class": "the class with the largest score",
    "above half": "one probability, above 0.5 or not",
    "above zero": "one logit, above 0 or not",
    "labels above half": "every label whose probability is above 0.5",
}


def show(facts: dict[str, Any], folder: Path) -> None:
    """Print the content of compress.json as text."""
    latency, weight = facts["latency"], facts["bytes"]
    images = "1 image" if latency["batch"] == 1 else f"{latency['batch']} images"
    lines = [
        ("size", f"float {size(weight['float'])}, INT8 {size(weight['int8'])}"),
        ("latency", f"float {ms(latency['float_ms'])}, INT8 {ms(latency['int8_ms'])} ({images} at a time, 1 thread): "
         f"speed-up {times(latency['speedup'])} ({latency['speedup_low']:.2f} to {latency['speedup_high']:.2f})"),
        ("changed", f"{facts['changed_predictions']} of {facts['images']['judged_on']} predictions "
         f"({_ANSWERS[facts['input']['answer']]})"),
        ("error", f"{percent(facts['errors'][facts['method']])} of the outputs (RMS) with all layers in INT8, "
         f"{_RANGES.get(facts['method'], 'ranges by ' + facts['method'])}"),
        *_layers(facts["layers"]),
    ]  # fmt: skip
    lines += [("warning", text) for text in (*facts["warnings"], *facts["audit"]["int8"]["warnings"])]
    lines += [("do", text) for text in advice(facts)]
    lines += [("written", f"{folder}: model-int8.onnx, calibration.json, compress.json")]
    print_lines([(title, printable(line)) for title, line in lines])


def _layers(layers: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Count the layers by kind, and name the sensitive ones and those in float."""
    groups = Counter(group_of(layer["words"]) for layer in layers)
    int8 = Counter(group_of(layer["words"]) for layer in layers if layer["int8"])
    floats = [layer["words"] for layer in layers if not layer["int8"]]
    counted = ", ".join(f"{kind}s {int8[kind]} of {count}" for kind, count in groups.items())
    ranked = sorted(layers, key=lambda layer: -layer["error"])
    sensitive = "; ".join(f"{layer['words']}: {percent(layer['error'])}" for layer in ranked[:3])
    lines = [
        ("layers", f"{len(layers) - len(floats)} of {len(layers)} in INT8: {counted}"),
        ("sensitive", f"error of what a layer computes, RMS, with only that layer in INT8: {sensitive}"),
    ]
    return [*lines, ("in float", "; ".join(floats))] if floats else lines


def advice(facts: dict[str, Any]) -> list[str]:
    """Return what to do about the result, most useful first."""
    floats = [layer for layer in facts["layers"] if not layer["int8"]]
    found = []
    if not facts["within_max_accuracy_drop"]:
        found.append(
            "more predictions change than --max-changed allows, even with one layer in INT8: calibrate with images "
            "that look like those in use, check --mean and --std, or raise --max-changed"
        )
    elif floats:
        allowed = facts["changed_predictions"] / facts["images"]["judged_on"]
        found.append(
            f"{len(floats)} layers stay in float to keep the changed predictions at {percent(allowed)}: raise "
            "--max-changed, or train with fake quantization (stage qat), to have them in INT8"
        )
    if facts["latency"]["speedup"] < _WORTH_IT:
        found.append("INT8 is hardly faster on this machine: ship the float model, or measure on the target")
    return found
