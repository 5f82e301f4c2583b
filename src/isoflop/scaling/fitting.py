"""Fits a law to runs: variable projection over a grid of exponents for the starts, then damped Newton on all at once.

The objective is Σ_i ρ(g(L(x_i)) - g(y_i)) with g the logarithm (or the identity) and ρ Huber's loss. At fixed
exponents a law is linear, so its floor and coefficients have a closed form for squares: that gives a start a pair
of exponents, and from there the exact Hessian converges in a few steps. Huber's loss with the usual δ of 1e-3 has
hardly any curvature at residuals of a few per cent, so δ comes down to it in steps. Problems are solved side by side
in one batch, which makes hundreds of bootstrap replicates cost what one fit in scipy costs.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
import numpy.typing as npt

from isoflop.scaling.laws import Floats, Form

Bools = npt.NDArray[np.bool_]

_MAX_EXPONENT = 10.0  # beyond, a term is a step at the smallest level and no power law
_GRID = (0.05, 0.15, 0.3, 0.5, 0.8, 1.3, 2.2)
_STARTS = 24  # of the grid's, how many are followed to the end
_TINY = 1e-300


@dataclass(frozen=True)
class Loss:
    """Huber's loss of residuals: r²/2 up to ``delta``, linear beyond; an infinite delta gives squares."""

    delta: float
    logarithmic: bool  # residuals of log L (relative), else of L itself


LOSSES = {
    "huber": Loss(1e-3, logarithmic=True),  # Hoffmann et al. 2022, Approach 3
    "mse": Loss(np.inf, logarithmic=True),
    "least_squares": Loss(np.inf, logarithmic=False),
}


def fit(form: Form, levels: Floats, losses: Floats, loss: Loss) -> tuple[Floats, float]:
    """The law of ``form`` nearest to the runs: its parameters [P], all ≥ 0, and the objective reached.

    Args:
        levels: [K, M] positive levels of the axes of M runs.
        losses: [M] positive, finite losses of the runs.
    """
    problem = _Problem(form, levels, loss)
    exponents_SK = np.array(list(product(_GRID, repeat=len(form.axes))))
    targets_SM = np.repeat(losses[None] / problem.unit(losses), len(exponents_SK), axis=0)
    starts_SP = problem.best_starts(problem.project(exponents_SK, targets_SM), targets_SM, keep=_STARTS)
    best_P, reached = problem.lowest(starts_SP, targets_SM[0])
    if np.isfinite(loss.delta):
        shaken_P, shaken = problem.lowest(problem.shaken(best_P, targets_SM[0]), targets_SM[0])
        best_P = shaken_P if shaken < reached else best_P
    values_P = problem.unscaled(best_P[None], problem.unit(losses))[0]
    return values_P, float(objective(form, values_P[None], levels, losses[None], loss)[0])


def refit(form: Form, levels: Floats, losses_RM: Floats, loss: Loss, start: Floats) -> Floats:
    """The laws [R, P] of R tables of losses at the same levels, as a bootstrap needs them.

    Args:
        start: [P], a law near them all, such as the fit of the runs as they were. Each table also starts from its
            own best point on the grid of exponents, and keeps the better of the two.
    """
    problem = _Problem(form, levels, loss)
    unit = problem.unit(losses_RM)
    targets_RM = losses_RM / unit
    near_RP = np.repeat(problem.scaled(start[None], unit), len(targets_RM), axis=0)
    own_RP = problem.best_on_grid(targets_RM)
    solved = [problem.solve(near_RP, targets_RM), problem.solve(own_RP, targets_RM, rounds=5)]
    better_R = solved[1][1] < solved[0][1]
    return problem.unscaled(np.where(better_R[:, None], solved[1][0], solved[0][0]), unit)


def objective(form: Form, values_RP: Floats, levels: Floats, losses_RM: Floats, loss: Loss) -> Floats:
    """Σ ρ over the runs for each of R laws [R]."""
    return np.asarray(_rho(_residuals(form.predict(values_RP, levels), losses_RM, loss), loss.delta).sum(axis=1))


