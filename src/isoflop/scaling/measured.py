"""The configurations that a study measured: the best for a goal, and the time that more runs take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from isoflop.scaling.asking import Goal
from isoflop.scaling.tables.runs import Run, Study

_FEWEST_EPOCHS, _MOST_EPOCHS = 0.5, 200.0  # of a run that spends a budget, see ``training.sweep``
_FEWEST_OF_PROFILE = 4  # widths


@dataclass(frozen=True)
class Measured:
    """A configuration of the study: means over its seeds."""

    width: int | None
    parameters: float
    unique_samples: float
    epochs: float
    flops: float
    loss: float
    accuracy: float | None
    seeds: int


@dataclass(frozen=True)
class Speed:
    """Throughput of a training that was measured on this machine."""

    images_per_s: float
    flops_per_s: float

    def seconds(self, images: float, flops: float) -> float:
        """Return an upper estimate of the time of a training.

        A network with more FLOPs per image than the measured one takes proportionally longer, and one with fewer takes
        at most as long: small networks use a smaller share of the processor.
        """
        return max(images / self.images_per_s, flops / self.flops_per_s)


def configurations(study: Study) -> list[Measured]:
    """Return the configurations of the study, the lowest loss first."""
    groups: dict[int, list[Run]] = {}
    for index, run in zip(study.configurations.tolist(), study.runs, strict=True):
        groups.setdefault(index, []).append(run)
    return sorted((_mean(runs) for runs in groups.values()), key=lambda one: one.loss)


def _mean(runs: Sequence[Run]) -> Measured:
    accuracies = [run.accuracy for run in runs if run.accuracy is not None]
    return Measured(
        runs[0].width,
        runs[0].parameters,
        fmean(run.unique_samples for run in runs),
        fmean(run.epochs for run in runs),
        fmean(run.flops for run in runs),
        fmean(run.loss for run in runs),
        fmean(accuracies) if len(accuracies) == len(runs) else None,
        len(runs),
    )


def best_measured(known: Sequence[Measured], goal: Goal) -> Measured | None:
    """Return the configuration with the lowest loss within the goal; for a loss, the one with the fewest FLOPs.

    None if no configuration meets the goal.
    """
    allowed = [
        one
        for one in known
        if (goal.flops is None or one.flops <= goal.flops)
        and (goal.parameters is None or one.parameters <= goal.parameters)
        and (goal.loss is None or one.loss <= goal.loss)
    ]
    return min(allowed, key=lambda one: one.loss if goal.loss is None else one.flops, default=None)


def nearest_measured(known: Sequence[Measured], goal: Goal) -> Measured:
    """Return the configuration that comes closest to a goal that none meets.

    That is the lowest loss for a loss, else the configuration with the fewest FLOPs or parameters.
    """
    if goal.loss is not None:
        return min(known, key=lambda one: one.loss)
    return min(known, key=lambda one: (one.parameters if goal.parameters is not None else one.flops, one.loss))


def profile_budget(study: Study, goal: Goal) -> float | None:
    """Return the budget [FLOPs] of an IsoFLOP profile, which shows the best size without a law.

    It is the goal's budget, or near it, such that every width spends it in 0.5 to 200 epochs; without a budget in the
    goal, the median of the runs. None if no budget suits all widths.
    """
    costs = costs_by_width(study)
    if len(costs) < _FEWEST_OF_PROFILE:
        return None
    least = _FEWEST_EPOCHS * study.all_samples * max(costs.values())
    most = _MOST_EPOCHS * study.all_samples * min(costs.values())
    if least > most:
        return None
    wanted = goal.flops or sorted(run.flops for run in study.runs)[len(study.runs) // 2]
    return float(f"{min(max(wanted, 1.01 * least), 0.99 * most):.3g}")


def costs_by_width(study: Study) -> dict[int, float]:
    """Return the training FLOPs per image of each width."""
    return {run.width: run.flops / run.seen_samples for run in study.runs if run.width is not None}


def study_seconds(
    widths: Sequence[int], runs: Mapping[str, Any], costs: Mapping[int, float], images: float, speed: Speed
) -> float:
    """Return an upper estimate of the time of the runs of some widths.

    Args:
        runs: section ``sweep.runs``.
        costs: training FLOPs per image of known widths; another width costs in proportion to its square.
        images: in the full training split.
    """
    known = max(costs)
    seconds = 0.0
    for width in widths:
        cost = costs.get(width, costs[known] * (width / known) ** 2)
        seen = sum(runs["fractions"]) * sum(runs["epochs"]) * images
        spent = sum(speed.seconds(budget / cost, budget) for budget in runs["budgets"])
        seconds += len(runs["seeds"]) * (speed.seconds(seen, seen * cost) + spent)
    return seconds
