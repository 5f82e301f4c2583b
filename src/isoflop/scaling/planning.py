"""The compute-optimal size: the N and samples of least loss for a budget of FLOPs, and how size goes with width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from isoflop.scaling.forms import Floats
from isoflop.scaling.laws import Law
from isoflop.scaling.runs import SAME, Study
from isoflop.scaling.uncertainty import interval

FLAT = 1.01  # times the least loss: sizes within it are as good
_PLACES = 1201  # of the ladder of sizes at which a budget is looked at
_REACH = 1e4  # times the study's smallest and largest model, how far the ladder goes
_MOST_WITHOUT = 0.05  # share of replicates that may have no optimum before its interval is open


@dataclass(frozen=True)
class Sizes:
    """Parameters as a quadratic of width (exact for layers whose inputs and outputs grow with it; None where runs
    have no width), and training FLOPs a sample as a power of parameters: cost · N^growth."""

    quadratic: tuple[float, float, float] | None  # of width², width and 1
    cost: float
    growth: float

    @classmethod
    def of(cls, study: Study) -> Sizes:
        """The curves through the study's sizes; a single size costs as 6 FLOPs a parameter and sample grow."""
        rows = sorted({(run.parameters, run.flops / run.seen_samples) for run in study.runs})
        parameters, flops = np.array(rows, np.float64).T
        if len(study.sizes) > 1:
            growth, log_cost = np.polyfit(np.log(parameters), np.log(flops), 1)
        else:
            growth, log_cost = 1.0, float(np.log(flops / parameters).mean())
        return cls(_quadratic(study), float(np.exp(log_cost)), float(growth))

    def parameters(self, width: float) -> float:
        """N of a width; nan where widths are unknown."""
        if self.quadratic is None:
            return float("nan")
        second, first, zeroth = self.quadratic
        return second * width * width + first * width + zeroth

    def width(self, parameters: float) -> float | None:
        """The (fractional) width of N parameters: the largest real root; None where there is none."""
        if self.quadratic is None:
            return None
        second, first, zeroth = self.quadratic
        roots = np.roots([second, first, zeroth - parameters])
        real = roots.real[np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots.real))]
        return float(real.max()) if len(real) and real.max() > 0 else None

    def flops(self, parameters: float, seen_samples: float) -> float:
        """Of training a model of so many parameters on so many samples."""
        return float(self.cost * parameters**self.growth * seen_samples)

    def samples(self, flops: float, parameters: Floats) -> Floats:
        """How many samples a budget lets models of these sizes see."""
        return np.asarray(flops / (self.cost * parameters**self.growth))


def _quadratic(study: Study) -> tuple[float, float, float] | None:
    pairs = sorted({(run.width, run.parameters) for run in study.runs if run.width is not None})
    if len(pairs) < 3:
        return None
    widths, parameters = np.array(pairs, np.float64).T
    scale = widths.max()  # keeps the powers of a wide width in range
    second, first, zeroth = np.polyfit(widths / scale, parameters, 2)
    return float(second / scale**2), float(first / scale), float(zeroth)


@dataclass(frozen=True)
class Optimum:
    """What the law says to spend a budget on, with intervals of 95 %.

    ``place`` is ``inside`` the study's range, ``extrapolated`` beyond it in size or samples, or ``unbounded``: the law
    has no minimum, as its loss falls with one of them alone (the other figures are None then). ``flat`` are the sizes
    between which the law's loss is within 1 % of the best.
    """

    flops: float
    place: str
    parameters: float | None = None
    parameters_interval: tuple[float, float] | None = None
    width: float | None = None
    samples: float | None = None  # seen in training
    samples_interval: tuple[float, float] | None = None
    unique_samples: float | None = None
    epochs: float | None = None
    loss: float | None = None
    loss_interval: tuple[float, float] | None = None  # of the law
    loss_prediction: tuple[float, float] | None = None  # of a new run
    flat: tuple[float, float] | None = None


