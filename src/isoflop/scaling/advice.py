"""Advice from the law: the effect of doubling data, epochs or width, and the next run to add to the study."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from isoflop.scaling.diagnostics import MAX_EXTRAPOLATION
from isoflop.scaling.fitting.uncertainty import interval
from isoflop.scaling.forms import Floats
from isoflop.scaling.planning import Planner
from isoflop.scaling.tables.runs import SAME, Study

_ENOUGH = 0.5  # share of the best run's spread reduction that the recommended, cheapest run must reach
_MAX_LEVELS = 8  # candidates per axis
_TARGET = 10.0  # the target is the optimum of this multiple of the study's largest budget


@dataclass(frozen=True)
class Change:
    """The predicted loss after a change and its relative gain, 1 - loss after / loss before, with 95 % intervals."""

    loss: float
    loss_interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    flops_factor: float  # training FLOPs relative to the largest model on all data


@dataclass(frozen=True)
class DataQuestion:
    """The effect of twice the data, twice the epochs or twice the width on the study's largest model.

    Twice the data for the same epochs costs as many FLOPs as twice the epochs on the same data. ``twice_epochs`` is
    None if all runs have the same number of epochs. ``verdict`` is the change with the lowest predicted loss at 95 %
    confidence: ``data``, ``width`` or ``longer`` (more epochs beat more width, but new data are not significantly
    better than repeated data); else ``undecided``.
    """

    parameters: float
    unique_samples: float
    epochs: float
    loss: float
    twice_data: Change
    twice_epochs: Change | None
    twice_width: Change  # four times the parameters if the models have no width
    verdict: str
    has_width: bool


@dataclass(frozen=True)
class NextRun:
    """The next run to add to the study.

    ``spread_reduction`` is the share by which it would reduce the law's standard deviation at the ``target``
    (parameters, samples seen). The target is the compute-optimal size for ten times the largest budget (``aim`` is
    ``optimum``) or, if the law has none within four times the study's range, four times the largest level of the
    study's first axis (``extrapolation``). Sizes that a table does not state are None.
    """

    parameters: float | None
    width: int | None
    unique_samples: float | None
    epochs: float | None
    flops: float | None
    spread_reduction: float
    target: tuple[float, float]
    aim: Literal["optimum", "extrapolation"]


def data_question(planner: Planner, study: Study) -> DataQuestion | None:
    """Predict the effect of each doubling; None if size, data or noise is not identifiable."""
    law, axes = planner.law, planner.law.form.axes
    if "parameters" not in axes or "unique_samples" not in axes or not law.noise.degrees_of_freedom:
        return None
    largest = max(study.runs, key=lambda run: (run.parameters, run.unique_samples, run.seen_samples))
    size, unique, seen = largest.parameters, planner.all_samples, planner.all_samples * largest.epochs
    wider = planner.sizes.parameters(2 * largest.width) if largest.width else 4 * size
    here = _levels(planner, size, unique, seen)
    levels = {
        "data": _levels(planner, size, 2 * unique, 2 * seen),
        "epochs": _levels(planner, size, unique, 2 * seen),
        "width": _levels(planner, wider, unique, seen),
    }
    before_R = law.replicate_losses(here)[:, 0]
    after = {name: law.replicate_losses(level)[:, 0] for name, level in levels.items()}
    loss = float(law.predict(here)[0])

    def change(name: str) -> Change:
        loss_after = float(law.predict(levels[name])[0])
        factor = float(np.atleast_1d(levels[name]["flops"])[0] / np.atleast_1d(here["flops"])[0])
        gain = interval(1 - after[name] / before_R)
        return Change(loss_after, interval(after[name]), 1 - loss_after / loss, gain, factor)

    varies_epochs = "seen_samples" in axes
    verdict = _verdict(after, varies_epochs)
    longer = change("epochs") if varies_epochs else None
    has_width = largest.width is not None
    return DataQuestion(size, unique, largest.epochs, loss, change("data"), longer, change("width"), verdict, has_width)


def _verdict(after: dict[str, Floats], varies_epochs: bool) -> str:
    """The change with the significantly lowest loss, from bootstrap replicates [R] of the loss after each."""
    fresh, _ = interval(after["epochs"] / after["data"] - 1)  # relative benefit of new over repeated data
    low, high = interval(after["width"] / after["data"] - 1)
    if low > 0 and (fresh > 0 or not varies_epochs):
        return "data"
    if high < 0:
        return "width"
    if varies_epochs and interval(after["width"] / after["epochs"] - 1)[0] > 0:
        return "longer"
    return "undecided"


def next_run(planner: Planner, study: Study) -> NextRun | None:
    """The cheapest run that reduces the law's spread at the target at least half as much as the best run would.

    With bootstrap covariances, a run at c with noise σ reduces the variance of the log loss at the target t by
    Cov(t, c)² / (σ² + Var(c)), the update of a linear Gaussian model (MacKay 1992). None if the noise is not
    identifiable, or if the study varies only FLOPs, which do not determine a run.
    """
    law = planner.law
    if not law.noise.degrees_of_freedom or study.axes == ("flops",):
        return None
    target, aim = _target(planner, study)
    has_samples = bool({"unique_samples", "seen_samples"} & study.named)
    target_R = np.log(law.replicate_losses(_levels(planner, *target))[:, 0])
    if target_R.var() < 1e-12:
        return None
    runs: list[tuple[float, NextRun]] = []
    for (width, parameters), unique, epochs in product(
        _sizes(planner, study), _few(study.level_values("unique_samples")), _few(_lengths(study))
    ):
        losses_R = np.log(law.replicate_losses(_levels(planner, parameters, unique, unique * epochs))[:, 0])
        explained = np.cov(target_R, losses_R)[0, 1] ** 2 / (law.noise.sd_of_mean(1) ** 2 + losses_R.var(ddof=1))
        reduction = 1 - float(np.sqrt(max(0.0, 1 - explained / target_R.var(ddof=1))))
        flops = planner.sizes.flops(parameters, unique * epochs)
        run = NextRun(
            parameters if "parameters" in study.named else None,
            width,
            unique if has_samples else None,
            epochs if has_samples else None,
            flops if has_samples and "parameters" in study.named else None,
            reduction,
            (target[0], target[2]),
            aim,
        )
        runs.append((flops, run))
    enough = _ENOUGH * max(run.spread_reduction for _, run in runs)
    return min(((flops, run) for flops, run in runs if run.spread_reduction >= enough), key=lambda one: one[0])[1]


def _target(planner: Planner, study: Study) -> tuple[tuple[float, float, float], Literal["optimum", "extrapolation"]]:
    """The target (parameters, unique samples, samples seen) of the next run, and its kind."""
    best = planner.optimum(_TARGET * max(run.flops for run in study.runs))
    if best.parameters is not None and best.samples is not None and best.unique_samples is not None:
        data = best.samples if planner.data_axis == "seen_samples" else best.unique_samples
        near_size = planner.smallest / MAX_EXTRAPOLATION <= best.parameters <= MAX_EXTRAPOLATION * planner.largest
        if near_size and planner.least_samples / MAX_EXTRAPOLATION <= data <= MAX_EXTRAPOLATION * planner.most_samples:
            return (best.parameters, best.unique_samples, best.samples), "optimum"
    largest = max(study.runs, key=lambda run: (run.parameters, run.unique_samples, run.seen_samples))
    size, unique, seen = largest.parameters, largest.unique_samples, largest.seen_samples
    far = {
        "parameters": (MAX_EXTRAPOLATION * size, unique, seen),
        "unique_samples": (size, MAX_EXTRAPOLATION * unique, MAX_EXTRAPOLATION * seen),
        "seen_samples": (size, unique, MAX_EXTRAPOLATION * seen),
    }
    return far[study.axes[0]], "extrapolation"


def _few(levels: list[float]) -> list[float]:
    """At most eight of the levels, including the first and the last."""
    if len(levels) <= _MAX_LEVELS:
        return levels
    return [levels[index] for index in np.linspace(0, len(levels) - 1, _MAX_LEVELS).round().astype(int)]


def _lengths(study: Study) -> list[float]:
    """Distinct numbers of epochs of the runs; those within 2 % count as the same."""
    lengths: list[float] = []
    for epochs in sorted(run.epochs for run in study.runs):
        if not lengths or epochs > SAME * lengths[-1]:
            lengths.append(epochs)
    return lengths


def _sizes(planner: Planner, study: Study) -> list[tuple[int | None, float]]:
    """Width (if known) and parameters of the study's models and of larger ones, up to twice the width.

    If the study does not vary the size, only its own.
    """
    if "parameters" not in study.axes:
        return [(study.runs[0].width, study.runs[0].parameters)]
    widths = sorted({run.width for run in study.runs if run.width is not None})
    if planner.sizes.quadratic is None or not widths:
        sizes = [*_few(study.level_values("parameters")), 2 * study.sizes[-1], 4 * study.sizes[-1]]
        return [(None, size) for size in sizes]
    wider = [*widths, round(1.5 * widths[-1]), 2 * widths[-1]]
    return [(width, planner.sizes.parameters(width)) for width in wider]


def _levels(planner: Planner, parameters: float, unique: float, seen: float) -> dict[str, Floats | float]:
    flops = planner.sizes.flops(parameters, seen)
    return {"parameters": parameters, "unique_samples": unique, "seen_samples": seen, "flops": flops}
