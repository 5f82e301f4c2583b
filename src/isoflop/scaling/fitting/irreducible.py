"""The interval of the irreducible loss E: all values that the runs do not reject, by the objective that was fitted."""

from __future__ import annotations

import numpy as np

from isoflop.scaling.fitting.objectives import Objective
from isoflop.scaling.fitting.one_form import least_at, objective_values
from isoflop.scaling.fitting.resampling import Replicates
from isoflop.scaling.forms import AnyForm, Floats, Form

_STEPS = 18  # halvings of the distance from the best E: from the whole range to less than any noise resolves
_FINER = 6  # values between the last one allowed and the first one that is not
_RESAMPLED, _MOST_RESIDUALS = 200, 200_000  # replicates at most that the limit is taken from; runs over all


def irreducible_interval(
    form: AnyForm,
    levels: Floats,
    losses: Floats,
    objective: Objective,
    values: Floats,
    replicates: Replicates,
    observed: Floats | None = None,
) -> tuple[float, float]:
    """The 95 % profile interval of E. It contains the best E, and its lower end is 0 if E = 0 is not rejected.

    The profile is the least objective at each fixed E. It is allowed to exceed the minimum by what the same excess
    reaches in 95 % of the bootstrap replicates, where the true E is known: that of the fit. So the limit follows from
    the objective and the noise of the runs, and a bound at 0 needs no special case.

    Args:
        observed: weights [M] of the runs.
    """
    count = max(40, min(_RESAMPLED, _MOST_RESIDUALS // len(losses)))
    tables = replicates.losses[:count]
    weights = None if replicates.weights is None else replicates.weights[:count]
    reached_R = objective_values(form, replicates.values[: len(tables)], levels, tables, objective, weights)
    at_best_R = least_at(form, levels, tables, objective, values, np.full(len(tables), values[0]), weights)
    total = len(losses) if observed is None else observed.sum()
    scale_R = 1.0 if weights is None else total / weights.sum(axis=1)
    allowed = float(np.quantile(np.maximum(at_best_R - reached_R, 0) * scale_R, 0.95, method="higher"))
    least = float(objective_values(form, values[None], levels, losses[None], objective, observed)[0])
    highest = 0.999 * float(losses.max() if isinstance(form, Form) else losses.min())
    centre = min(float(values[0]), highest)

    def within(fixed_F: Floats) -> Floats:
        tables_FM = np.repeat(losses[None], len(fixed_F), axis=0)
        weights_FM = None if observed is None else np.repeat(observed[None], len(fixed_F), axis=0)
        reached_F = least_at(form, levels, tables_FM, objective, values, fixed_F, weights_FM)
        return fixed_F[reached_F <= least + allowed * (1 + 1e-9)]

    steps = highest * 2.0 ** -np.arange(_STEPS)
    fixed_F = np.unique(np.clip(np.concatenate([centre - steps, [centre], centre + steps]), 0, highest))
    kept_F = np.append(within(fixed_F), centre)
    first, last = (int(np.searchsorted(fixed_F, end)) for end in (kept_F.min(), kept_F.max()))
    below_F = np.linspace(fixed_F[max(first - 1, 0)], fixed_F[first], _FINER)
    above_F = np.linspace(fixed_F[last], fixed_F[min(last + 1, len(fixed_F) - 1)], _FINER)
    kept_F = np.concatenate([kept_F, within(np.concatenate([below_F, above_F]))])
    return float(kept_F.min()), float(kept_F.max())
