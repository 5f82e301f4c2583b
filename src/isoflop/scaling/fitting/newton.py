"""Fits of sums of power laws: starts by variable projection, then bounded damped Newton, in batches of tables.

At fixed exponents a law is linear, so E and the coefficients that minimize the squares have a closed form: each set of
exponents on a grid gives a start. From there Newton steps with the exact Hessian converge quickly.
"""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from isoflop.scaling.fitting.descent import EASY_DELTA, Descent
from isoflop.scaling.fitting.objectives import Objective
from isoflop.scaling.forms import TINY, Floats, Form

_MAX_EXPONENT = 10.0  # a term with a larger one is a step at the smallest level, not a power law
_GRID = (0.05, 0.15, 0.3, 0.5, 0.8, 1.3, 2.2)


class Problem(Descent):
    """A form, the levels of the runs and an objective, in scaled units.

    The logs of the levels are centered and the losses divided by a typical loss. This makes the parameters of order
    one: a coefficient is that at the center of the study, not at N = 1.
    """

    def __init__(self, form: Form, levels: Floats, objective: Objective, weights: Floats | None = None) -> None:
        logs_KM = np.log(levels)
        first = 1 + len(form.terms)
        upper_P = np.array([np.inf] * first + [_MAX_EXPONENT] * len(form.axes))
        super().__init__(
            objective, np.zeros(form.size), upper_P, np.ones(levels.shape[1]) if weights is None else weights
        )
        self._mean_weights_M = self._weights if self._weights.ndim == 1 else self._weights.mean(axis=0)
        self._form = form
        self._centre_K = logs_KM.mean(axis=1)
        self._logs_KM = logs_KM - self._centre_K[:, None]
        self._of = np.array(form.term_of_axis)
        self._members_TK = (np.arange(len(form.terms))[:, None] == self._of[None]).astype(np.float64)
        self._axes_of_term = [np.flatnonzero(self._of == term) for term in range(len(form.terms))]
        self._first = first  # index of the first exponent
        if form.tied:
            self.free_P[first + 1 :] = False  # they follow the first
        known = dict(form.fixed)
        self.free_P[first:] &= [axis not in known for axis in form.axes]

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
        if self._form.tied:
            return np.repeat(np.array(_GRID)[:, None], len(self._of), axis=1)
        known = dict(self._form.fixed)
        return np.array(list(product(*((known[axis],) if axis in known else _GRID for axis in self._form.axes))))

    def project(self, exponents_SK: Floats, targets_SM: Floats) -> Floats:
        """Starts [S, P]: E and coefficients ≥ 0 with the least relative squares at the given exponents."""
        root_M = np.sqrt(self._mean_weights_M)
        features_SFM = self._features(exponents_SK) * (root_M / targets_SM)[:, None]
        gram_SFF = features_SFM @ np.swapaxes(features_SFM, 1, 2)
        moment_SF = features_SFM @ root_M
        linear_SF, _ = _non_negative(gram_SFF, moment_SF)
        return np.concatenate([linear_SF, exponents_SK], axis=1)

    def best_on_grid(self, targets_RM: Floats) -> Floats:
        """The start [R, P] of each of R tables: the point on the grid of exponents with the least squares."""
        weight_M = np.sqrt(self._mean_weights_M) / targets_RM.mean(axis=0)
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
        features_SFM[:, 0] = self._form.irreducible
        for term, axes in enumerate(self._axes_of_term):
            features_SFM[:, 1 + term] = np.exp(-exponents_SK[:, axes] @ self._logs_KM[axes])
        return features_SFM

    def best_starts(self, starts_SP: Floats, targets_SM: Floats, keep: int) -> Floats:
        """Take a few Newton steps from all starts and return the ``keep`` points with the lowest objective."""
        moved_SP, objectives_S = self._newton(
            starts_SP, targets_SM, max(16 * self._objective.delta, EASY_DELTA), most=8
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
        predicted_M = self._predict(values_P[None], self._state(values_P[None]))[0]
        residuals_M = self._objective.residuals(predicted_M, target_M)
        rng = np.random.default_rng(0)  # for the search only; the result hardly depends on it
        spread_SM = np.sqrt((residuals_M**2).mean()) * rng.standard_normal((count, len(target_M)))
        tables_SM = target_M * np.exp(spread_SM) if self._objective.logarithmic else target_M + spread_SM
        delta = max(16 * self._objective.delta, EASY_DELTA)
        moved_SP, _ = self._newton(np.repeat(values_P[None], count, 0), tables_SM, delta, most=15)
        return moved_SP

    def _state(self, values_RP: Floats) -> Floats:
        return self._features(values_RP[:, self._first :])

    def _predict(self, values_RP: Floats, features_RFM: Floats) -> Floats:
        return np.asarray((values_RP[:, None, : self._first] @ features_RFM)[:, 0])

    def _derivatives(
        self, values_RP: Floats, features_RFM: Floats, targets_RM: Floats, weights_RM: Floats, delta: float
    ) -> tuple[Floats, Floats, Floats]:
        """Gradient [R, P] and Hessian [R, P, P] of the objective, and the scale [R, P] of each parameter."""
        predicted_RM = self._predict(values_RP, features_RFM)
        residuals_RM = self._objective.residuals(predicted_RM, targets_RM)
        weights_RM = self._objective.weighted(weights_RM, residuals_RM)
        slope_RM = np.clip(residuals_RM, -delta, delta) * weights_RM
        outer_RM = (np.abs(residuals_RM) <= delta) * weights_RM
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
        if self._form.tied:
            _fold(gradient_RP[:, None], self._first)
            _fold(hessian_RPP, self._first)
            _fold(np.swapaxes(hessian_RPP, 1, 2), self._first)
            _fold(jacobian_RPM.swapaxes(1, 2), self._first)
        scale_RP = np.sqrt((jacobian_RPM**2).sum(axis=2))
        return gradient_RP, hessian_RPP, scale_RP

    def _constrained(self, values_RP: Floats) -> Floats:
        if self._form.tied:
            values_RP[:, self._first :] = values_RP[:, self._first, None]
        return values_RP


def _fold(array: Floats, first: int) -> None:
    """Add the derivatives of all exponents, along the last axis, to those of the first: they move together."""
    array[..., first] = array[..., first:].sum(axis=-1)


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
