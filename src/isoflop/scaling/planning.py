"""Compute-optimal training by the law: the size and samples with the lowest predicted loss for a budget of FLOPs.

Also the relations between width, parameters and FLOPs. ``profiles`` reads the optimum from the runs instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from isoflop.scaling.fitting.laws import Law
from isoflop.scaling.fitting.uncertainty import interval
from isoflop.scaling.forms import Floats
from isoflop.scaling.tables.runs import SAME, Study

FLAT = 1.01  # sizes with a loss up to this factor above the minimum are practically optimal
_GRID_SIZES = 1201
_GRID_REACH = 1e4  # the grid extends beyond the study's smallest and largest model by this factor
_MAX_UNBOUNDED = 0.05  # an optimum has no interval if more than this share of the replicates has no optimum


@dataclass(frozen=True)
class Sizes:
    """Parameters as a quadratic in width, and training FLOPs per sample as a power of parameters: cost · N^growth.

    The quadratic is exact for layers whose inputs and outputs both grow with width; it is None if runs have no width.
    """

    quadratic: tuple[float, float, float] | None  # coefficients of width², width and 1
    cost: float
    growth: float

    @classmethod
    def of(cls, study: Study) -> Sizes:
        """Fit both relations to the study's models; for a single size the FLOPs are proportional to N."""
        rows = sorted({(run.parameters, run.flops / run.seen_samples) for run in study.runs})
        parameters, flops = np.array(rows, np.float64).T
        if len(study.sizes) > 1:
            growth, log_cost = np.polyfit(np.log(parameters), np.log(flops), 1)
        else:
            growth, log_cost = 1.0, float(np.log(flops / parameters).mean())
        return cls(_quadratic(study), float(np.exp(log_cost)), float(growth))

    def parameters(self, width: float) -> float:
        """Number of parameters of a width; nan without a quadratic."""
        if self.quadratic is None:
            return float("nan")
        second, first, zeroth = self.quadratic
        return second * width * width + first * width + zeroth

    def width(self, parameters: float) -> float | None:
        """The (fractional) width with this number of parameters, the largest real root; None if there is none."""
        if self.quadratic is None:
            return None
        second, first, zeroth = self.quadratic
        roots = np.roots([second, first, zeroth - parameters])
        real = roots.real[np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots.real))]
        return float(real.max()) if len(real) and real.max() > 0 else None

    def flops(self, parameters: float, seen_samples: float) -> float:
        """FLOPs of training a model of ``parameters`` on ``seen_samples``."""
        return float(self.cost * parameters**self.growth * seen_samples)

    def samples(self, flops: float, parameters: Floats) -> Floats:
        """Number of samples that a budget of FLOPs lets models of these sizes see."""
        return np.asarray(flops / (self.cost * parameters**self.growth))


def _quadratic(study: Study) -> tuple[float, float, float] | None:
    pairs = sorted({(run.width, run.parameters) for run in study.runs if run.width is not None})
    if len(pairs) < 3:
        return None
    widths, parameters = np.array(pairs, np.float64).T
    scale = widths.max()  # keeps squares of large widths in range
    second, first, zeroth = np.polyfit(widths / scale, parameters, 2)
    return float(second / scale**2), float(first / scale), float(zeroth)


@dataclass(frozen=True)
class Optimum:
    """Compute-optimal training for a budget, with 95 % intervals.

    ``status`` is ``interpolated`` if size and samples lie within the study's range, ``extrapolated`` if either lies
    beyond, and ``unbounded`` if the predicted loss has no minimum along the budget, because it depends on only one of
    them; the other fields are then None. ``flat`` is the range of sizes whose loss is within 1 % of the minimum.
    """

    flops: float
    status: str
    parameters: float | None = None
    parameters_interval: tuple[float, float] | None = None
    width: float | None = None
    samples: float | None = None  # seen in training
    samples_interval: tuple[float, float] | None = None
    unique_samples: float | None = None
    epochs: float | None = None
    loss: float | None = None
    loss_interval: tuple[float, float] | None = None  # confidence interval of the law
    loss_prediction: tuple[float, float] | None = None  # prediction interval of a new run
    flat: tuple[float, float] | None = None


