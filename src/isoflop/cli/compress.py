"""What ``isoflop compress`` prints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from isoflop.cli.summary import print_lines
from isoflop.report.formats import ms, percent, size, times


def show(facts: dict[str, Any], folder: Path) -> None:
    """Print what came of it, for people."""
    latency, weight = facts["latency"], facts["bytes"]
    layers = sorted(facts["layers"], key=lambda layer: -layer["error"])
    floats = [layer["name"] for layer in layers if not layer["int8"]]
    judged = facts["images"]["judged_on"]
    lines = [
        ("size", f"{size(weight['float'])} in float, {size(weight['int8'])} in 8 bits"),
        ("latency", f"{ms(latency['float_ms'])} and {ms(latency['int8_ms'])}, 1 image at a time, 1 thread: "
         f"{times(latency['speedup'])} as fast ({latency['speedup_low']:.2f} to {latency['speedup_high']:.2f})"),
        ("says", f"another class for {facts['changed_predictions']} of {judged} images; logits off by "
         f"{percent(facts['errors'][facts['method']])} (rms) with all layers in 8 bits, ranges by {facts['method']}"),
        ("layers", f"{len(layers) - len(floats)} of {len(layers)} in 8 bits; most sensitive: "
         + ", ".join(f"{layer['name']} {percent(layer['error'])}" for layer in layers[:3])),
    ]  # fmt: skip
    if floats:
        lines.append(("in float", ", ".join(floats)))
    if not facts["within_max_accuracy_drop"]:
        lines.append(("beware", "more predictions change than --max-flips allows, even with one layer in 8 bits"))
    lines += [("warning", text) for text in facts["audit"]["int8"]["warnings"]]
    print_lines([*lines, ("written", f"{folder}: model-int8.onnx, calibration.json, compress.json")])