def _residuals(predicted: Floats, actual: Floats, loss: Loss) -> Floats:
    if loss.logarithmic:
        return np.asarray(np.log(np.maximum(predicted, _TINY)) - np.log(actual))
    return predicted - actual


def _rho(residuals: Floats, delta: float) -> Floats:
    size = np.abs(residuals)
    if np.isinf(delta):
        return np.asarray(0.5 * size**2)
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


class _Problem:
    """One design and one loss. Inside, logs of the levels are centred and losses are divided by a unit of theirs:
    parameters are then of order one, and the coefficient is that of the middle of the study, not of N = 1."""

    def __init__(self, form: Form, levels: Floats, loss: Loss) -> None:
        logs_KM = np.log(levels)
        self._form, self._loss = form, loss
        self._centre_K = logs_KM.mean(axis=1)
        self._logs_KM = logs_KM - self._centre_K[:, None]
        self._axes = len(form.axes)

    def unit(self, losses: Floats) -> float:
        """A typical loss; for squares of L itself it scales the objective too, and all alike."""
        return float(np.exp(np.log(losses).mean()))

    def scaled(self, values_RP: Floats, unit: float) -> Floats:
        shift_RK = np.exp(-values_RP[:, 1 + self._axes :] * self._centre_K) / unit
        return np.concatenate(
            [values_RP[:, :1] / unit, values_RP[:, 1 : 1 + self._axes] * shift_RK, values_RP[:, 1 + self._axes :]], 1
        )

    def unscaled(self, scaled_RP: Floats, unit: float) -> Floats:
        shift_RK = np.exp(scaled_RP[:, 1 + self._axes :] * self._centre_K) * unit
        return np.concatenate(
            [scaled_RP[:, :1] * unit, scaled_RP[:, 1 : 1 + self._axes] * shift_RK, scaled_RP[:, 1 + self._axes :]], 1
        )

    def project(self, exponents_SK: Floats, targets_SM: Floats) -> Floats:
        """Starts [S, P]: the floor and coefficients ≥ 0 that are best in relative squares at given exponents.

        With at most three of them, non-negative least squares is the best of all subsets' plain solutions that
        come out non-negative.
        """
        features_SMF = self._features(exponents_SK) / targets_SM[:, :, None]
        gram_SFF = np.swapaxes(features_SMF, 1, 2) @ features_SMF
        moment_SF = features_SMF.sum(axis=1)
        linear_SF, _ = _non_negative(gram_SFF, moment_SF)
        return np.concatenate([linear_SF, exponents_SK], axis=1)

    def best_on_grid(self, targets_RM: Floats) -> Floats:
        """For each of R tables the start [R, P] of the pair of exponents on the grid with the least squares."""
        weight_M = 1 / targets_RM.mean(axis=0)
        best_RP, least_R = np.zeros((len(targets_RM), self._form.size)), np.full(len(targets_RM), np.inf)
        for exponents in product(_GRID, repeat=self._axes):
            features_MF = self._features(np.array([exponents]))[0] * weight_M[:, None]
            moment_RF = (targets_RM * weight_M) @ features_MF
            gram_RFF = np.broadcast_to(features_MF.T @ features_MF, (len(targets_RM), *2 * [1 + self._axes]))
            linear_RF, gain_R = _non_negative(gram_RFF, moment_RF)
            better_R = -gain_R < least_R
            least_R = np.where(better_R, -gain_R, least_R)
            starts_RP = np.concatenate([linear_RF, np.tile(exponents, (len(targets_RM), 1))], axis=1)
            best_RP = np.where(better_R[:, None], starts_RP, best_RP)
        return best_RP

    def _features(self, exponents_SK: Floats) -> Floats:
        powers_SMK = np.exp(-exponents_SK[:, None, :] * self._logs_KM.T[None])
        return np.concatenate([np.ones((*powers_SMK.shape[:2], 1)), powers_SMK], axis=2)

    def best_starts(self, starts_SP: Floats, targets_SM: Floats, keep: int) -> Floats:
        """The ``keep`` starts that a few Newton steps brought lowest, from where they got."""
        moved_SP, objectives_S = self._newton(starts_SP, targets_SM, 16 * self._loss.delta, most=8)
        return moved_SP[np.argsort(objectives_S, kind="stable")[:keep]]

    def lowest(self, starts_SP: Floats, target_M: Floats) -> tuple[Floats, float]:
        """The best [P] of what the starts lead to for one table of losses [M], and its objective."""
        solved_SP, objectives_S = self.solve(starts_SP, np.repeat(target_M[None], len(starts_SP), axis=0))
        best = int(np.argmin(objectives_S))
        return solved_SP[best], float(objectives_S[best])

    def shaken(self, values_P: Floats, target_M: Floats) -> Floats:
        """More starts [S, P]: laws fitted to the runs with noise as large as their residuals put on them.

        A small δ gives a table of few runs many shallow minima. Those of tables like it lie near its better ones.
        """
        predicted_RM, _ = self._predict(values_P[None])
        residuals_M = _residuals(predicted_RM[0], target_M, self._loss)
        rng = np.random.default_rng(0)  # of the search alone; what it finds depends on it little
        spread_SM = np.sqrt((residuals_M**2).mean()) * rng.standard_normal((_STARTS, len(target_M)))
        tables_SM = target_M * np.exp(spread_SM) if self._loss.logarithmic else target_M + spread_SM
        moved_SP, _ = self._newton(np.repeat(values_P[None], _STARTS, 0), tables_SM, 16 * self._loss.delta, most=15)
        return moved_SP

    def solve(self, starts_RP: Floats, targets_RM: Floats, rounds: int = 2) -> tuple[Floats, Floats]:
        """Minimise from each start with its own targets: parameters [R, P] and objectives [R].

        Huber's δ comes down to the loss's own by a factor of four in each of ``rounds``. A few let many starts end
        in many minima; more, from near squares on, lead a single start to a good one.
        """
        values_RP = starts_RP
        for delta, iterations in self._schedule(rounds):
            values_RP, objectives_R = self._newton(values_RP, targets_RM, delta, iterations)
        return values_RP, objectives_R

    def _schedule(self, rounds: int) -> list[tuple[float, int]]:
        """Huber's δ a round, and the most Newton steps in it."""
        final = self._loss.delta
        larger = [(final * 4.0**number, 10) for number in range(rounds, 0, -1)] if np.isfinite(final) else []
        return [*larger, (final, 100)]

    def _newton(self, values_RP: Floats, targets_RM: Floats, delta: float, most: int) -> tuple[Floats, Floats]:
        """Damped Newton within the bounds; a row whose steps no longer gain anything leaves the batch."""
        values_RP = values_RP.copy()
        upper_P = np.array([np.inf] * (1 + self._axes) + [_MAX_EXPONENT] * self._axes)
        objectives_R = self._objective(values_RP, targets_RM, delta)
        damping_R = np.full(len(values_RP), 1e-3)
        active = np.arange(len(values_RP))
        idle_R = np.zeros(len(values_RP), np.int64)
        for _ in range(most):
            gradient_RP, hessian_RPP, scale_RP = self._derivatives(values_RP[active], targets_RM[active], delta)
            here_RP = values_RP[active]
            held_RP = ((here_RP <= 0) & (gradient_RP > 0)) | ((here_RP >= upper_P) & (gradient_RP < 0))
            steps_RP = _step(gradient_RP, hessian_RPP, scale_RP, held_RP, damping_R[active])
            tried_RP = np.clip(here_RP + steps_RP, 0, upper_P)
            reached_R = self._objective(tried_RP, targets_RM[active], delta)
            gain_R = objectives_R[active] - reached_R
            better_R = gain_R > 0
            rows = active[better_R]
            values_RP[rows], objectives_R[rows] = tried_RP[better_R], reached_R[better_R]
            damping_R[active] = np.where(better_R, damping_R[active] / 5, damping_R[active] * 4)
            slight_R = gain_R <= 1e-12 * objectives_R[active] + 1e-30
            idle_R[active] = np.where(slight_R & better_R, idle_R[active] + 1, np.where(better_R, 0, idle_R[active]))
            active = active[(idle_R[active] < 3) & (damping_R[active] < 1e8)]
            if not len(active):
                break
        return values_RP, objectives_R

    def _objective(self, values_RP: Floats, targets_RM: Floats, delta: float) -> Floats:
        predicted_RM, _ = self._predict(values_RP)
        return np.asarray(_rho(_residuals(predicted_RM, targets_RM, self._loss), delta).sum(axis=1))

    def _predict(self, values_RP: Floats) -> tuple[Floats, Floats]:
        features_RMF = self._features(values_RP[:, 1 + self._axes :])
        return np.einsum("rmf,rf->rm", features_RMF, values_RP[:, : 1 + self._axes]), features_RMF

    def _derivatives(self, values_RP: Floats, targets_RM: Floats, delta: float) -> tuple[Floats, Floats, Floats]:
        """Gradient [R, P] and Hessian [R, P, P] of the objective, and the scale [R, P] of each parameter."""
        axes, first = self._axes, 1 + self._axes
        predicted_RM, features_RMF = self._predict(values_RP)
        residuals_RM = _residuals(predicted_RM, targets_RM, self._loss)
        slope_RM = np.clip(residuals_RM, -delta, delta)
        curvature_RM = (np.abs(residuals_RM) <= delta).astype(np.float64)
        powers_RMK = features_RMF[:, :, 1:]
        bent_RMK = -self._logs_KM.T[None] * powers_RMK
        jacobian_RMP = np.concatenate([features_RMF, bent_RMK * values_RP[:, None, 1:first]], axis=2)
        outer_RM, second_RM = curvature_RM, slope_RM
        if self._loss.logarithmic:
            jacobian_RMP /= np.maximum(predicted_RM, _TINY)[:, :, None]
            outer_RM = curvature_RM - slope_RM
            second_RM = slope_RM / np.maximum(predicted_RM, _TINY)
        gradient_RP = np.einsum("rmp,rm->rp", jacobian_RMP, slope_RM)
        hessian_RPP = np.swapaxes(jacobian_RMP * outer_RM[:, :, None], 1, 2) @ jacobian_RMP
        mixed_RK = np.einsum("rmk,rm->rk", bent_RMK, second_RM)
        twice_RK = np.einsum("km,rmk,rm->rk", -self._logs_KM, bent_RMK, second_RM) * values_RP[:, 1:first]
        for axis in range(axes):
            coefficient, exponent = 1 + axis, first + axis
            hessian_RPP[:, coefficient, exponent] += mixed_RK[:, axis]
            hessian_RPP[:, exponent, coefficient] += mixed_RK[:, axis]
            hessian_RPP[:, exponent, exponent] += twice_RK[:, axis]
        scale_RP = np.sqrt(np.einsum("rmp,rmp->rp", jacobian_RMP, jacobian_RMP))
        return gradient_RP, hessian_RPP, scale_RP


