"""Read what the stages wrote (JSON, CSV, training curves) into plain values for the report and the summary."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.runtime.damage import check_outputs
from isoflop.runtime.errors import UserError, unmade

_CURVE_ORDER = {"loss": 0, "nll": 1, "accuracy": 2}
_MOST_POINTS = 300  # of a curve; a figure cannot resolve more

Facts = dict[str, Any]
Row = dict[str, str]
Points = list[tuple[float, float]]


def read_facts(file: Path) -> Facts:
    """Return the content of a JSON file that a stage wrote.

    Raises:
        UserError: the file is missing or broken, or differs from dvc.lock.
    """
    check_outputs(file)
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise unmade(file) from None
    except ValueError as error:
        raise UserError(f"{file}: not readable ({error}); fix: `dvc checkout` restores it") from None
    if not isinstance(facts, dict):
        raise UserError(f"{file}: got {type(facts).__name__}, expected a mapping; fix: `dvc checkout` restores it")
    return facts


def read_rows(file: Path) -> list[Row]:
    """Return the rows of a CSV file that a stage wrote.

    Raises:
        UserError: the file is missing, or differs from dvc.lock.
    """
    check_outputs(file)
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except FileNotFoundError:
        raise unmade(file) from None


def read_curves(folder: Path) -> dict[str, dict[str, Points]]:
    """Return quantity → series → points (epoch, value) of the training curves that DVCLive logged below ``folder``.

    train/loss.tsv and val/loss.tsv are two series of the quantity ``loss``. Values that are not finite are dropped.

    Raises:
        UserError: ``folder`` holds no curves, or an unreadable one.
    """
    quantities: dict[str, dict[str, Points]] = {}
    root = folder / "plots" / "metrics"
    for file in sorted(root.rglob("*.tsv")):
        points = [(x, y) for x, y in _read_curve(file) if math.isfinite(y)]
        if points:
            series = file.parent.relative_to(root).as_posix()
            quantities.setdefault(file.stem, {})["" if series == "." else series] = thin(points)
    if not quantities:
        raise UserError(f"{folder}: got no curves, expected plots/metrics/**.tsv; fix: `dvc repro` writes them")
    return dict(sorted(quantities.items(), key=lambda item: (_CURVE_ORDER.get(item[0], len(_CURVE_ORDER)), item[0])))


def thin(points: Sequence[tuple[float, float]]) -> Points:
    """Reduce a curve to at most 300 points: means of consecutive points, and the last point unchanged."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / (_MOST_POINTS - 1))
    runs = [points[start : start + size] for start in range(0, len(points) - 1, size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs] + [points[-1]]


def _read_curve(file: Path) -> Iterator[tuple[float, float]]:
    with file.open(newline="", encoding="utf-8") as stream:
        for line, row in enumerate(csv.DictReader(stream, delimiter="\t"), start=2):
            try:
                yield float(row["step"]), float(row[file.stem])
            except (KeyError, TypeError, ValueError):
                raise UserError(f"{file}: line {line}: got {row}, expected numbers in step and {file.stem}") from None


def share_interval(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % confidence interval of a proportion measured on ``count`` cases (Wilson 1927)."""
    from scipy.stats import binomtest

    interval = binomtest(round(share * count), count).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


@dataclass(frozen=True)
class Variant:
    """Measured properties of one ONNX file of the pipeline."""

    name: str
    accuracy: float  # top-1, on the test split, as are nll and ece
    nll: float
    ece: float
    parameters: int
    macs: int  # per image
    bytes: int
    gzip_bytes: int
    agreement: float  # share of the test images on which ONNX Runtime and torch predict the same class
    latency_ms: float  # median of the benchmark's headline setting
    speedup: float  # latency of the base / latency, with its 95 % CI
    speedup_low: float
    speedup_high: float
    shipped: bool
    against_base: Facts | None  # None for the base itself


def variants(compared: Facts, timed: Facts, shipped: str) -> list[Variant]:
    """Join metrics/variants.json with the latencies of metrics/latency.json, in the order of the former.

    Args:
        shipped: name of the variant that ships.
    """
    cell = timed["conditions"]["headline"]
    fields = ("accuracy", "nll", "ece", "parameters", "macs", "bytes", "gzip_bytes", "agreement")
    found = []
    for name, scores in compared.items():
        times = timed[name][cell]
        speedups = {field: times[field] for field in ("speedup", "speedup_low", "speedup_high")}
        known = {field: scores[field] for field in fields}
        found.append(Variant(name, **known, **speedups, latency_ms=times["p50_ms"],
                             shipped=name == shipped, against_base=scores.get("against_base")))  # fmt: skip
    return found


def cell_in_words(cell: str) -> str:
    """``batch1_threads2`` → batch size 1, 2 threads"""
    batch, threads = map(int, re.findall(r"\d+", cell))
    return f"batch size {batch}, {threads} thread{'s' if threads != 1 else ''}"