@dataclass(frozen=True)
class Planner:
    """A law with what a plan needs to know of its study: sizes, ranges, and what the data are."""

    law: Law
    sizes: Sizes
    data_axis: str  # what a budget buys beside size
    epochs: float  # passes over the data, where the data are what a budget buys
    all_samples: float  # unique ones to train on, where passes are
    smallest: float  # parameters of the study
    largest: float
    least_samples: float  # of the data axis
    most_samples: float

    @classmethod
    def of(cls, law: Law, study: Study) -> Planner:
        data, parameters = study.column(study.data_axis), study.column("parameters")
        epochs = max(run.epochs for run in study.runs)
        return cls(
            law, Sizes.of(study), study.data_axis, epochs, study.all_samples or max(study.column("unique_samples")),
            float(parameters.min()), float(parameters.max()), float(data.min()), float(data.max()),
        )  # fmt: skip

    def levels(self, parameters: Floats | float, seen_samples: Floats | float) -> dict[str, Floats | float]:
        """Levels by axis of models of these sizes that see so many samples."""
        passes = self.data_axis == "seen_samples"
        unique = self.all_samples if passes else np.asarray(seen_samples) / self.epochs
        flops = self.sizes.cost * np.asarray(parameters) ** self.sizes.growth * seen_samples
        return {"parameters": parameters, "unique_samples": unique, "seen_samples": seen_samples, "flops": flops}

    def optimum(self, flops: float) -> Optimum:
        """The size of least loss for a budget, looked for along the curve of sizes that spend all of it."""
        if "parameters" not in self.law.form.axes or self.data_axis not in self.law.form.axes:
            return Optimum(flops, "unbounded")
        ladder = self._ladder()
        levels = self.levels(ladder, self.sizes.samples(flops, ladder))
        losses = self.law.predict(levels)
        (best,) = _minima(np.log(ladder), losses[None])
        if not np.isfinite(best):
            return Optimum(flops, "unbounded")
        parameters = float(np.exp(best))
        samples = float(self.sizes.samples(flops, np.array([parameters]))[0])
        here = {name: np.atleast_1d(level) for name, level in self.levels(parameters, samples).items()}
        scalars = {name: float(level[0]) for name, level in here.items()}
        sizes_R = _minima(np.log(ladder), self.law.samples(levels))
        bounded_R = np.isfinite(sizes_R)
        known = self.law.noise.freedom > 0 and bounded_R.mean() >= 1 - _MOST_WITHOUT
        samples_R = self.sizes.samples(flops, np.exp(sizes_R[bounded_R]))
        loss = float(self.law.predict(here)[0])
        even = ladder[losses <= FLAT * loss]
        data = samples if self.data_axis == "seen_samples" else samples / self.epochs
        known_sizes = self.smallest / SAME <= parameters <= SAME * self.largest
        inside = known_sizes and self.least_samples / SAME <= data <= SAME * self.most_samples
        unique = float(here["unique_samples"][0])
        return Optimum(
            flops,
            "inside" if inside else "extrapolated",
            parameters=parameters,
            parameters_interval=_exp(interval(sizes_R[bounded_R])) if known else None,
            width=self.sizes.width(parameters),
            samples=samples,
            samples_interval=interval(samples_R) if known else None,
            unique_samples=unique,
            epochs=samples / unique,
            loss=loss,
            loss_prediction=self.law.prediction(scalars, seeds=1)[1],
            loss_interval=interval(self.law.samples(here)[:, 0]) if self.law.noise.freedom else None,
            flat=(float(even.min()), float(even.max())) if len(even) else (parameters, parameters),
        )

    def best(self, flops: float) -> tuple[float, float] | None:
        """The size of least loss for a budget and that loss, as ``optimum`` has them; None where there is none."""
        ladder = self._ladder()
        losses = self.law.predict(self.levels(ladder, self.sizes.samples(flops, ladder)))
        (log_size,) = _minima(np.log(ladder), losses[None])
        return (float(np.exp(log_size)), float(losses.min())) if np.isfinite(log_size) else None

    def flops_for(self, loss: float) -> float | None:
        """The least FLOPs with which the law's best size reaches a loss; None where no budget within reach does."""
        return self._least_flops(lambda _, reached: reached <= loss)

    def flops_of(self, parameters: float) -> float | None:
        """The budget for which a model of so many parameters is the best size; None where there is none."""
        return self._least_flops(lambda size, _: size >= parameters)

    def _least_flops(self, enough: Callable[[float, float], bool]) -> float | None:
        """The least budget whose best size and loss are ``enough``, by bisection: both go one way with the budget."""
        scale = self.sizes.flops(self.largest, self.most_samples)
        tried = np.log(scale) + np.arange(-20.0, 30.0)
        bounded = [place for place in tried if self.best(float(np.exp(place)))]
        if not bounded:
            return None
        ends = [enough(*(self.best(float(np.exp(place))) or (0.0, np.inf))) for place in (bounded[0], bounded[-1])]
        if ends != [False, True]:
            return None
        low, high = bounded[0], bounded[-1]
        while high - low > 1e-5:
            middle = (low + high) / 2
            found = self.best(float(np.exp(middle)))
            low, high = (low, middle) if found and enough(*found) else (middle, high)
        return float(np.exp(high))

    def _ladder(self) -> Floats:
        return np.geomspace(self.smallest / _REACH, self.largest * _REACH, _PLACES)


def _minima(logs_G: Floats, losses_RG: Floats) -> Floats:
    """Places [R] of the least loss along the ladder, between its rungs; nan where it is at an end of it or flat."""
    rows = np.arange(len(losses_RG))
    best_R = losses_RG.argmin(axis=1)
    inner_R = np.clip(best_R, 1, len(logs_G) - 2)
    before, here, after = (losses_RG[rows, inner_R + step] for step in (-1, 0, 1))
    bend = before - 2 * here + after
    shift_R = np.where(bend > 0, 0.5 * (before - after) / np.where(bend > 0, bend, 1), 0.0)
    found_R = logs_G[inner_R] + np.clip(shift_R, -1, 1) * (logs_G[1] - logs_G[0])
    return np.where((best_R == inner_R) & (np.ptp(losses_RG, axis=1) > 1e-9 * here), found_R, np.nan)


def _exp(bounds: tuple[float, float]) -> tuple[float, float]:
    return float(np.exp(bounds[0])), float(np.exp(bounds[1]))


def budgets(study: Study) -> dict[str, float]:
    """FLOPs of the cheapest, the median and the dearest run, and ten times the dearest; of the runs on the most data
    where a budget buys passes over them."""
    most = max(run.unique_samples for run in study.runs)
    whole = study.data_axis == "unique_samples"  # a budget buys data too
    flops = sorted({run.flops for run in study.runs if whole or run.unique_samples == most})
    return {"smallest": flops[0], "median": float(np.median(flops)), "largest": flops[-1], "tenfold": 10 * flops[-1]}
