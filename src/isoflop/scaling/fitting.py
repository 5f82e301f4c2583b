"""Fits a law to runs: the objective is Σ_i w_i ρ(g(L(x_i)) - g(y_i)), g the logarithm or the identity, ρ Huber's loss.

Minimising Σ (log(y - E) - log f)² in its place collapses to E = 0, so it is not on offer.
"""

from __future__ import annotations

import numpy as np

from isoflop.scaling.forms import M4, AnyForm, Floats, Form
from isoflop.scaling.newton import Loss, Problem

_FEWEST, _MOST = 8, 48  # of the grid's starts that are followed to the end: the fewer runs, the more minima there are
_M4_REPLICATES = 100  # of a bootstrap, at most: each is a fit of its own

LOSSES = {
    "huber": Loss(1e-3, logarithmic=True),  # Hoffmann et al. 2022, Approach 3
    "l1": Loss(1e-7, logarithmic=True),  # δ so small that it is nothing beside any run's noise; 1e7 ρ is the sum of |r|
    "mse": Loss(np.inf, logarithmic=True),
    "least_squares": Loss(np.inf, logarithmic=False),
}


def fit(
    form: AnyForm,
    levels: Floats,
    losses: Floats,
    loss: Loss,
    weights: Floats | None = None,
    exponents: Floats | None = None,
) -> tuple[Floats, float]:
    """The law of ``form`` nearest to the runs: its parameters [P], all ≥ 0, and the objective reached.

    Args:
        levels: [K, M] positive levels of the axes of M runs.
        losses: [M] positive, finite losses of the runs.
        weights: [M] positive, how much each run counts; only their ratios matter to the law.
        exponents: [S, K], the only ones to choose from, where they are not to be searched freely.

    Raises:
        ValueError: weights or exponents for M4, which takes neither.
    """
    if isinstance(form, M4):
        if weights is not None or exponents is not None:
            raise ValueError("M4 takes neither weights nor given exponents")
        return _fit_m4(form, levels, losses, loss)
    problem = Problem(form, levels, loss, weights)
    count = int(np.clip(24 * (100 / len(losses)) ** 2, _FEWEST, _MOST))
    starts_SK = problem.grid() if exponents is None else exponents
    targets_SM = np.repeat(losses[None] / problem.unit(losses), len(starts_SK), axis=0)
    starts_SP = problem.project(starts_SK, targets_SM)
    if exponents is None:
        starts_SP = problem.best_starts(starts_SP, targets_SM, keep=count)
    else:
        problem.free_P[1 + len(form.terms) :] = False
    best_P, reached = problem.lowest(starts_SP, targets_SM[0])
    if np.isfinite(loss.delta) and exponents is None:
        shaken_P, shaken = problem.lowest(problem.shaken(best_P, targets_SM[0], count), targets_SM[0])
        best_P = shaken_P if shaken < reached else best_P
    values_P = problem.unscaled(best_P[None], problem.unit(losses))[0]
    return values_P, float(objective(form, values_P[None], levels, losses[None], loss, weights)[0])


def refit(form: AnyForm, levels: Floats, losses_RM: Floats, loss: Loss, start: Floats) -> Floats:
    """The laws [R, P] of R tables of losses at the same levels, as a bootstrap needs them; of M4 at most 100.

    Args:
        start: [P], a law near them all, such as the fit of the runs as they were. Each table also starts from its
            own best point on the grid of exponents, and keeps the better of the two.
    """
    if isinstance(form, M4):
        tables_RM = losses_RM[:_M4_REPLICATES]
        return np.stack([_descended(form, levels, table_M, loss, start)[0] for table_M in tables_RM])
    problem = Problem(form, levels, loss)
    unit = problem.unit(losses_RM)
    targets_RM = losses_RM / unit
    near_RP = np.repeat(problem.scaled(start[None], unit), len(targets_RM), axis=0)
    own_RP = problem.best_on_grid(targets_RM)
    solved = [problem.solve(near_RP, targets_RM), problem.solve(own_RP, targets_RM, rounds=5)]
    better_R = solved[1][1] < solved[0][1]
    return problem.unscaled(np.where(better_R[:, None], solved[1][0], solved[0][0]), unit)


