"""Bounded damped Newton descent of Huber objectives, in batches of tables. ``newton`` and ``bent`` hold the problems.

Batching makes hundreds of bootstrap replicates as cheap as one fit with scipy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from isoflop.scaling.fitting.objectives import Objective
from isoflop.scaling.forms import Floats

Bools = npt.NDArray[np.bool_]

EASY_DELTA = 1e-3  # Huber δ from which the descent needs no continuation in δ
_BLOCK = 12_000  # residuals per batched step, so that the derivatives fit in a core's cache


class Descent(ABC):
    """Minimize Σ_i w_i ρ(residual_i) over bounded parameters [P], for R tables of losses [M] at once.

    A state [R, F, M] holds what a prediction needs at given parameters; it is computed once per step.
    """

    def __init__(self, objective: Objective, lower_P: Floats, upper_P: Floats, weights: Floats) -> None:
        self._objective = objective
        self._weights = weights / weights.mean(axis=-1, keepdims=True)  # [M], or [R, M] for R tables
        self._lower_P, self._upper_P = lower_P, upper_P
        self.free_P = np.ones(len(lower_P), bool)

    @abstractmethod
    def _state(self, values_RP: Floats) -> Floats: ...

    @abstractmethod
    def _predict(self, values_RP: Floats, state_RFM: Floats) -> Floats: ...

    @abstractmethod
    def _derivatives(
        self, values_RP: Floats, state_RFM: Floats, targets_RM: Floats, weights_RM: Floats, delta: float
    ) -> tuple[Floats, Floats, Floats]:
        """Gradient [R, P] and Hessian [R, P, P] of the objective, and the scale [R, P] of each parameter."""

    def _constrained(self, values_RP: Floats) -> Floats:
        """The parameters [R, P] with those that are not free set by the others."""
        return values_RP

    def _evaluate(
        self, values_RP: Floats, state_RFM: Floats, targets_RM: Floats, weights_RM: Floats, delta: float
    ) -> Floats:
        residuals_RM = self._objective.residuals(self._predict(values_RP, state_RFM), targets_RM)
        return np.asarray((self._objective.rho(residuals_RM, delta) * weights_RM).sum(axis=1))

    def solve(self, starts_RP: Floats, targets_RM: Floats, rounds: int = 2, most: int = 100) -> tuple[Floats, Floats]:
        """Minimize from each start for its own targets; return parameters [R, P] and objectives [R].

        Huber's δ decreases by a factor of four per round to the objective's own, over ``rounds`` rounds plus those
        between ``EASY_DELTA`` and that δ, with at most ``most`` steps in the last. Few rounds suit many starts, which
        end in many minima; more rounds, which begin near squares, lead a single start to a good minimum.
        """
        values_RP = starts_RP
        for delta, iterations in self._schedule(rounds, most):
            values_RP, objectives_R = self._newton(values_RP, targets_RM, delta, iterations)
        return values_RP, objectives_R

    def _schedule(self, rounds: int, most: int) -> list[tuple[float, int]]:
        """Huber's δ and the maximum number of Newton steps of each round."""
        final = self._objective.delta
        if not np.isfinite(final):
            return [(final, most)]
        rounds += max(0, int(np.ceil(np.log(EASY_DELTA / final) / np.log(4.0))))
        return [*((final * 4.0**step, 10) for step in range(rounds, 0, -1)), (final, most)]

    def _newton(self, values_RP: Floats, targets_RM: Floats, delta: float, most: int) -> tuple[Floats, Floats]:
        """Damped Newton within the bounds, in blocks; a row that no longer improves leaves the batch.

        Tables that follow no law may overflow on the way. Such steps do not lower the objective and are rejected.
        """
        rows = max(1, _BLOCK // targets_RM.shape[1])
        blocks = [slice(first, first + rows) for first in range(0, len(values_RP), rows)]
        with np.errstate(over="ignore", invalid="ignore"):
            weights_RM = np.broadcast_to(self._weights, targets_RM.shape)
            parts = [
                self._descend(values_RP[block].copy(), targets_RM[block], weights_RM[block], delta, most)
                for block in blocks
            ]
        return np.concatenate([values for values, _ in parts]), np.concatenate([reached for _, reached in parts])

    def _descend(
        self, values_RP: Floats, targets_RM: Floats, weights_RM: Floats, delta: float, most: int
    ) -> tuple[Floats, Floats]:
        state_RFM = self._state(values_RP)
        objectives_R = self._evaluate(values_RP, state_RFM, targets_RM, weights_RM, delta)
        damping_R = np.full(len(values_RP), 1e-3)
        active = np.arange(len(values_RP))
        idle_R = np.zeros(len(values_RP), np.int64)
        for _ in range(most):
            here_RP, here_RM, weight_RM = values_RP[active], targets_RM[active], weights_RM[active]
            gradient_RP, hessian_RPP, scale_RP = self._derivatives(
                here_RP, state_RFM[active], here_RM, weight_RM, delta
            )
            held_RP = (
                ((here_RP <= self._lower_P) & (gradient_RP > 0))
                | ((here_RP >= self._upper_P) & (gradient_RP < 0))
                | ~self.free_P
            )
            steps_RP = _step(gradient_RP, hessian_RPP, scale_RP, held_RP, damping_R[active])
            tried_RP = self._constrained(np.clip(here_RP + steps_RP, self._lower_P, self._upper_P))
            tried_RFM = self._state(tried_RP)
            reached_R = self._evaluate(tried_RP, tried_RFM, here_RM, weight_RM, delta)
            gain_R = objectives_R[active] - reached_R
            better_R = gain_R > 0
            rows = active[better_R]
            values_RP[rows], objectives_R[rows] = tried_RP[better_R], reached_R[better_R]
            state_RFM[rows] = tried_RFM[better_R]
            damping_R[active] = np.where(better_R, damping_R[active] / 5, damping_R[active] * 4)
            slight_R = gain_R <= 1e-12 * objectives_R[active] + 1e-30
            idle_R[active] = np.where(slight_R & better_R, idle_R[active] + 1, np.where(better_R, 0, idle_R[active]))
            active = active[(idle_R[active] < 2) & (damping_R[active] < 1e8)]
            if not len(active):
                break
        return values_RP, objectives_R


def _step(gradient_RP: Floats, hessian_RPP: Floats, scale_RP: Floats, held_RP: Bools, damping_R: Floats) -> Floats:
    """Damped Newton steps [R, P] downhill: curvatures enter by their absolute value; held parameters do not move."""
    scale_RP = np.maximum(scale_RP, 1e-9)
    free_RP = ~held_RP / scale_RP
    scaled_RPP = np.clip(np.nan_to_num(hessian_RPP * free_RP[:, :, None] * free_RP[:, None, :]), -1e100, 1e100)
    gradient_RP = np.clip(np.nan_to_num(gradient_RP), -1e100, 1e100)
    curvatures_RP, axes_RPP = np.linalg.eigh(scaled_RPP)
    stiffness_RP = np.abs(curvatures_RP)
    floor_R = damping_R * np.maximum(stiffness_RP[:, -1], stiffness_RP[:, 0]) + 1e-14
    along_RP = np.einsum("rpq,rp->rq", axes_RPP, gradient_RP * free_RP)
    steps_RP = np.einsum("rpq,rq->rp", axes_RPP, along_RP / (stiffness_RP + floor_R[:, None]))
    return np.asarray(-steps_RP * free_RP)
