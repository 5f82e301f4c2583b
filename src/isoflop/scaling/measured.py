"""The configurations that a study measured: the best for a goal, and the runs that would show more, with their cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from isoflop.scaling.runs import Run, Study

_FEWEST_EPOCHS, _MOST_EPOCHS = 0.5, 200.0  # of a run that spends a budget, see ``training.sweep``


@dataclass(frozen=True)
class Goal:
    """What a training may cost or has to reach; None: no limit."""

    flops: float | None = None  # most training FLOPs
    loss: float | None = None  # highest validation loss
    parameters: float | None = None  # most parameters


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


@dataclass(frozen=True)
class NextRuns:
    """Runs at one budget of FLOPs, one at each width: an IsoFLOP profile, which shows the best size without a law."""

    budget: float  # training FLOPs of each run
    widths: tuple[int, ...]
    seeds: int
    seconds: float | None  # upper estimate, see ``Speed``; None: no throughput was measured

    @property
    def command(self) -> str:
        return f"dvc exp run -S 'sweep.runs.budgets=[{self.budget:.3g}]' scaling".replace("e+", "e")


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


def next_runs(study: Study, goal: Goal, seeds: int, speed: Speed | None) -> NextRuns | None:
    """Return an IsoFLOP profile at the goal's budget, or near it: every width can spend it in 0.5 to 200 epochs.

    Without a budget in the goal, it is the median budget of the runs. None if the runs have no widths, or if no budget
    suits all of them.
    """
    costs = {run.width: run.flops / run.seen_samples for run in study.runs if run.width is not None}
    images = study.all_samples
    if len(costs) < 2 or not images:
        return None
    least, most = _FEWEST_EPOCHS * images * max(costs.values()), _MOST_EPOCHS * images * min(costs.values())
    if least > most:
        return None
    wanted = goal.flops or sorted(run.flops for run in study.runs)[len(study.runs) // 2]
    budget = float(f"{min(max(wanted, 1.01 * least), 0.99 * most):.3g}")
    seconds = seeds * sum(speed.seconds(budget / cost, budget) for cost in costs.values()) if speed else None
    return NextRuns(budget, tuple(sorted(width for width in costs if width is not None)), seeds, seconds)
