"""Training curves as DVCLive logged them, read for the page."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from isoflop.runtime.errors import UserError

_FIRST = {"loss": 0, "nll": 1, "accuracy": 2}
_MOST_POINTS = 300  # more than these cannot be told apart at a figure's width

Points = list[tuple[float, float]]


def read_curves(folder: Path) -> dict[str, dict[str, Points]]:
    """Quantity → series → points (epoch, value) of what lies below ``folder``: train/loss.tsv and val/loss.tsv are two
    series of one quantity.

    Raises:
        UserError: ``folder`` holds no curves, or one that cannot be read.
    """
    quantities: dict[str, dict[str, Points]] = {}
    root = folder / "plots" / "metrics"
    for file in sorted(root.rglob("*.tsv")):
        points = [(x, y) for x, y in _read(file) if math.isfinite(y)]
        if points:
            series = file.parent.relative_to(root).as_posix()
            quantities.setdefault(file.stem, {})["" if series == "." else series] = thin(points)
    if not quantities:
        raise UserError(f"{folder}: found no curves, expected plots/metrics/**.tsv; `dvc repro` writes them")
    return dict(sorted(quantities.items(), key=lambda item: (_FIRST.get(item[0], len(_FIRST)), item[0])))


def thin(points: Sequence[tuple[float, float]]) -> Points:
    """At most 300 points: the means of runs of neighbours, and the last as it is."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / (_MOST_POINTS - 1))
    runs = [points[start : start + size] for start in range(0, len(points) - 1, size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs] + [points[-1]]


def _read(file: Path) -> Iterator[tuple[float, float]]:
    with file.open(newline="", encoding="utf-8") as stream:
        for number, row in enumerate(csv.DictReader(stream, delimiter="\t"), start=2):
            try:
                yield float(row["step"]), float(row[file.stem])
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{file}: found {row} in line {number}, expected numbers in step and {file.stem}"
                ) from None
