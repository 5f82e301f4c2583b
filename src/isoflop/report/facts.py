"""What the pipeline measured, read from its metrics files and put together for people: the report and the summary."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.runtime.errors import UserError, unmade

Facts = dict[str, Any]
Row = dict[str, str]


def read_facts(file: Path) -> Facts:
    """A JSON file that a stage wrote.

    Raises:
        UserError: it is missing or broken.
    """
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise unmade(file) from None
    except ValueError as error:
        raise UserError(f"{file}: not readable ({error}); `dvc checkout` restores it") from None
    if not isinstance(facts, dict):
        raise UserError(f"{file}: found {type(facts).__name__}, expected a mapping; `dvc checkout` restores it")
    return facts


def read_rows(file: Path) -> list[Row]:
    """A CSV that a stage wrote.

    Raises:
        UserError: it is missing.
    """
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            return list(csv.DictReader(stream))
    except FileNotFoundError:
        raise unmade(file) from None


def share_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share that was found in ``count`` cases (Wilson 1927)."""
    z = 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)


@dataclass(frozen=True)
class Variant:
    """An ONNX file of the pipeline: what it scores, weighs and takes."""

    name: str
    accuracy: float  # on the test split, as is nll
    nll: float
    ece: float
    parameters: int
    macs: int
    bytes: int
    gzip_bytes: int
    agreement: float  # share of the test images on which it says what its network says in torch
    latency_ms: float  # median, in the headline cell of the benchmark
    speedup: float  # the base's median over this one's, with its 95 % interval
    speedup_low: float
    speedup_high: float
    shipped: bool
    against_base: Facts | None  # None for the base itself


def variants(compared: Facts, timed: Facts, shipped: str) -> list[Variant]:
    """Each variant of metrics/variants.json with its times of metrics/latency.json, in their order.

    Args:
        shipped: the name of the variant that was chosen.
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
    """``batch1_threads2`` as people say it."""
    batch, threads = map(int, re.findall(r"\d+", cell))
    return f"{_many(batch, 'image')} at a time, {_many(threads, 'thread')}"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
