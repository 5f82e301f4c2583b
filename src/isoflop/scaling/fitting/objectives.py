"""Fitting objectives: Huber, L1 and squares of the residuals of log L, or squares of L. No optimizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isoflop.scaling.forms import TINY, Floats


@dataclass(frozen=True)
class Objective:
    """Huber loss of residuals: r²/2 up to ``delta``, linear beyond. An infinite delta gives squares."""

    delta: float
    logarithmic: bool  # residuals of log L (relative errors), else of L itself

    def residuals(self, predicted: Floats, measured: Floats) -> Floats:
        """Residuals [R, M] of predicted losses [R, M] from measured losses."""
        if self.logarithmic:
            return np.asarray(np.log(np.maximum(predicted, TINY)) - np.log(measured))
        return predicted - measured

    def rho(self, residuals: Floats, delta: float | None = None) -> Floats:
        """Huber loss of each residual. ``delta`` overrides the objective's own."""
        delta = self.delta if delta is None else delta
        size = np.abs(residuals)
        if np.isinf(delta):
            return np.asarray(0.5 * size**2)
        return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


OBJECTIVES = {
    "huber": Objective(1e-3, logarithmic=True),  # Hoffmann et al. 2022, Approach 3
    "l1": Objective(1e-7, logarithmic=True),  # δ far below the noise of any run; 1e7 ρ is the sum of |r|
    "mse": Objective(np.inf, logarithmic=True),
    "least_squares": Objective(np.inf, logarithmic=False),
}
