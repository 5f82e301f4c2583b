"""The optimizer behind ``fitting``: starts by variable projection, then bounded damped Newton, in batches of tables.

At fixed exponents a law is linear, so E and the coefficients that minimize the squares have a closed form: each set of
exponents on a grid gives a start. From there Newton steps with the exact Hessian converge quickly. Batching makes
hundreds of bootstrap replicates as cheap as one fit with scipy.
"""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import numpy.typing as npt

from isoflop.scaling.forms import TINY, Floats, Form
from isoflop.scaling.objectives import Objective

Bools = npt.NDArray[np.bool_]

_MAX_EXPONENT = 10.0  # a term with a larger one is a step at the smallest level, not a power law
_GRID = (0.05, 0.15, 0.3, 0.5, 0.8, 1.3, 2.2)
_EASY_DELTA = 1e-3  # Huber δ from which Newton's method needs no continuation in δ
_BLOCK = 12_000  # residuals per batched step, so that the derivatives fit in a core's cache


class Problem:
    """A form, the levels of the runs and an objective, in scaled units.

    The logs of the levels are centered and the losses divided by a typical loss. This makes the parameters of order
    one: a coefficient is that at the center of the study, not at N = 1.
    """

    def __init__(self, form: Form, levels: Floats, objective: Objective, weights: Floats | None = None) -> None:
        logs_KM = np.log(levels)
        self._form, self._objective = form, objective
        self._centre_K = logs_KM.mean(axis=1)
        self._logs_KM = logs_KM - self._centre_K[:, None]
        self._weights_M = np.ones(levels.shape[1]) if weights is None else weights / weights.mean()
        self._of = np.array(form.term_of_axis)
        self._members_TK = (np.arange(len(form.terms))[:, None] == self._of[None]).astype(np.float64)
        self._axes_of_term = [np.flatnonzero(self._of == term) for term in range(len(form.terms))]
        self._first = 1 + len(form.terms)  # index of the first exponent
        self.free_P = np.ones(form.size, bool)

    def unit(self, losses: Floats) -> float:
        """The geometric mean of the losses, their unit inside the problem."""
        return float(np.exp(np.log(losses).mean()))

    def scaled(self, values_RP: Floats, unit: float) -> Floats:
        """Convert parameters [R, P] of the form to the problem's units."""
        return self._rescaled(values_RP, np.exp(-self._at_centre(values_RP)) / unit, 1 / unit)

    def unscaled(self, scaled_RP: Floats, unit: float) -> Floats:
        """The inverse of ``scaled``."""
        return self._rescaled(scaled_RP, np.exp(self._at_centre(scaled_RP)) * unit, unit)

    def _at_centre(self, values_RP: Floats) -> Floats:
        return np.asarray((values_RP[:, self._first :] * self._centre_K) @ self._members_TK.T)

    def _rescaled(self, values_RP: Floats, shift_RT: Floats, unit: float) -> Floats:
        linear = [values_RP[:, :1] * unit, values_RP[:, 1 : self._first] * shift_RT]
        return np.concatenate([*linear, values_RP[:, self._first :]], 1)

    def grid(self) -> Floats:
        """The grid of exponents [S, K]."""
        return np.array(list(product(_GRID, repeat=len(self._of))))

    def project(self, exponents_SK: Floats, targets_SM: Floats) -> Floats:
        """Starts [S, P]: E and coefficients ≥ 0 with the least relative squares at the given exponents."""
        root_M = np.sqrt(self._weights_M)
        features_SFM = self._features(exponents_SK) * (root_M / targets_SM)[:, None]
        gram_SFF = features_SFM @ np.swapaxes(features_SFM, 1, 2)
        moment_SF = features_SFM @ root_M
        linear_SF, _ = _non_negative(gram_SFF, moment_SF)
        return np.concatenate([linear_SF, exponents_SK], axis=1)

    def best_on_grid(self, targets_RM: Floats) -> Floats:
        """The start [R, P] of each of R tables: the point on the grid of exponents with the least squares."""
        weight_M = np.sqrt(self._weights_M) / targets_RM.mean(axis=0)
        best_RP, least_R = np.zeros((len(targets_RM), self._form.size)), np.full(len(targets_RM), np.inf)
        for exponents in self.grid():
            features_FM = self._features(exponents[None])[0] * weight_M
            moment_RF = (targets_RM * weight_M) @ features_FM.T
            gram_RFF = np.broadcast_to(features_FM @ features_FM.T, (len(targets_RM), *2 * [self._first]))
            linear_RF, gain_R = _non_negative(gram_RFF, moment_RF)
            better_R = -gain_R < least_R
            least_R = np.where(better_R, -gain_R, least_R)
            starts_RP = np.concatenate([linear_RF, np.tile(exponents, (len(targets_RM), 1))], axis=1)
            best_RP = np.where(better_R[:, None], starts_RP, best_RP)
        return best_RP

    def _features(self, exponents_SK: Floats) -> Floats:
        """Features [S, F, M] that E and the coefficients multiply: 1, and the product of powers of each term."""
        features_SFM = np.empty((len(exponents_SK), self._first, self._logs_KM.shape[1]))
        features_SFM[:, 0] = 1
        for term, axes in enumerate(self._axes_of_term):
            features_SFM[:, 1 + term] = np.exp(-exponents_SK[:, axes] @ self._logs_KM[axes])
        return features_SFM

    def best_starts(self, starts_SP: Floats, targets_SM: Floats, keep: int) -> Floats:
        """Take a few Newton steps from all starts and return the ``keep`` points with the lowest objective."""
        moved_SP, objectives_S = self._newton(
            starts_SP, targets_SM, max(16 * self._objective.delta, _EASY_DELTA), most=8
        )
        return moved_SP[np.argsort(objectives_S, kind="stable")[:keep]]

    def lowest(self, starts_SP: Floats, target_M: Floats) -> tuple[Floats, float]:
        """Minimize from all starts for one table of losses [M]; return the best parameters [P] and their objective."""
        solved_SP, objectives_S = self.solve(starts_SP, np.repeat(target_M[None], len(starts_SP), axis=0))
        best = int(np.argmin(objectives_S))
        return solved_SP[best], float(objectives_S[best])

    def perturbed(self, values_P: Floats, target_M: Floats, count: int) -> Floats:
        """More starts [S, P]: fits to the losses plus noise as large as the residuals.

        With a small δ and few runs, the objective has many shallow minima. Minima of perturbed tables lie near the
        better ones.
        """
        predicted_M = self._predict(values_P[None], self._features(values_P[None, self._first :]))[0]
        residuals_M = self._objective.residuals(predicted_M, target_M)
        rng = np.random.default_rng(0)  # for the search only; the result hardly depends on it
        spread_SM = np.sqrt((residuals_M**2).mean()) * rng.standard_normal((count, len(target_M)))
        tables_SM = target_M * np.exp(spread_SM) if self._objective.logarithmic else target_M + spread_SM
        delta = max(16 * self._objective.delta, _EASY_DELTA)
        moved_SP, _ = self._newton(np.repeat(values_P[None], count, 0), tables_SM, delta, most=15)
        return moved_SP

    def solve(self, starts_RP: Floats, targets_RM: Floats, rounds: int = 2) -> tuple[Floats, Floats]:
        """Minimize from each start for its own targets; return parameters [R, P] and objectives [R].

        Huber's δ decreases by a factor of four per round to the objective's own, over ``rounds`` rounds plus those
        between ``_EASY_DELTA`` and that δ. Few rounds suit many starts, which end in many minima; more rounds, which
        begin near squares, lead a single start to a good minimum.
        """
        values_RP = starts_RP
        for delta, iterations in self._schedule(rounds):
            values_RP, objectives_R = self._newton(values_RP, targets_RM, delta, iterations)
        return values_RP, objectives_R

    def _schedule(self, rounds: int) -> list[tuple[float, int]]:
        """Huber's δ and the maximum number of Newton steps of each round."""
        final = self._objective.delta
        if not np.isfinite(final):
            return [(final, 100)]
        rounds += max(0, int(np.ceil(np.log(_EASY_DELTA / final) / np.log(4.0))))
        return [*((final * 4.0**step, 10) for step in range(rounds, 0, -1)), (final, 100)]

    def _newton(self, values_RP: Floats, targets_RM: Floats, delta: float, most: int) -> tuple[Floats, Floats]:
        """Damped Newton within the bounds, in blocks; a row that no longer improves leaves the batch.

        Tables that follow no law may overflow on the way. Such steps do not lower the objective and are rejected.
        """
        rows = max(1, _BLOCK // targets_RM.shape[1])
        blocks = [slice(first, first + rows) for first in range(0, len(values_RP), rows)]
        with np.errstate(over="ignore", invalid="ignore"):
            parts = [self._descend(values_RP[block].copy(), targets_RM[block], delta, most) for block in blocks]
        return np.concatenate([values for values, _ in parts]), np.concatenate([reached for _, reached in parts])

    def _descend(self, values_RP: Floats, targets_RM: Floats, delta: float, most: int) -> tuple[Floats, Floats]:
        upper_P = np.array([np.inf] * self._first + [_MAX_EXPONENT] * len(self._of))
        features_RFM = self._features(values_RP[:, self._first :])
        objectives_R = self._evaluate(values_RP, features_RFM, targets_RM, delta)
        damping_R = np.full(len(values_RP), 1e-3)
        active = np.arange(len(values_RP))
        idle_R = np.zeros(len(values_RP), np.int64)
        for _ in range(most):
            here_RP, here_RM = values_RP[active], targets_RM[active]
            gradient_RP, hessian_RPP, scale_RP = self._derivatives(here_RP, features_RFM[active], here_RM, delta)
            held_RP = ((here_RP <= 0) & (gradient_RP > 0)) | ((here_RP >= upper_P) & (gradient_RP < 0)) | ~self.free_P
            steps_RP = _step(gradient_RP, hessian_RPP, scale_RP, held_RP, damping_R[active])
            tried_RP = np.clip(here_RP + steps_RP, 0, upper_P)
            tried_RFM = self._features(tried_RP[:, self._first :])
            reached_R = self._evaluate(tried_RP, tried_RFM, here_RM, delta)
            gain_R = objectives_R[active] - reached_R
            better_R = gain_R > 0
            rows = active[better_R]
            values_RP[rows], objectives_R[rows] = tried_RP[better_R], reached_R[better_R]
            features_RFM[rows] = tried_RFM[better_R]
            damping_R[active] = np.where(better_R, damping_R[active] / 5, damping_R[active] * 4)
            slight_R = gain_R <= 1e-12 * objectives_R[active] + 1e-30
            idle_R[active] = np.where(slight_R & better_R, idle_R[active] + 1, np.where(better_R, 0, idle_R[active]))
            active = active[(idle_R[active] < 2) & (damping_R[active] < 1e8)]
            if not len(active):
                break
        return values_RP, objectives_R

    def _evaluate(self, values_RP: Floats, features_RFM: Floats, targets_RM: Floats, delta: float) -> Floats:
        residuals_RM = self._objective.residuals(self._predict(values_RP, features_RFM), targets_RM)
        return np.asarray(self._objective.rho(residuals_RM, delta) @ self._weights_M)

    def _predict(self, values_RP: Floats, features_RFM: Floats) -> Floats:
        return np.asarray((values_RP[:, None, : self._first] @ features_RFM)[:, 0])

    def _derivatives(
        self, values_RP: Floats, features_RFM: Floats, targets_RM: Floats, delta: float
    ) -> tuple[Floats, Floats, Floats]:
        """Gradient [R, P] and Hessian [R, P, P] of the objective, and the scale [R, P] of each parameter."""
        predicted_RM = self._predict(values_RP, features_RFM)
        residuals_RM = self._objective.residuals(predicted_RM, targets_RM)
        slope_RM = np.clip(residuals_RM, -delta, delta) * self._weights_M
        outer_RM = (np.abs(residuals_RM) <= delta) * self._weights_M
        second_RM = slope_RM
        coefficient_RK = values_RP[:, 1 + self._of]
        bent_RKM = features_RFM[:, 1 + self._of] * -self._logs_KM
        jacobian_RPM = np.concatenate([features_RFM, bent_RKM * coefficient_RK[:, :, None]], axis=1)
        if self._objective.logarithmic:
            inverse_RM = 1 / np.maximum(predicted_RM, TINY)
            jacobian_RPM *= inverse_RM[:, None]
            outer_RM = outer_RM - slope_RM
            second_RM = slope_RM * inverse_RM
        gradient_RP = (jacobian_RPM @ slope_RM[:, :, None])[:, :, 0]
        hessian_RPP = (jacobian_RPM * outer_RM[:, None]) @ np.swapaxes(jacobian_RPM, 1, 2)
        weighted_RKM = bent_RKM * second_RM[:, None]
        mixed_RK = weighted_RKM.sum(axis=2)
        twice_RKK = np.swapaxes(weighted_RKM @ -self._logs_KM.T, 1, 2) * coefficient_RK[:, None]
        for axis, term in enumerate(self._of):
            coefficient, exponent = 1 + term, self._first + axis
            hessian_RPP[:, coefficient, exponent] += mixed_RK[:, axis]
            hessian_RPP[:, exponent, coefficient] += mixed_RK[:, axis]
            for other in self._axes_of_term[term]:
                hessian_RPP[:, self._first + other, exponent] += twice_RKK[:, other, axis]
        scale_RP = np.sqrt((jacobian_RPM**2).sum(axis=2))
        return gradient_RP, hessian_RPP, scale_RP


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


def _non_negative(gram_RFF: Floats, moment_RF: Floats) -> tuple[Floats, Floats]:
    """Minimize ½ xᵀGx - mᵀx over x ≥ 0 by trying every subset of the few features; return x [R, F] and mᵀx [R]."""
    count, features = moment_RF.shape
    best_RF, gain_R = np.zeros((count, features)), np.zeros(count)
    ridge = 1e-12 * np.trace(gram_RFF, axis1=1, axis2=2)[:, None, None]
    for size in range(1, features + 1):
        for subset in combinations(range(features), size):
            part = np.ix_(range(count), subset, subset)
            solved_RF = np.linalg.solve(gram_RFF[part] + ridge * np.eye(size), moment_RF[:, subset, None])[:, :, 0]
            reached_R = np.einsum("rf,rf->r", solved_RF, moment_RF[:, subset])
            better_R = (solved_RF >= 0).all(axis=1) & (reached_R > gain_R)
            full_RF = np.zeros((count, features))
            full_RF[:, subset] = solved_RF
            best_RF = np.where(better_R[:, None], full_RF, best_RF)
            gain_R = np.where(better_R, reached_R, gain_R)
    return best_RF, gain_R
