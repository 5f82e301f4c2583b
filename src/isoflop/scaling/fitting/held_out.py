"""Hold out the top factor of two of a study's first axis, predict it from the rest, and compare with the runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoflop.scaling.fitting.backtests import MIN_FACTOR
from isoflop.scaling.fitting.law_fitting import fit_law
from isoflop.scaling.fitting.laws import Law
from isoflop.scaling.forms import AXIS_NAMES, AnyForm
from isoflop.scaling.tables.runs import MIN_WIDTHS, SAME, Run, Study

_BOOTSTRAPS = 200  # at most: a test needs no smoother interval


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
    """The top levels of the study's first axis, predicted by ``law``, which is fitted to the runs up to ``edge``.

    ``comparisons`` are in ascending order of the level, unique samples and samples seen.
    """

    name: str
    axis: str
    level: float  # the largest
    edge: float  # the largest that the law is fitted to
    width: int | None
    law: Law
    comparisons: list[Comparison]

    chosen: bool = False  # the user named the runs

    def includes(self, run: Run) -> bool:
        """Whether a run is held out, so that ``law`` was not fitted to it."""
        if self.chosen:
            return run.held
        return float(getattr(run, self.axis)) > self.edge


def hold_out(
    study: Study,
    bootstraps: int,
    rng: np.random.Generator,
    objective: str,
    *,
    resampling: str = "auto",
    forms: Sequence[AnyForm] | None = None,
) -> HeldOut | None:
    """Predict the top levels of the first axis from the others; None if fewer than 3 levels would remain.

    If the study names runs to hold out, they are predicted instead. Otherwise the largest level is about twice the
    largest that is fitted, or more: a shorter distance tests nothing.
    """
    axis = study.axes[0]
    chosen = any(run.held for run in study.runs)
    largest = max(study.column(axis))
    rest = study.only([not run.held if chosen else getattr(run, axis) <= largest / MIN_FACTOR for run in study.runs])
    if not rest.runs or len(rest.level_values(axis)) < MIN_WIDTHS:
        return None
    kept = None if forms is None else [form for form in forms if set(form.axes) <= set(rest.axes)]
    if kept == []:
        return None
    law = fit_law(rest, min(bootstraps, _BOOTSTRAPS), rng, objective, resampling=resampling, forms=kept)
    edge = float(max(rest.column(axis)))
    outside = [run for run in study.runs if (run.held if chosen else getattr(run, axis) > edge)]
    level = max(float(getattr(run, axis)) for run in outside)
    constant = [name for name in study.axes if name not in rest.axes]
    levels = np.array(study.level_values(axis))
    groups: dict[tuple[int, float, float], list[Run]] = {}
    for run in outside:
        if chosen or all(getattr(run, name) == getattr(rest.runs[0], name) for name in constant):
            place = int(np.searchsorted(levels, getattr(run, axis), side="right"))
            groups.setdefault((place, run.unique_samples, run.seen_samples), []).append(run)
    comparisons = [_comparison(law, runs) for _, runs in sorted(groups.items())]
    widths = {run.width for run in outside}
    single = int((levels > edge * SAME).sum()) == 1
    name = study.size_name(level) if axis == "parameters" else f"{level:.3g} {AXIS_NAMES[axis]}"
    name = name if single else f"{AXIS_NAMES[axis]} above {edge:.3g}"
    name = f"{len(outside)} runs ({study.held_out})" if chosen else name
    width = widths.pop() if len(widths) == 1 else None
    return HeldOut(name, axis, level, edge, width, law, comparisons, chosen) if comparisons else None


def _comparison(law: Law, runs: list[Run]) -> Comparison:
    losses = np.array([run.loss for run in runs], np.float64)
    names = ("parameters", "unique_samples", "seen_samples", "flops")
    levels = {name: float(getattr(runs[0], name)) for name in names}
    predicted, bounds = law.prediction(levels, len(losses))
    low, high = bounds or (None, None)
    sd = float(losses.std(ddof=1)) if len(losses) > 1 else None
    return Comparison(levels, len(losses), predicted, low, high, float(losses.mean()), sd)
