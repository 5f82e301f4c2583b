"""Training curves as inline SVG: sharp at any size, and its colours follow the page's light or dark scheme."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from isoflop.errors import UserError

_WIDTH, _HEIGHT = 360, 210  # of the drawing, in its own units
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 12, 30
_MOST_POINTS = 300  # more than these cannot be told apart at that width

Points = list[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """A named curve as the points of an SVG polyline."""

    name: str
    points: str
    last: float


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: where it stands in the drawing, and what is written there."""

    at: float
    label: str


@dataclass(frozen=True)
class Chart:
    """Curves of one quantity over the steps of training, laid out for the template."""

    title: str
    lines: list[Line]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = _HEIGHT - _BOTTOM


def read_charts(folder: Path) -> list[Chart]:
    """A chart of each quantity that DVCLive logged below ``folder``: train/loss.tsv and val/loss.tsv share one.

    Raises:
        UserError: ``folder`` holds no curves, or one that cannot be read.
    """
    quantities: dict[str, dict[str, Points]] = {}
    root = folder / "plots" / "metrics"
    for file in sorted(root.rglob("*.tsv")):
        points = [(x, y) for x, y in _read(file) if math.isfinite(y)]
        if points:
            series = file.parent.relative_to(root).as_posix()
            quantities.setdefault(file.stem, {})["" if series == "." else series] = points
    if not quantities:
        raise UserError(f"{folder}: found no curves, expected plots/metrics/**.tsv; `dvc repro` writes them")
    return [draw(title, series) for title, series in sorted(quantities.items())]


def draw(title: str, series: dict[str, Points]) -> Chart:
    """Lay out curves of a quantity, given as points (step, value) in order."""
    thinned = {name: thin(points) for name, points in series.items()}
    xs = [x for points in thinned.values() for x, _ in points]
    ys = [y for points in thinned.values() for _, y in points]
    x_low, x_high = min(xs), max(max(xs), min(xs) + 1)
    y_marks = round_numbers(min(ys), max(ys))
    y_low, y_high = min(y_marks[0], *ys), max(y_marks[-1], *ys)

    def x_at(x: float) -> float:
        return round(_LEFT + (x - x_low) / (x_high - x_low) * (_WIDTH - _LEFT - _RIGHT), 1)

    def y_at(y: float) -> float:
        return round(_HEIGHT - _BOTTOM - (y - y_low) / (y_high - y_low) * (_HEIGHT - _TOP - _BOTTOM), 1)

    lines = [
        Line(name, " ".join(f"{x_at(x)},{y_at(y)}" for x, y in points), points[-1][1])
        for name, points in thinned.items()
    ]
    x_marks = [mark for mark in round_numbers(x_low, x_high) if x_low <= mark <= x_high and mark == int(mark)]
    return Chart(
        title, lines, [Tick(x_at(mark), f"{mark:g}") for mark in x_marks], [Tick(y_at(y), f"{y:.6g}") for y in y_marks]
    )


def thin(points: Sequence[tuple[float, float]]) -> Points:
    """At most 300 points: the means of runs of neighbours, and the last as it is."""
    if len(points) <= _MOST_POINTS:
        return list(points)
    size = math.ceil(len(points) / (_MOST_POINTS - 1))
    runs = [points[start : start + size] for start in range(0, len(points) - 1, size)]
    return [(sum(x for x, _ in run) / len(run), sum(y for _, y in run) / len(run)) for run in runs] + [points[-1]]


def round_numbers(low: float, high: float) -> list[float]:
    """Three to seven multiples of 1, 2 or 5 times a power of ten that hold ``low`` to ``high`` between them."""
    span = high - low or abs(high) or 1.0
    power: float = 10.0 ** math.floor(math.log10(span / 4))
    step = next(factor * power for factor in (1, 2, 5, 10) if span / (factor * power) <= 5)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def _read(file: Path) -> Iterator[tuple[float, float]]:
    with file.open(newline="", encoding="utf-8") as stream:
        for number, row in enumerate(csv.DictReader(stream, delimiter="\t"), start=2):
            try:
                yield float(row["step"]), float(row[file.stem])
            except (KeyError, TypeError, ValueError):
                raise UserError(
                    f"{file}: found {row} in line {number}, expected numbers in step and {file.stem}"
                ) from None
