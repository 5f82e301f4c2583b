"""Fit one given form to runs: minimize Σ_i w_i ρ(g(L(x_i)) - g(y_i)), with g the logarithm or the identity.

``newton`` and ``bent`` hold the optimizers, ``laws`` chooses between forms. Minimizing Σ (log(y - E) - log f)² instead
collapses to E = 0 and is not offered.
"""

from __future__ import annotations

import numpy as np

from isoflop.scaling.fitting.bent import bent
from isoflop.scaling.fitting.newton import Problem
from isoflop.scaling.fitting.objectives import OBJECTIVES, Objective
from isoflop.scaling.forms import M4, AnyForm, Broken, Floats, Form, additive

# Starts of the grid that are optimized to convergence: fewer runs give more local minima, so more starts.
_MIN_STARTS, _MAX_STARTS = 8, 48
_QUICK_RUNS = 1000  # from which a table near the fit needs few steps
_MANY_RUNS = 100  # from which the tables of a bootstrap have one minimum near that of all runs


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
        ValueError: exponents were given for M4 or the broken power law.
    """
    if not isinstance(form, Form):
        if exponents is not None:
            raise ValueError("M4 and the broken power law do not support fixed exponents")
        return _fit_bent(form, levels, losses, objective, weights)
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


def refit(
    form: AnyForm,
    levels: Floats,
    losses_RM: Floats,
    objective: Objective,
    start: Floats,
    weights_RM: Floats | None = None,
) -> Floats:
    """Fit R tables of losses at the same levels and return the parameters [R, P].

    Args:
        start: [P] parameters near all of them, such as the fit to the original runs. For a ``Form`` and fewer than
            100 runs, each table also starts from its own best point on the grid of exponents and keeps the better.
        weights_RM: positive weights of the runs in each table.
    """
    if not isinstance(form, Form):
        problem = bent(form, levels, losses_RM, objective, weights_RM)
        return problem.values(problem.refits(problem.coordinates(start[None])[0], losses_RM))
    powers = Problem(form, levels, objective, weights_RM)
    unit = powers.unit(losses_RM)
    targets_RM = losses_RM / unit
    near_RP = np.repeat(powers.scaled(start[None], unit), len(targets_RM), axis=0)
    if len(targets_RM) > 1 and targets_RM.shape[1] >= _MANY_RUNS:
        return powers.unscaled(powers.solve(near_RP, targets_RM, *_effort(targets_RM, 2))[0], unit)
    own_RP = powers.best_on_grid(targets_RM)
    solved = [powers.solve(near_RP, targets_RM), powers.solve(own_RP, targets_RM, rounds=5)]
    better_R = solved[1][1] < solved[0][1]
    return powers.unscaled(np.where(better_R[:, None], solved[1][0], solved[0][0]), unit)


def _effort(targets_RM: Floats, rounds: int) -> tuple[int, int]:
    """Rounds, and steps in the last one, of a fit that starts near its minimum: few if the runs are thousands."""
    return (0, 8) if targets_RM.shape[1] >= _QUICK_RUNS else (rounds, 100)


def objective_values(
    form: AnyForm,
    values_RP: Floats,
    levels: Floats,
    losses_RM: Floats,
    objective: Objective,
    weights: Floats | None = None,
) -> Floats:
    """The objective Σ w ρ [R] of each of R sets of parameters, with weights [M] or [R, M]."""
    costs_RM = objective.rho(objective.residuals(form.predict(values_RP, levels), losses_RM))
    return np.asarray(costs_RM.sum(axis=1) if weights is None else (costs_RM * weights).sum(axis=1))


def least_at(
    form: AnyForm,
    levels: Floats,
    losses_RM: Floats,
    objective: Objective,
    start: Floats,
    fixed_R: Floats,
    weights_RM: Floats | None = None,
) -> Floats:
    """The least objective Σ w ρ [R] of R tables with E fixed at each of ``fixed_R``, values below the largest loss.

    Args:
        start: [P] parameters near all of them.
    """
    if not isinstance(form, Form):
        problem = bent(form, levels, losses_RM, objective, weights_RM)
        values_RP = problem.values(problem.refits(problem.coordinates(start[None])[0], losses_RM, fixed_R))
        return objective_values(form, values_RP, levels, losses_RM, objective, weights_RM)
    powers = Problem(form, levels, objective, weights_RM)
    unit = powers.unit(losses_RM)
    targets_RM = losses_RM / unit
    near_RP = np.repeat(powers.scaled(start[None], unit), len(fixed_R), axis=0)
    starts = [near_RP]
    if targets_RM.shape[1] < _MANY_RUNS:
        starts.append(powers.best_on_grid(targets_RM))
    for starts_RP in starts:
        starts_RP[:, 0] = fixed_R / unit
    powers.free_P[0] = False
    solved = [powers.solve(starts_RP, targets_RM, *_effort(targets_RM, 4))[0] for starts_RP in starts]
    reached = [
        objective_values(form, powers.unscaled(found, unit), levels, losses_RM, objective, weights_RM)
        for found in solved
    ]
    return np.asarray(np.min(reached, axis=0))


def _fit_bent(
    form: M4 | Broken, levels: Floats, losses: Floats, objective: Objective, weights: Floats | None
) -> tuple[Floats, float]:
    """Fit a bent curve from starts around the power law, and for a robust objective from its least-squares fit too."""
    power, _ = fit(additive(form.axis), levels, losses, OBJECTIVES["mse"], weights)
    problem = bent(form, levels, losses, objective, weights)
    starts_SQ = problem.starts(power)
    if np.isfinite(objective.delta):
        squares = bent(form, levels, losses, OBJECTIVES["mse"], weights).best_of(starts_SQ, losses)[0]
        starts_SQ = np.concatenate([problem.around(squares, losses), starts_SQ])
    best_Q, least = problem.best_of(starts_SQ, losses)
    if np.isfinite(objective.delta):
        again_Q, reached = problem.best_of(problem.around(best_Q, losses), losses)
        best_Q = again_Q if reached < least else best_Q
    values_P = problem.values(best_Q[None])[0]
    return values_P, float(objective_values(form, values_P[None], levels, losses[None], objective, weights)[0])
