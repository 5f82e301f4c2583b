"""What to do next: are more data worth more than more width, and which run would narrow the answer most."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Literal

import numpy as np

from isoflop.scaling.diagnosis import MAX_EXTRAPOLATION
from isoflop.scaling.forms import Floats
from isoflop.scaling.planning import Planner
from isoflop.scaling.runs import SAME, Study
from isoflop.scaling.uncertainty import interval

_ENOUGH = 0.5  # of the narrowing that the best run would bring: the cheapest that brings so much is named
_MOST_LEVELS = 8  # of an axis, that are tried
_TARGET = 10.0  # times the study's dearest budget: the answer to narrow


@dataclass(frozen=True)
class Change:
    """What a change would bring, with 95 % confidence intervals: the loss after it, and by what share it fell."""

    loss: float
    loss_interval: tuple[float, float]
    gain: float
    gain_interval: tuple[float, float]
    flops_factor: float  # of the training, against the largest model on all data


@dataclass(frozen=True)
class DataQuestion:
    """Twice the data, twice the epochs on the same data, or twice the width, for the study's largest model.

    Twice the data are seen as often, so they take as many FLOPs as twice the epochs (None where all runs of the study
    are of one length). ``verdict`` is what the law is 95 % sure brings the lowest loss: ``data``, ``width``, or
    ``longer`` where that beats more width and new data are not surely better than the same ones again; else
    ``undecided``.
    """

    parameters: float
    unique_samples: float
    epochs: float
    loss: float
    twice_data: Change
    twice_epochs: Change | None
    twice_width: Change
    verdict: str


@dataclass(frozen=True)
class NextRun:
    """The run to add to the study.

    ``narrowing`` is the share by which it would make the law's spread at the ``target`` smaller: at the parameters and
    samples seen of the best size for ten times the dearest budget (``aim`` is ``optimum``), or where the law has none,
    at four times the largest size, or the most samples of one size (``extrapolation``).
    """

    parameters: float
    width: int | None
    unique_samples: float
    epochs: float
    flops: float
    narrowing: float
    target: tuple[float, float]
    aim: Literal["optimum", "extrapolation"]


def data_question(planner: Planner, study: Study) -> DataQuestion | None:
    """None where the law knows nothing of size, of data, or of its own noise."""
    law, axes = planner.law, planner.law.form.axes
    if "parameters" not in axes or "unique_samples" not in axes or not law.noise.freedom:
        return None
    largest = max(study.runs, key=lambda run: (run.parameters, run.unique_samples, run.seen_samples))
    size, unique, seen = largest.parameters, planner.all_samples, planner.all_samples * largest.epochs
    wide = planner.sizes.parameters(2 * largest.width) if largest.width else 4 * size
    here = _levels(planner, size, unique, seen)
    levels = {
        "data": _levels(planner, size, 2 * unique, 2 * seen),
        "epochs": _levels(planner, size, unique, 2 * seen),
        "width": _levels(planner, wide, unique, seen),
    }
    before_R = law.samples(here)[:, 0]
    after = {name: law.samples(level)[:, 0] for name, level in levels.items()}
    loss = float(law.predict(here)[0])

    def change(name: str) -> Change:
        then = float(law.predict(levels[name])[0])
        factor = float(np.atleast_1d(levels[name]["flops"])[0] / np.atleast_1d(here["flops"])[0])
        gain = interval(1 - after[name] / before_R)
        return Change(then, interval(after[name]), 1 - then / loss, gain, factor)

    knows_time = "seen_samples" in axes
    verdict = _verdict(after, knows_time)
    longer = change("epochs") if knows_time else None
    return DataQuestion(size, unique, largest.epochs, loss, change("data"), longer, change("width"), verdict)


def _verdict(after: dict[str, Floats], knows_time: bool) -> str:
    """Which of the changes ends lowest, by replicates [R] of the loss after each."""
    fresh, _ = interval(after["epochs"] / after["data"] - 1)  # what new data are worth beyond the same ones again
    low, high = interval(after["width"] / after["data"] - 1)
    if low > 0 and (fresh > 0 or not knows_time):
        return "data"
    if high < 0:
        return "width"
    if knows_time and interval(after["width"] / after["epochs"] - 1)[0] > 0:
        return "longer"
    return "undecided"


def next_run(planner: Planner, study: Study) -> NextRun | None:
    """The cheapest run that narrows the law's spread at the target at least half as much as the best would.

    By the replicates of the law: a run at c, with noise σ, takes Cov(t, c)² / (σ² + Var(c)) off the variance of the
    log loss at the target t (the update of a linear Gaussian model; MacKay 1992). None where the noise is unknown, or
    the study varies FLOPs alone, which do not say what to train.
    """
    law = planner.law
    if not law.noise.freedom or study.axes == ("flops",):
        return None
    target, aim = _target(planner, study)
    target_R = np.log(law.samples(_levels(planner, *target))[:, 0])
    if target_R.var() < 1e-12:
        return None
    found = []
    for (width, parameters), unique, epochs in product(
        _sizes(planner, study), _few(study.level_values("unique_samples")), _few(_lengths(study))
    ):
        losses_R = np.log(law.samples(_levels(planner, parameters, unique, unique * epochs))[:, 0])
        explained = np.cov(target_R, losses_R)[0, 1] ** 2 / (law.noise.spread(1) ** 2 + losses_R.var(ddof=1))
        narrowing = 1 - float(np.sqrt(max(0.0, 1 - explained / target_R.var(ddof=1))))
        flops = planner.sizes.flops(parameters, unique * epochs)
        found.append(NextRun(parameters, width, unique, epochs, flops, narrowing, (target[0], target[2]), aim))
    enough = _ENOUGH * max(run.narrowing for run in found)
    return min((run for run in found if run.narrowing >= enough), key=lambda run: run.flops)


def _target(planner: Planner, study: Study) -> tuple[tuple[float, float, float], Literal["optimum", "extrapolation"]]:
    """Where the law is wanted narrow (parameters, unique samples, samples seen), and why there."""
    best = planner.optimum(_TARGET * max(run.flops for run in study.runs))
    if best.parameters is not None and best.samples is not None and best.unique_samples is not None:
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
    """At most eight of them, from the least to the most."""
    if len(levels) <= _MOST_LEVELS:
        return levels
    return [levels[place] for place in np.linspace(0, len(levels) - 1, _MOST_LEVELS).round().astype(int)]


def _lengths(study: Study) -> list[float]:
    """Epochs of the runs, those within 2 % of each other once."""
    lengths: list[float] = []
    for epochs in sorted(run.epochs for run in study.runs):
        if not lengths or epochs > SAME * lengths[-1]:
            lengths.append(epochs)
    return lengths


def _sizes(planner: Planner, study: Study) -> list[tuple[int | None, float]]:
    """Width (where runs have one) and parameters of the study's models and of larger ones, up to twice the width."""
    widths = sorted({run.width for run in study.runs if run.width is not None})
    if planner.sizes.quadratic is None or not widths:
        sizes = [*_few(study.level_values("parameters")), 2 * study.sizes[-1], 4 * study.sizes[-1]]
        return [(None, size) for size in sizes]
    wider = [*widths, round(1.5 * widths[-1]), 2 * widths[-1]]
    return [(width, planner.sizes.parameters(width)) for width in wider]


def _levels(planner: Planner, parameters: float, unique: float, seen: float) -> dict[str, Floats | float]:
    flops = planner.sizes.flops(parameters, seen)
    return {"parameters": parameters, "unique_samples": unique, "seen_samples": seen, "flops": flops}