@dataclass(frozen=True)
class Planner:
    """A law and what planning needs from its study: relations of size, ranges, and what compute buys."""

    law: Law
    sizes: Sizes
    data_axis: str  # what compute buys in addition to size, see ``Study.data_axis``
    epochs: float  # fixed number of epochs if compute buys unique samples
    all_samples: float  # fixed number of unique samples if compute buys epochs
    smallest: float  # range of the study's parameters
    largest: float
    least_samples: float  # range of the study's data axis
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
        """Levels by axis of models of these sizes that see these samples."""
        buys_epochs = self.data_axis == "seen_samples"
        unique = self.all_samples if buys_epochs else np.asarray(seen_samples) / self.epochs
        flops = self.sizes.cost * np.asarray(parameters) ** self.sizes.growth * seen_samples
        return {"parameters": parameters, "unique_samples": unique, "seen_samples": seen_samples, "flops": flops}

    def optimum(self, flops: float) -> Optimum:
        """The compute-optimal size for a budget: the minimum of the predicted loss over sizes that spend all of it."""
        if "parameters" not in self.law.form.axes or self.data_axis not in self.law.form.axes:
            return Optimum(flops, "unbounded")
        grid = self._grid()
        levels = self.levels(grid, self.sizes.samples(flops, grid))
        losses = self.law.predict(levels)
        (best,) = _minima(np.log(grid), losses[None])
        if not np.isfinite(best):
            return Optimum(flops, "unbounded")
        parameters = float(np.exp(best))
        samples = float(self.sizes.samples(flops, np.array([parameters]))[0])
        here = {name: np.atleast_1d(level) for name, level in self.levels(parameters, samples).items()}
        scalars = {name: float(level[0]) for name, level in here.items()}
        sizes_R = _minima(np.log(grid), self.law.replicate_losses(levels))
        bounded_R = np.isfinite(sizes_R)
        has_noise = self.law.noise.degrees_of_freedom > 0
        identifiable = has_noise and bounded_R.mean() >= 1 - _MAX_UNBOUNDED
        samples_R = self.sizes.samples(flops, np.exp(sizes_R[bounded_R]))
        loss = float(self.law.predict(here)[0])
        flat = grid[losses <= FLAT * loss]
        data = samples if self.data_axis == "seen_samples" else samples / self.epochs
        size_in_range = self.smallest / SAME <= parameters <= SAME * self.largest
        in_range = size_in_range and self.least_samples / SAME <= data <= SAME * self.most_samples
        unique = float(here["unique_samples"][0])
        loss_interval = interval(self.law.replicate_losses(here)[:, 0]) if has_noise else None
        return Optimum(
            flops,
            "interpolated" if in_range else "extrapolated",
            parameters=parameters,
            parameters_interval=_exp(interval(sizes_R[bounded_R])) if identifiable else None,
            width=self.sizes.width(parameters),
            samples=samples,
            samples_interval=interval(samples_R) if identifiable else None,
            unique_samples=unique,
            epochs=samples / unique,
            loss=loss,
            loss_prediction=self.law.prediction(scalars, seeds=1)[1],
            loss_interval=loss_interval,
            flat=(float(flat.min()), float(flat.max())) if len(flat) else (parameters, parameters),
        )

    def best(self, flops: float) -> tuple[float, float] | None:
        """The compute-optimal size for a budget and its predicted loss, without intervals; None if unbounded."""
        grid = self._grid()
        losses = self.law.predict(self.levels(grid, self.sizes.samples(flops, grid)))
        (log_size,) = _minima(np.log(grid), losses[None])
        return (float(np.exp(log_size)), float(losses.min())) if np.isfinite(log_size) else None

    def why_unbounded(self, flops: float | None = None) -> str:
        """Why the predicted loss has no minimum along a budget, and which runs could change that; half a sentence."""
        axes = self.law.form.axes
        if "parameters" not in axes or self.data_axis not in axes:
            return "it does not trade size against samples: the study varies only one of them"
        budget = flops or self.sizes.flops(self.largest, self.most_samples)
        ends = self.law.predict(self.levels(grid := self._grid(), self.sizes.samples(budget, grid)))[[0, -1]]
        larger = ends[1] < ends[0]
        ever, instead = ("larger models", "more samples") if larger else ("more samples", "larger models")
        return (
            f"along a budget it predicts an ever lower loss for {ever}, so {instead} never pay off; runs of at least 4 "
            "sizes at one budget, on both sides of the lowest loss, would locate an optimum"
        )

    def flops_for(self, loss: float) -> float | None:
        """The smallest budget whose compute-optimal size reaches a predicted loss; None if no budget does."""
        return self._smallest_budget(lambda _, reached: reached <= loss)

    def flops_of(self, parameters: float) -> float | None:
        """The budget for which a model of ``parameters`` is compute-optimal; None if there is none."""
        return self._smallest_budget(lambda size, _: size >= parameters)

    def _smallest_budget(self, enough: Callable[[float, float], bool]) -> float | None:
        """The smallest budget whose optimum is ``enough``, by bisection: size and loss are monotonic in the budget."""
        scale = self.sizes.flops(self.largest, self.most_samples)
        tried = np.log(scale) + np.arange(-20.0, 30.0)
        bounded = [log for log in tried if self.best(float(np.exp(log)))]
        if not bounded:
            return None
        ends = [enough(*(self.best(float(np.exp(log))) or (0.0, np.inf))) for log in (bounded[0], bounded[-1])]
        if ends != [False, True]:
            return None
        low, high = bounded[0], bounded[-1]
        while high - low > 1e-5:
            middle = (low + high) / 2
            found = self.best(float(np.exp(middle)))
            low, high = (low, middle) if found and enough(*found) else (middle, high)
        return float(np.exp(high))

    def _grid(self) -> Floats:
        return np.geomspace(self.smallest / _GRID_REACH, self.largest * _GRID_REACH, _GRID_SIZES)


def _minima(logs_G: Floats, losses_RG: Floats) -> Floats:
    """Log sizes [R] of the minima along the grid, by parabolic interpolation; nan if at an end of the grid or flat."""
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
    """FLOPs of the study's smallest, median and largest run, and ten times the largest.

    If compute buys epochs, only the runs on the most data count.
    """
    most = max(run.unique_samples for run in study.runs)
    buys_data = study.data_axis == "unique_samples"
    flops = sorted({run.flops for run in study.runs if buys_data or run.unique_samples == most})
    return {"smallest": flops[0], "median": float(np.median(flops)), "largest": flops[-1], "tenfold": 10 * flops[-1]}