def _step(gradient_RP: Floats, hessian_RPP: Floats, scale_RP: Floats, held_RP: Bools, damping_R: Floats) -> Floats:
    """Damped Newton steps [R, P] downhill: negative curvature counts by its size; held parameters stay."""
    scale_RP = np.maximum(scale_RP, 1e-9)
    free_RP = ~held_RP / scale_RP
    scaled_RPP = hessian_RPP * free_RP[:, :, None] * free_RP[:, None, :]
    curvatures_RP, axes_RPP = np.linalg.eigh(scaled_RPP)
    stiffness_RP = np.abs(curvatures_RP)
    floor_R = damping_R * np.maximum(stiffness_RP[:, -1], stiffness_RP[:, 0]) + 1e-14
    along_RP = np.einsum("rpq,rp->rq", axes_RPP, gradient_RP * free_RP)
    steps_RP = np.einsum("rpq,rq->rp", axes_RPP, along_RP / (stiffness_RP + floor_R[:, None]))
    return np.asarray(-steps_RP * free_RP)


def _non_negative(gram_RFF: Floats, moment_RF: Floats) -> tuple[Floats, Floats]:
    """min ½ xᵀGx - mᵀx over x ≥ 0 [R, F], by trying every subset of at most three features; and mᵀx [R]."""
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
