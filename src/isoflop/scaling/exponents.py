"""The exponents of compute-optimal training, N* ∝ C^a and S* ∝ C^b, by the law and by the IsoFLOP profiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from isoflop.scaling.fitting.uncertainty import interval
from isoflop.scaling.forms import Floats, Form
from isoflop.scaling.planning import Planner
from isoflop.scaling.profiles import Profile

_NORMAL = 1.96  # half of a 95 % interval in standard deviations


def exponents(planner: Planner, profiles: Sequence[Profile]) -> dict[str, Any]:
    """``law`` and ``profiles``: a and b with ``value``, ``low`` and ``high`` (95 %); None if they do not exist.

    For an additive law and C = c N^g S, a = β / (α + g β) and b = α / (α + g β); g = 1 for C = 6 N S (Hoffmann et al.
    2022, eq. 4).
    """
    return {"law": _by_law(planner), "profiles": _by_profiles(profiles)}


def _by_law(planner: Planner) -> dict[str, Any] | None:
    law, form = planner.law, planner.law.form
    pair = ("parameters", planner.data_axis)
    if not isinstance(form, Form) or not set(pair) <= set(form.axes):
        return None
    terms = [form.term_of_axis[form.axes.index(axis)] for axis in pair]
    if terms[0] == terms[1]:
        return None  # the product has no optimum along a budget
    alpha, beta = (1 + len(form.terms) + form.axes.index(axis) for axis in pair)
    growth = planner.sizes.growth

    def shares(values_RP: Floats) -> tuple[Floats, Floats]:
        total_R = np.maximum(values_RP[:, alpha] + growth * values_RP[:, beta], 1e-300)
        return values_RP[:, beta] / total_R, values_RP[:, alpha] / total_R

    best, replicates = shares(law.values[None]), shares(law.replicates)
    known = law.noise.degrees_of_freedom > 0
    return {
        name: _estimate(float(value[0]), interval(samples) if known else None)
        for name, value, samples in zip("ab", best, replicates, strict=True)
    }


def _by_profiles(profiles: Sequence[Profile]) -> dict[str, Any] | None:
    """Slopes of log N* and log S* on log C, with the error of the optima or of the line, whichever is larger."""
    found = [profile for profile in profiles if profile.parameters is not None]
    if len(found) < 2:
        return None
    logs = np.log([profile.flops for profile in found])
    centred = (logs - logs.mean()) / ((logs - logs.mean()) ** 2).sum()
    content = {}
    for name, field in (("a", "parameters"), ("b", "samples")):
        optima = np.log([getattr(profile, field) for profile in found])
        bounds = [getattr(profile, f"{field}_interval") for profile in found]
        slope = float(centred @ optima)
        if any(bound is None for bound in bounds):
            content[name] = _estimate(slope, None)
            continue
        errors = np.array([np.log(high / low) / (2 * _NORMAL) for low, high in bounds])
        residuals = optima - optima.mean() - slope * (logs - logs.mean())
        scatter = float((residuals**2).sum() / max(len(found) - 2, 1)) * float((centred**2).sum())
        half = _NORMAL * float(np.sqrt(max(float(centred**2 @ errors**2), scatter)))
        content[name] = _estimate(slope, (slope - half, slope + half))
    return content


def _estimate(value: float, bounds: tuple[float, float] | None) -> dict[str, float | None]:
    low, high = bounds or (None, None)
    return {"value": value, "low": low, "high": high}
