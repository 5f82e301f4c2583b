"""Fitting objectives: Huber, L1 and squares of residuals of log L, or squares of L; symmetric or not. No optimizer."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.scaling.forms import TINY, Floats


@dataclass(frozen=True)
class Objective:
    """Huber loss of residuals: r²/2 up to ``delta``, linear beyond. An infinite delta gives squares.

    With a ``quantile`` q other than 0.5 the penalty is asymmetric: runs below the law weigh 2 (1 - q), runs above it
    2 q. A small delta then fits the quantile q of the runs (Koenker and Bassett 1978), squares their expectile (Newey
    and Powell 1987). A small q approaches the lower envelope, as of Hoffmann et al. 2022, Approach 1.
    """

    delta: float
    logarithmic: bool  # residuals of log L (relative errors), else of L itself
    quantile: float = 0.5  # share of the runs that lie below the law, for a small delta

    def residuals(self, predicted: Floats, measured: Floats) -> Floats:
        """Residuals [R, M] of predicted losses [R, M] from measured losses."""
        if self.logarithmic:
            return np.asarray(np.log(np.maximum(predicted, TINY)) - np.log(measured))
        return predicted - measured

    def rho(self, residuals: Floats, delta: float | None = None) -> Floats:
        """Huber loss of each residual. ``delta`` overrides the objective's own."""
        delta = self.delta if delta is None else delta
        size = np.abs(residuals)
        loss = (
            0.5 * size**2 if np.isinf(delta) else np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))
        )
        return np.asarray(self.weighted(loss, residuals))

    def weighted(self, values: Floats, residuals: Floats) -> Floats:
        """Values of the shape of ``residuals`` times the weight of the side that each residual is on."""
        if self.quantile == 0.5:
            return values
        return np.asarray(values * np.where(residuals > 0, 2 * (1 - self.quantile), 2 * self.quantile))


OBJECTIVES = {
    "huber": Objective(1e-3, logarithmic=True),  # Hoffmann et al. 2022, Approach 3
    "l1": Objective(1e-7, logarithmic=True),  # δ far below the noise of any run; 1e7 ρ is the sum of |r|
    "mse": Objective(np.inf, logarithmic=True),
    "least_squares": Objective(np.inf, logarithmic=False),
}


def objective_of(name: str) -> Objective:
    """The objective of a name: a key of ``OBJECTIVES``, or a key and a quantile such as ``l1:0.1``.

    Raises:
        UserError: there is no such objective, or the quantile is not between 0 and 1.
    """
    key, _, quantile = name.partition(":")
    try:
        share = float(quantile or 0.5)
    except ValueError:
        share = 0.0
    if key not in OBJECTIVES or not 0 < share < 1:
        expected = f"one of {', '.join(OBJECTIVES)}, or with a quantile between 0 and 1 such as l1:0.1"
        raise UserError(f"objective: got {name}, expected {expected}")
    return replace(OBJECTIVES[key], quantile=share)
