"""What to do next: is more data worth more than more width, and which run would narrow the answer most for its cost."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from isoflop.scaling.forms import Floats
from isoflop.scaling.planning import Planner
from isoflop.scaling.runs import Study
from isoflop.scaling.uncertainty import interval

_ENOUGH = 0.5  # of the narrowing that the best run would bring: the cheapest that brings so much is named
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
    """Twice the data, or twice the width, for the study's largest model on all its data.

    ``verdict`` is ``data`` or ``width`` where the law is 95 % sure which brings the lower loss, else ``undecided``.
    """

    parameters: float
    unique_samples: float
    loss: float
    twice_data: Change
    twice_width: Change
    verdict: str


@dataclass(frozen=True)
class NextRun:
    """The run to add to the study.

    ``narrowing`` is the share by which it would make the law's spread at the ``target`` (parameters and samples seen
    of the best size for ten times the dearest budget) smaller.
    """

    parameters: float
    width: int | None
    unique_samples: float
    epochs: float
    flops: float
    narrowing: float
    target: tuple[float, float]


def data_question(planner: Planner, study: Study) -> DataQuestion | None:
    """None where the law knows nothing of size or of data, so that one of the two has no answer."""
    law, axes = planner.law, planner.law.form.axes
    if "parameters" not in axes or "unique_samples" not in axes:
        return None
    largest = max(study.runs, key=lambda run: (run.parameters, run.unique_samples, run.seen_samples))
    unique = planner.all_samples
    here = _levels(planner, largest.parameters, unique, unique * largest.epochs)
    data = _levels(planner, largest.parameters, 2 * unique, 2 * unique * largest.epochs)
    wide = planner.sizes.parameters(2 * largest.width) if largest.width else 4 * largest.parameters
    width = _levels(planner, wide, unique, unique * largest.epochs)
    before_R = law.samples(here)[:, 0]
    after = {name: law.samples(levels)[:, 0] for name, levels in (("data", data), ("width", width))}
    low, high = interval(after["width"] / after["data"] - 1)
    verdict = "data" if low > 0 else "width" if high < 0 else "undecided"
    loss = float(law.predict(here)[0])

    def change(levels: dict[str, Floats | float], after_R: Floats) -> Change:
        then = float(law.predict(levels)[0])
        factor = float(np.atleast_1d(levels["flops"])[0] / np.atleast_1d(here["flops"])[0])
        return Change(then, interval(after_R), 1 - then / loss, interval(1 - after_R / before_R), factor)

    changes = change(data, after["data"]), change(width, after["width"])
    return DataQuestion(largest.parameters, unique, loss, *changes, verdict)


def next_run(planner: Planner, study: Study) -> NextRun | None:
    """The cheapest run that narrows the law's spread at the target at least half as much as the best would.

    By the replicates of the law: a run at c, with noise σ, takes Cov(t, c)² / (σ² + Var(c)) off the variance of the
    log loss at the target t (the update of a linear Gaussian model; MacKay 1992). None where the noise is unknown or
    there is no target.
    """
    law = planner.law
    best = planner.optimum(_TARGET * max(run.flops for run in study.runs))
    if not law.noise.freedom or best.parameters is None or best.samples is None:
        return None
    target_R = np.log(law.samples(planner.levels(best.parameters, best.samples))[:, 0])
    if target_R.var() < 1e-12:
        return None
    found = []
    for (width, parameters), unique, epochs in product(
        _sizes(planner, study), study.level_values("unique_samples"), sorted({run.epochs for run in study.runs})
    ):
        losses_R = np.log(law.samples(_levels(planner, parameters, unique, unique * epochs))[:, 0])
        explained = np.cov(target_R, losses_R)[0, 1] ** 2 / (law.noise.spread(1) ** 2 + losses_R.var(ddof=1))
        narrowing = 1 - float(np.sqrt(max(0.0, 1 - explained / target_R.var(ddof=1))))
        flops = planner.sizes.flops(parameters, unique * epochs)
        found.append(NextRun(parameters, width, unique, epochs, flops, narrowing, (best.parameters, best.samples)))
    enough = _ENOUGH * max(run.narrowing for run in found)
    return min((run for run in found if run.narrowing >= enough), key=lambda run: run.flops)


def _sizes(planner: Planner, study: Study) -> list[tuple[int | None, float]]:
    """Width (where runs have one) and parameters of the study's models and of larger ones, up to twice the width."""
    widths = sorted({run.width for run in study.runs if run.width is not None})
    if planner.sizes.quadratic is None or not widths:
        sizes = [*study.sizes, 2 * study.sizes[-1], 4 * study.sizes[-1]]
        return [(None, size) for size in sizes]
    wider = [*widths, round(1.5 * widths[-1]), 2 * widths[-1]]
    return [(width, planner.sizes.parameters(width)) for width in wider]


def _levels(planner: Planner, parameters: float, unique: float, seen: float) -> dict[str, Floats | float]:
    flops = planner.sizes.flops(parameters, seen)
    return {"parameters": parameters, "unique_samples": unique, "seen_samples": seen, "flops": flops}
