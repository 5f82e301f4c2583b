"""Fit one given form to runs: minimize Σ_i w_i ρ(g(L(x_i)) - g(y_i)), with g the logarithm or the identity.

``newton`` holds the optimizer, ``laws`` chooses between forms. Minimizing Σ (log(y - E) - log f)² instead collapses to
E = 0 and is not offered.
"""

from __future__ import annotations

import numpy as np

from isoflop.scaling.forms import M4, AnyForm, Floats, Form
from isoflop.scaling.newton import Problem
from isoflop.scaling.objectives import OBJECTIVES, Objective

# Starts of the grid that are optimized to convergence: fewer runs give more local minima, so more starts.
_MIN_STARTS, _MAX_STARTS = 8, 48
_M4_REPLICATES = 100  # bootstrap replicates of M4 at most: each is a separate fit


def fit(
    form: AnyForm,
    levels: Floats,
    losses: Floats,
    objective: Objective,
    weights: Floats | None = None,
    exponents: Floats | None = None,
) -> tuple[Floats, float]:
    """Fit the parameters [P] of ``form``, all ≥ 0, and return them with the objective's value.

    Args:
        levels: [K, M] positive levels of the form's axes for M runs.
        losses: [M] positive, finite losses of the runs.
        weights: [M] positive weights of the runs; the fit depends only on their ratios.
        exponents: [S, K] sets of exponents to choose from. By default the exponents are free.

    Raises:
        ValueError: weights or exponents were given for M4, which supports neither.
    """
    if isinstance(form, M4):
        if weights is not None or exponents is not None:
            raise ValueError("M4 supports neither weights nor fixed exponents")
        return _fit_m4(form, levels, losses, objective)
    problem = Problem(form, levels, objective, weights)
    count = int(np.clip(24 * (100 / len(losses)) ** 2, _MIN_STARTS, _MAX_STARTS))
    starts_SK = problem.grid() if exponents is None else exponents
    targets_SM = np.repeat(losses[None] / problem.unit(losses), len(starts_SK), axis=0)
    starts_SP = problem.project(starts_SK, targets_SM)
    if exponents is None:
        starts_SP = problem.best_starts(starts_SP, targets_SM, keep=count)
    else:
        problem.free_P[1 + len(form.terms) :] = False
    best_P, least = problem.lowest(starts_SP, targets_SM[0])
    if np.isfinite(objective.delta) and exponents is None:
        perturbed_P, reached = problem.lowest(problem.perturbed(best_P, targets_SM[0], count), targets_SM[0])
        best_P = perturbed_P if reached < least else best_P
    values_P = problem.unscaled(best_P[None], problem.unit(losses))[0]
    return values_P, float(objective_values(form, values_P[None], levels, losses[None], objective, weights)[0])


def refit(form: AnyForm, levels: Floats, losses_RM: Floats, objective: Objective, start: Floats) -> Floats:
    """Fit R tables of losses at the same levels and return the parameters [R, P]; for M4, of the first 100 tables.

    Args:
        start: [P] parameters near all of them, such as the fit to the original runs. Each table also starts from its
            own best point on the grid of exponents and keeps the better of the two fits.
    """
    if isinstance(form, M4):
        tables_RM = losses_RM[:_M4_REPLICATES]
        return np.stack([_minimize_m4(form, levels, table_M, objective, start)[0] for table_M in tables_RM])
    problem = Problem(form, levels, objective)
    unit = problem.unit(losses_RM)
    targets_RM = losses_RM / unit
    near_RP = np.repeat(problem.scaled(start[None], unit), len(targets_RM), axis=0)
    own_RP = problem.best_on_grid(targets_RM)
    solved = [problem.solve(near_RP, targets_RM), problem.solve(own_RP, targets_RM, rounds=5)]
    better_R = solved[1][1] < solved[0][1]
    return problem.unscaled(np.where(better_R[:, None], solved[1][0], solved[0][0]), unit)


def objective_values(
    form: AnyForm,
    values_RP: Floats,
    levels: Floats,
    losses_RM: Floats,
    objective: Objective,
    weights: Floats | None = None,
) -> Floats:
    """The objective Σ w ρ [R] of each of R sets of parameters."""
    costs_RM = objective.rho(objective.residuals(form.predict(values_RP, levels), losses_RM))
    return np.asarray(costs_RM.sum(axis=1) if weights is None else costs_RM @ weights)


def profile_objective(form: Form, levels: Floats, losses: Floats, values: Floats, fixed_F: Floats) -> Floats:
    """The least ½ Σ r² of log L [F] with E fixed at each of ``fixed_F``, values below the largest loss.

    The profile likelihood of E gives a valid interval even where E is at its bound of 0 and a bootstrap has no lower
    side.
    """
    problem = Problem(form, levels, OBJECTIVES["mse"])
    unit = problem.unit(losses)
    targets_FM = np.repeat(losses[None] / unit, len(fixed_F), axis=0)
    near_FP = np.repeat(problem.scaled(values[None], unit), len(fixed_F), axis=0)
    near_FP[:, 0] = fixed_F / unit
    own_FP = np.repeat(problem.best_on_grid(targets_FM[:1]), len(fixed_F), axis=0)
    own_FP[:, 0] = fixed_F / unit
    problem.free_P[0] = False
    return np.asarray(np.minimum(*(problem.solve(starts_FP, targets_FM)[1] for starts_FP in (near_FP, own_FP))))


def _fit_m4(form: M4, levels: Floats, losses: Floats, objective: Objective) -> tuple[Floats, float]:
    """Fit M4 from starts around the power law: several values of L0 above the largest loss and of the exponent a."""
    irreducible, coefficient, exponent = fit(Form((form.axes,)), levels, losses, objective)[0]
    best_P, least = np.zeros(form.size), np.inf
    for factor in (1.02, 1.3, 3.0):
        for bend in (0.0, 0.5, 1.5):
            chance = factor * float(losses.max())
            scale = (chance - np.exp(np.log(losses).mean())) ** bend
            start = np.array([irreducible, chance, max(coefficient, 1e-12) / scale, bend, max(exponent, 0.05)])
            found_P, reached = _minimize_m4(form, levels, losses, objective, start)
            best_P, least = (found_P, reached) if reached < least else (best_P, least)
    return best_P, least


def _minimize_m4(form: M4, levels: Floats, losses: Floats, objective: Objective, start: Floats) -> tuple[Floats, float]:
    """Run scipy's bounded least squares from ``start``, over E, log(L0 - largest loss), log A, a and α."""
    from scipy.optimize import least_squares

    worst = float(losses.max())

    def values(free: Floats) -> Floats:
        return np.array([free[0], worst + np.exp(free[1]), np.exp(free[2]), free[3], free[4]])

    def residuals(free: Floats) -> Floats:
        return objective.residuals(form.predict(values(free)[None], levels)[0], losses)

    lower = np.array([0, np.log(1e-4 * worst), -700, 0, 0])
    upper = np.array([losses.min(), np.log(100 * worst), 700, 10, 10])
    begin = np.array([start[0], np.log(max(start[1] - worst, 1e-300)), np.log(max(start[2], 1e-300)), *start[3:]])
    options = {} if np.isinf(objective.delta) else {"loss": "huber", "f_scale": objective.delta}
    margin = 1e-9 * np.maximum(1, np.abs(upper - lower))
    found = least_squares(
        residuals, np.clip(begin, lower + margin, upper - margin), bounds=(lower, upper), x_scale="jac", **options
    )
    values_P = values(found.x)
    return values_P, float(objective_values(form, values_P[None], levels, losses[None], objective)[0])
