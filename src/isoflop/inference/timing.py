"""Measure the speedup of networks over a base network in ONNX Runtime, before any of them is trained."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from isoflop.inference.benchmarking import time_in_turns
from isoflop.inference.onnx_export import export
from isoflop.inference.onnx_files import INPUT, open_session
from isoflop.models.model_files import Model

_OPSET = 20
_REPEATS, _WARMUP = 100, 20


def measured_speedups(base: Model, others: Sequence[Model]) -> list[float]:
    """Return the base's median time divided by each other network's: batch 1, one thread, timed in turns.

    The times do not depend on the weights. They do depend on the load of the machine.
    """
    with tempfile.TemporaryDirectory() as scratch:
        files = [Path(scratch) / f"{index}.onnx" for index in range(1 + len(others))]
        for model, file in zip((base, *others), files, strict=True):
            export(model, "timed", file, _OPSET)
        sessions = [open_session(str(file), threads=1) for file in files]
    built = base.architecture
    feed = {INPUT: np.zeros((1, built.image_size, built.image_size, built.channels), np.uint8)}
    medians = [float(np.median(times)) for times in time_in_turns(sessions, feed, _REPEATS, _WARMUP)]
    return [medians[0] / median for median in medians[1:]]
