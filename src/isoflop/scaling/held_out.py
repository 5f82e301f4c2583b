"""Hold out the study's largest level, predict its loss by extrapolation from the rest, and compare with the runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isoflop.scaling.forms import AXIS_NAMES
from isoflop.scaling.law_fitting import fit_law
from isoflop.scaling.laws import Law
from isoflop.scaling.runs import MIN_WIDTHS, SAME, Run, Study


@dataclass(frozen=True)
class Comparison:
    """The held-out runs of one configuration: predicted loss and the measured mean over seeds."""

    levels: dict[str, float]
    seeds: int
    predicted: float
    low: float | None  # 95 % prediction interval of the mean over seeds
    high: float | None
    actual: float  # measured mean over seeds
    sd: float | None  # between seeds

    @property
    def relative_error(self) -> float:
        return self.predicted / self.actual - 1

    @property
    def covered(self) -> bool | None:
        """Whether the prediction interval contains the measured loss; None without an interval."""
        return None if self.low is None or self.high is None else self.low <= self.actual <= self.high


@dataclass(frozen=True)
class HeldOut:
    """The largest level of the study's first axis, predicted by ``law``, which is fitted to the other runs.

    ``comparisons`` are in ascending order of unique samples and samples seen.
    """

    name: str
    axis: str
    level: float
    width: int | None
    law: Law
    comparisons: list[Comparison]

    def includes(self, run: Run) -> bool:
        """Whether a run is held out, so that ``law`` was not fitted to it."""
        return float(getattr(run, self.axis)) > self.level / SAME


def hold_out(study: Study, bootstraps: int, rng: np.random.Generator, objective: str) -> HeldOut | None:
    """Predict the largest level of the first axis from the others; None if fewer than 3 levels would remain."""
    axis = study.axes[0]
    level = max(study.column(axis))
    rest = study.only([getattr(run, axis) <= level / SAME for run in study.runs])
    if not rest.runs or len(rest.level_values(axis)) < MIN_WIDTHS:
        return None
    law = fit_law(rest, bootstraps, rng, objective)
    constant = [name for name in study.axes if name not in rest.axes]
    groups: dict[tuple[float, float], list[Run]] = {}
    for run in study.runs:
        same = all(getattr(run, name) == getattr(rest.runs[0], name) for name in constant)
        if getattr(run, axis) > level / SAME and same:
            groups.setdefault((run.unique_samples, run.seen_samples), []).append(run)
    comparisons = [_comparison(law, runs) for _, runs in sorted(groups.items())]
    widths = {run.width for run in study.runs if getattr(run, axis) > level / SAME}
    name = study.size_name(level) if axis == "parameters" else f"{level:.3g} {AXIS_NAMES[axis]}"
    width = widths.pop() if len(widths) == 1 else None
    return HeldOut(name, axis, level, width, law, comparisons) if comparisons else None


def _comparison(law: Law, runs: list[Run]) -> Comparison:
    losses = np.array([run.loss for run in runs], np.float64)
    names = ("parameters", "unique_samples", "seen_samples", "flops")
    levels = {name: float(getattr(runs[0], name)) for name in names}
    predicted, bounds = law.prediction(levels, len(losses))
    low, high = bounds or (None, None)
    sd = float(losses.std(ddof=1)) if len(losses) > 1 else None
    return Comparison(levels, len(losses), predicted, low, high, float(losses.mean()), sd)
