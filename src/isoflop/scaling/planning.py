"""The compute-optimal size: the N and D of least loss for a budget of FLOPs, and how size and cost go with width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from isoflop.scaling.laws import L_ND, Floats
from isoflop.scaling.runs import Study
from isoflop.scaling.uncertainty import interval


@dataclass(frozen=True)
class Sizes:
    """Parameters as a quadratic of width (exact for layers whose inputs and outputs grow with it), and training
    FLOPs an image as a power of parameters: flops = cost · N^growth."""

    quadratic: tuple[float, float, float]  # of width², width and 1
    cost: float
    growth: float

    @classmethod
    def of(cls, study: Study) -> Sizes:
        """The curves through the study's widths, of which there are at least three."""
        rows = sorted({(run.width, run.parameters, run.flops_per_image) for run in study.runs})
        widths, parameters, flops = np.array(rows, np.float64).T
        scale = widths.max()  # keeps the powers of a wide width in range
        second, first, zeroth = np.polyfit(widths / scale, parameters, 2)
        growth, log_cost = np.polyfit(np.log(parameters), np.log(flops), 1)
        quadratic = (float(second / scale**2), float(first / scale), float(zeroth))
        return cls(quadratic, float(np.exp(log_cost)), float(growth))

    def parameters(self, width: float) -> float:
        """N of a width."""
        return float(np.polyval(self.quadratic, width))

    def width(self, parameters: float) -> float:
        """The (fractional) width of N parameters: the largest real root, or nan where there is none."""
        second, first, zeroth = self.quadratic
        roots = np.roots([second, first, zeroth - parameters])
        real = roots.real[np.abs(roots.imag) < 1e-9 * (1 + np.abs(roots.real))]
        return float(real.max()) if len(real) else float("nan")


@dataclass(frozen=True)
class Optimum:
    """What the law says to spend a budget on, with intervals of 95 %.

    ``place`` is ``inside`` the study's range, ``extrapolated`` beyond it in N or D, or ``unbounded``: the law has
    no minimum, as its loss falls with one of N and D alone (the other figures are None then).
    """

    flops: float
    place: str
    parameters: float | None = None
    parameters_interval: tuple[float, float] | None = None
    width: float | None = None
    unique_images: float | None = None
    val_nll: float | None = None
    val_nll_interval: tuple[float, float] | None = None


def budgets(study: Study) -> dict[str, float]:
    """FLOPs of the cheapest, the median and the dearest run on the most data, and ten times the dearest."""
    largest = study.fractions[-1]
    flops = sorted({run.flops for run in study.runs if run.fraction == largest})
    middle = float(np.median(flops))
    return {"smallest": flops[0], "median": middle, "largest": flops[-1], "tenfold": 10 * flops[-1]}


def optimum(values: Floats, replicates: Floats, sizes: Sizes, epochs: int, flops: float, study: Study) -> Optimum:
    """Minimise L(N, D) over N subject to epochs · cost · N^growth · D = flops.

    Setting the derivative to zero gives N* in closed form (Hoffmann et al. 2022, eq. 4, with their 6ND made
    N^growth): N*^(α + growth β) = αA / (growth β B) · (flops / (epochs cost))^β.

    Args:
        values: [5], the law L(N, D).
        replicates: [R, 5], its bootstrap.
    """
    images = flops / (epochs * sizes.cost)  # that a model of one parameter could see
    (best,) = _best_sizes(values[None], images, sizes.growth)
    if not np.isfinite(best):
        return Optimum(flops, "unbounded")
    seen = images / best**sizes.growth
    bootstrapped_R = _best_sizes(replicates, images, sizes.growth)
    bootstrapped_R = bootstrapped_R[np.isfinite(bootstrapped_R)]
    losses_R = L_ND.predict(replicates, np.array([[best], [seen]]))[:, 0]
    size_low, size_high = study.levels(["parameters"]).min(), study.levels(["parameters"]).max()
    seen_low, seen_high = study.levels(["unique_images"]).min(), study.levels(["unique_images"]).max()
    inside = size_low <= best <= size_high and seen_low <= seen <= seen_high
    return Optimum(
        flops,
        "inside" if inside else "extrapolated",
        parameters=float(best),
        parameters_interval=interval(bootstrapped_R) if len(bootstrapped_R) else None,
        width=sizes.width(float(best)),
        unique_images=float(seen),
        val_nll=float(L_ND.predict(values[None], np.array([[best], [seen]]))[0, 0]),
        val_nll_interval=interval(losses_R),
    )


def _best_sizes(values_RP: Floats, images: float, growth: float) -> Floats:
    """N* [R] of R laws; infinite or nan where a law has no minimum within 1 to 1e15 parameters."""
    _, coefficient_n, coefficient_d, exponent_n, exponent_d = values_RP.T
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        logs_R = np.log(exponent_n * coefficient_n) - np.log(growth * exponent_d * coefficient_d)
        logs_R = (logs_R + exponent_d * np.log(images)) / (exponent_n + growth * exponent_d)
        return np.where((logs_R > 0) & (logs_R < np.log(1e15)), np.exp(logs_R), np.nan)


def plan(values: Floats, replicates: Floats, study: Study, flops: Sequence[float]) -> list[Optimum]:
    """The optimum of each budget, for runs of as many epochs as the study's longest."""
    sizes = Sizes.of(study)
    epochs = max(run.epochs for run in study.runs)
    return [optimum(values, replicates, sizes, epochs, budget, study) for budget in flops]
