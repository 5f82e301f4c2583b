"""The law of routed networks: log L over log parameters, log experts and their product, of Clark et al. 2022.

"Unified Scaling Laws for Routed Language Models" (https://arxiv.org/abs/2202.01169): more experts lower the loss of a
small network more than that of a large one, which a product or a sum of power laws cannot describe.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.scaling.forms import Floats

_FIRST = np.geomspace(1.0, 8.0, 13)  # tried for E_start
_LAST = np.array([*np.geomspace(32, 8192, 17), np.inf])  # tried for E_max; without saturation last
_MIN_RUNS = 6


@dataclass(frozen=True)
class RoutingLaw:
    """log L = a log N + b log Ê + c log N log Ê + d, with 1/Ê = 1/(E - 1 + 1/(1/E_start - 1/E_max)) + 1/E_max.

    Logarithms are natural. E is the number of experts and N that of parameters without the other experts. Ê is
    ``first`` (E_start) for a dense network and approaches ``last`` (E_max). ``deviation`` is the standard deviation of
    log L, ``covariance`` [4, 4] that of ``coefficients`` [4] (a, b, c, d), given the saturation.
    """

    coefficients: Floats
    covariance: Floats
    first: float
    last: float
    deviation: float

    def predict(self, parameters: Floats, experts: Floats) -> Floats:
        """Losses [M] of networks with N ``parameters`` [M] and ``experts`` [M]."""
        return np.asarray(np.exp(_design(parameters, saturated(experts, self.first, self.last)) @ self.coefficients))

    def effective_parameters(self, parameters: Floats, experts: Floats) -> Floats:
        """The parameters [M] of dense networks with the same losses (section 5.1 of the paper)."""
        a, b, c, d = self.coefficients
        log_first = np.log(self.first)
        log_losses = np.log(self.predict(parameters, experts))
        return np.asarray(np.exp((log_losses - d - b * log_first) / (a + c * log_first)))


def saturated(experts: Floats, first: float, last: float) -> Floats:
    """Ê [M] of ``experts`` [M], at least 1 each."""
    return np.asarray(1 / (1 / (experts - 1 + 1 / (1 / first - 1 / last)) + 1 / last))


def fit_routing_law(
    parameters: Floats, experts: Floats, losses: Floats, saturation: tuple[float, float] | None = None
) -> RoutingLaw:
    """Fit the law by least squares of log L; the saturation is searched on a grid.

    Args:
        parameters, experts, losses: [M] of the runs; a dense network has 1 expert.
        saturation: E_start and E_max, if known; (1, inf) for none.

    Raises:
        UserError: the runs have fewer than 2 sizes or numbers of experts, are fewer than 6, or hold impossible values.
    """
    sizes, counts, targets = (np.asarray(column, np.float64).ravel() for column in (parameters, experts, losses))
    if not len(sizes) == len(counts) == len(targets):
        raise UserError(f"runs: got {len(sizes)} sizes, {len(counts)} experts and {len(targets)} losses")
    usable = np.isfinite(sizes + counts + targets) & (sizes > 0) & (counts >= 1) & (targets > 0)
    if not usable.all():
        raise UserError(f"run {int(np.argmin(usable)) + 1}: got a value that is missing or too small, expected N > 0, "
                        "at least 1 expert and a positive loss")  # fmt: skip
    if len(sizes) < _MIN_RUNS or len(set(sizes)) < 2 or len(set(counts)) < 2:
        got = f"got {len(sizes)} runs of {len(set(sizes))} sizes and {len(set(counts))} numbers of experts"
        raise UserError(f"{got}, expected at least {_MIN_RUNS} runs with 2 of each")
    known = [saturation] if saturation else [(one, two) for one, two in product(_FIRST, _LAST) if one < two]
    fits = [_least_squares(sizes, saturated(counts, *one), np.log(targets)) for one in known]
    best = int(np.argmin([squares for _, _, squares in fits]))
    values, inverse, squares = fits[best]
    variance = squares / max(len(sizes) - 4 - (0 if saturation else 2), 1)
    first, last = known[best]
    return RoutingLaw(values, variance * inverse, float(first), float(last), float(np.sqrt(variance)))


def _design(parameters: Floats, effective: Floats) -> Floats:
    logs_N, logs_E = np.log(parameters), np.log(effective)
    return np.column_stack([logs_N, logs_E, logs_N * logs_E, np.ones(len(logs_N))])


def _least_squares(parameters: Floats, effective: Floats, log_losses: Floats) -> tuple[Floats, Floats, float]:
    """Coefficients [4], the inverse of the normal matrix [4, 4] and the sum of squares."""
    design_M4 = _design(parameters, effective)
    values = np.asarray(np.linalg.lstsq(design_M4, log_losses, rcond=None)[0], np.float64)
    inverse = np.asarray(np.linalg.pinv(design_M4.T @ design_M4), np.float64)
    return values, inverse, float(((log_losses - design_M4 @ values) ** 2).sum())
