"""Measure latency in ONNX Runtime: percentiles, and the speedup over the base with a confidence interval.

Variants are timed in turns, so that a temporary slowdown of the machine affects all of them: the ratio varies less
than the times. A turn has several runs, because the first one starts with caches filled by the previous variant.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from isoflop.inference.onnx_files import INPUT, OnnxClassifier, cores, open_classifier
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section
from isoflop.runtime.progress import tracked
from isoflop.training.cpu import processor

_RUNS_A_TURN = 5
_FEWEST_TURNS = 4
_MOST_S_A_CELL = 30.0  # all variants together; beyond _FEWEST_TURNS: a large network does not need 200 repeats
_BOOTSTRAPS = 1000
_FLAGS = ("avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm")

Times = npt.NDArray[np.float64]  # [turns, runs], ms
Feed = dict[str, npt.NDArray[Any]]  # inputs by name


class Benchmark(Section):
    """Section ``benchmark``. Every batch size is timed with every number of threads. Numbers of threads above the
    number of cores are reduced to it. Graphs exported with a batch of 1 are timed with that batch size only.

    ``repeats`` is rounded up to a multiple of 5, the runs per turn.
    """

    batch_sizes: list[Annotated[int, Field(ge=1, le=4096)]] = Field(min_length=1, max_length=100)  # images per run
    threads: list[Annotated[int, Field(ge=1, le=4096)]] = Field(min_length=1, max_length=100)  # threads of ONNX Runtime
    repeats: int = Field(ge=1, le=100_000)  # timed runs per variant
    warmup: int = Field(ge=0, le=100_000)  # untimed runs before the timed ones


def benchmark(files: Sequence[Path], params: Benchmark) -> dict[str, dict[str, Any]]:
    """Time the ONNX files in turns; the first is the base that the others are compared to.

    Returns:
        A block for each file, named by its stem, with a cell for each batch size and number of threads
        (``base.batch1_threads1.p50_ms``): p50, p95 and p99 in ms, ``images_per_s``, and ``speedup``, the base's median
        time divided by this file's, with its 95 % interval ``speedup_low`` to ``speedup_high``. In addition a block
        ``conditions``; its ``headline`` names the cell with the smallest batch and the fewest threads.

    Raises:
        UserError: a file is unreadable or was not exported by isoflop, two files have the same name, or the files take
            images of different shapes.
    """
    names = [file.stem for file in files]
    if len(set(names)) < len(names) or "conditions" in names:
        raise UserError(f"benchmark: got the names {', '.join(names)}, expected unique names other than 'conditions'")
    counts = sorted({min(count, cores()) for count in params.threads})
    fixed = {batch for file in files if (batch := open_classifier(file).batch)}
    cells = [(batch, threads) for threads in counts for batch in sorted(fixed or set(params.batch_sizes))]
    conditions = _conditions(_cell_name(*cells[0]))
    blocks: dict[str, dict[str, Any]] = {name: {} for name in names}
    for batch, threads in tracked(cells, f"timing {len(files)} variants in turns", "settings"):
        classifiers = [open_classifier(file, threads) for file in files]
        feed = {INPUT: _images(classifiers, files, batch)}
        opened = [classifier.session for classifier in classifiers]
        times = time_in_turns(opened, feed, params.repeats, params.warmup, _MOST_S_A_CELL)
        cell = _cell_name(batch, threads)
        conditions[f"runs_{cell}"] = times[0].size
        for name, times_TR in zip(names, times, strict=True):
            blocks[name][cell] = _summary(times_TR, times[0], batch)
    return blocks | {"conditions": conditions}


def speedup_interval(base_TR: Times, times_TR: Times, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % bootstrap interval of the ratio of medians. Each sample draws the same turns for both."""
    rng = np.random.default_rng(seed)
    turns = len(base_TR)
    drawn_ST = rng.integers(0, turns, (_BOOTSTRAPS, turns))
    base_S = np.median(base_TR[drawn_ST].reshape(_BOOTSTRAPS, -1), axis=1)
    times_S = np.median(times_TR[drawn_ST].reshape(_BOOTSTRAPS, -1), axis=1)
    low, high = np.percentile(base_S / times_S, [2.5, 97.5])
    return float(low), float(high)


def time_in_turns(
    sessions: Sequence[Any], feed: Feed, repeats: int, warmup: int, most_s: float = _MOST_S_A_CELL
) -> list[Times]:
    """Time each session on the same inputs, in turns: ``repeats`` runs, or fewer if they take over ``most_s``."""
    for session in sessions:
        for _ in range(warmup):
            session.run(None, feed)
    turns = -(-repeats // _RUNS_A_TURN)
    times: list[list[list[float]]] = [[] for _ in sessions]
    began = time.monotonic()
    for turn in range(turns):
        if turn >= _FEWEST_TURNS and time.monotonic() - began > most_s:
            break
        for session, taken in zip(sessions, times, strict=True):
            taken.append([_run_ms(session, feed) for _ in range(_RUNS_A_TURN)])
    return [np.array(taken) for taken in times]


def _run_ms(session: Any, feed: Feed) -> float:
    began = time.perf_counter_ns()
    session.run(None, feed)
    return (time.perf_counter_ns() - began) / 1e6


def _images(classifiers: Sequence[OnnxClassifier], files: Sequence[Path], batch: int) -> npt.NDArray[np.uint8]:
    shapes = {(item.image_size, item.channels) for item in classifiers}
    if len(shapes) > 1:
        raise UserError(f"{files[0].parent}: got images of {sorted(shapes)} (size, channels), expected one shape")
    size, channels = shapes.pop()
    return np.random.default_rng(0).integers(0, 256, (batch, size, size, channels)).astype(np.uint8)


def _summary(times_TR: Times, base_TR: Times, batch: int) -> dict[str, float]:
    p50, p95, p99 = np.percentile(times_TR, [50, 95, 99])
    low, high = speedup_interval(base_TR, times_TR)
    return {
        "p50_ms": round(float(p50), 5),
        "p95_ms": round(float(p95), 5),
        "p99_ms": round(float(p99), 5),
        "images_per_s": round(1000 * batch / float(p50), 1),
        "speedup": round(float(np.median(base_TR) / p50), 4),
        "speedup_low": round(low, 4),
        "speedup_high": round(high, 4),
    }


def _cell_name(batch: int, threads: int) -> str:
    return f"batch{batch}_threads{threads}"


def _conditions(headline: str) -> dict[str, Any]:
    """Return what the times depend on; the host's name is left out."""
    import onnxruntime

    model, flags = processor()
    return {
        "headline": headline,
        "cpu": model,
        "flags": " ".join(flag for flag in _FLAGS if flag in flags),
        "cores": cores(),
        "system": f"{platform.system()} {platform.machine()}",
        "onnxruntime": onnxruntime.__version__,
        "load_average": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