def objective(
    form: AnyForm, values_RP: Floats, levels: Floats, losses_RM: Floats, loss: Loss, weights: Floats | None = None
) -> Floats:
    """Σ w ρ over the runs for each of R laws [R]."""
    costs_RM = loss.rho(loss.residuals(form.predict(values_RP, levels), losses_RM))
    return np.asarray(costs_RM.sum(axis=1) if weights is None else costs_RM @ weights)


def floor_profile(form: Form, levels: Floats, losses: Floats, values: Floats, floors_F: Floats) -> Floats:
    """The least ½ Σ r² of log L [F] with E held at each of the floors [F] that are below the largest loss.

    What an interval for E is read from (profile likelihood) that also holds where E is at its bound of 0, where a
    bootstrap has no left side.
    """
    problem = Problem(form, levels, LOSSES["mse"])
    unit = problem.unit(losses)
    targets_FM = np.repeat(losses[None] / unit, len(floors_F), axis=0)
    near_FP = np.repeat(problem.scaled(values[None], unit), len(floors_F), axis=0)
    near_FP[:, 0] = floors_F / unit
    own_FP = np.repeat(problem.best_on_grid(targets_FM[:1]), len(floors_F), axis=0)
    own_FP[:, 0] = floors_F / unit
    problem.free_P[0] = False
    return np.asarray(np.minimum(*(problem.solve(starts_FP, targets_FM)[1] for starts_FP in (near_FP, own_FP))))


def _fit_m4(form: M4, levels: Floats, losses: Floats, loss: Loss) -> tuple[Floats, float]:
    """From the power law, bent little or much towards tops near the worst loss and far from it."""
    floor, coefficient, exponent = fit(Form((form.axes,)), levels, losses, loss)[0]
    best_P, least = np.zeros(form.size), np.inf
    for top in (1.02, 1.3, 3.0):
        for bend in (0.0, 0.5, 1.5):
            top_loss = top * float(losses.max())
            scale = (top_loss - np.exp(np.log(losses).mean())) ** bend
            start = np.array([floor, top_loss, max(coefficient, 1e-12) / scale, bend, max(exponent, 0.05)])
            found_P, reached = _descended(form, levels, losses, loss, start)
            best_P, least = (found_P, reached) if reached < least else (best_P, least)
    return best_P, least


def _descended(form: M4, levels: Floats, losses: Floats, loss: Loss, start: Floats) -> tuple[Floats, float]:
    """Where scipy's bounded least squares get to from ``start``, in E, log(L0 - worst loss), log A, a and α."""
    from scipy.optimize import least_squares

    worst = float(losses.max())

    def values(free: Floats) -> Floats:
        return np.array([free[0], worst + np.exp(free[1]), np.exp(free[2]), free[3], free[4]])

    def residuals(free: Floats) -> Floats:
        return loss.residuals(form.predict(values(free)[None], levels)[0], losses)

    lower = np.array([0, np.log(1e-4 * worst), -700, 0, 0])
    upper = np.array([losses.min(), np.log(100 * worst), 700, 10, 10])
    begin = np.array([start[0], np.log(max(start[1] - worst, 1e-300)), np.log(max(start[2], 1e-300)), *start[3:]])
    options = {} if np.isinf(loss.delta) else {"loss": "huber", "f_scale": loss.delta}
    margin = 1e-9 * np.maximum(1, np.abs(upper - lower))
    found = least_squares(
        residuals, np.clip(begin, lower + margin, upper - margin), bounds=(lower, upper), x_scale="jac", **options
    )
    values_P = values(found.x)
    return values_P, float(objective(form, values_P[None], levels, losses[None], loss)[0])
