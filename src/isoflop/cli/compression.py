"""What ``isoflop compress`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isoflop.cli.summary import print_lines
from isoflop.report.formats import ms, percent, size, times


def show(facts: dict[str, Any], folder: Path) -> None:
    """Print the content of compress.json as text."""
    latency, weight = facts["latency"], facts["bytes"]
    layers = sorted(facts["layers"], key=lambda layer: -layer["error"])
    floats = [layer["name"] for layer in layers if not layer["int8"]]
    sensitive = ", ".join(f"{layer['name']} {percent(layer['error'])}" for layer in layers[:3])
    lines = [
        ("size", f"float {size(weight['float'])}, INT8 {size(weight['int8'])}"),
        ("latency", f"float {ms(latency['float_ms'])}, INT8 {ms(latency['int8_ms'])} (1 image at a time, 1 thread): "
         f"speed-up {times(latency['speedup'])} ({latency['speedup_low']:.2f} to {latency['speedup_high']:.2f})"),
        ("changed", f"{facts['changed_predictions']} of {facts['images']['judged_on']} predictions"),
        ("error", f"{percent(facts['errors'][facts['method']])} of the logits (RMS) with all layers in INT8, "
         f"ranges by {facts['method']}"),
        ("layers", f"{len(layers) - len(floats)} of {len(layers)} in INT8; largest errors: {sensitive}"),
    ]  # fmt: skip
    if floats:
        lines.append(("in float", ", ".join(floats)))
    if not facts["within_max_accuracy_drop"]:
        lines.append(("warning", "more predictions change than --max-changed allows, even with one layer in INT8"))
    lines += [("warning", text) for text in facts["audit"]["int8"]["warnings"]]
    print_lines([*lines, ("written", f"{folder}: model-int8.onnx, calibration.json, compress.json")])
