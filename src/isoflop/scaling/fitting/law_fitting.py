"""Fit the law of a study: choose between forms by BIC and backtests, bootstrap, and test how far it reaches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.runtime.progress import tracked
from isoflop.scaling.fitting.backtests import (
    Discrepancy,
    Trial,
    backtest_weight,
    discrepancy_scale,
    outcomes,
    ranges_of,
    splits,
    tested,
    trial,
)
from isoflop.scaling.fitting.laws import Fit, Law
from isoflop.scaling.fitting.objectives import OBJECTIVES, Objective, objective_of
from isoflop.scaling.fitting.one_form import fit
from isoflop.scaling.fitting.reach import Reach
from isoflop.scaling.fitting.resampling import Design, Replicates, Resampling, bootstrap, choose, varies
from isoflop.scaling.fitting.uncertainty import Noise, Residuals, noise, noise_trend
from isoflop.scaling.forms import AnyForm, Floats, Form, candidates
from isoflop.scaling.tables.runs import Study

_MIN_WEIGHT = 0.02  # forms with a lower weight are ruled out
_WIDEST = 0.5  # share of the range of losses seen that a useful interval may span
_LIKELY = 0.5  # weight of the form with E = 0 from which the runs do not determine E
_LEAST_E = 0.01  # share of the least predicted loss; a smaller E is not determined by the runs


def fit_law(
    study: Study,
    bootstraps: int,
    rng: np.random.Generator,
    objective: str = "huber",
    *,
    resampling: str = "auto",
    forms: Sequence[AnyForm] | None = None,
) -> Law:
    """Fit every form that the study's axes allow, weight each by BIC and backtests, and bootstrap those that remain.

    The form with the highest weight is the law; the others, such as that with E = 0, widen its intervals.
    BIC (Schwarz 1978; Raftery 1995) uses
    only the runs that are fitted, so it is multiplied by the weight of the form's backtests. The fit is to single runs,
    not to means over seeds: every run counts alike even if a configuration has lost a seed, and Huber's loss can limit
    the effect of a single outlier.

    Args:
        resampling: what the bootstrap resamples, one of ``resampling.RESAMPLINGS``, or ``auto``: chosen by the
            residuals of the best form.
        forms: the forms to choose from; by default all over the axes of the study.
    """
    count = int(study.configurations.max()) + 1
    usable = _usable(candidates(study.axes) if forms is None else forms, study, count)
    chosen_objective, weights_M = objective_of(objective), study.weights
    fitted = {form: fit(form, study.levels(form.axes), study.losses, chosen_objective, weights_M)[0] for form in usable}
    bic = dict(zip(usable, _bic_weights(usable, study, count), strict=True))
    likely = [form for form in usable if bic[form] >= _MIN_WEIGHT]
    trials = {form: _trials(form, fitted[form], study, objective) for form in likely}
    weights = _combined(bic, trials)
    kept = [form for form in likely if weights[form] >= _MIN_WEIGHT]
    kept.sort(key=lambda form: (_without_floor(form), -weights[form]))
    chosen = _resampling(kept[0], fitted[kept[0]], study, chosen_objective, resampling)
    sampled = {
        form: bootstrap(
            form, study.levels(form.axes), study.losses, Design.of(study), chosen_objective, fitted[form],
            bootstraps, rng, chosen, weights_M,
        )
        for form in tracked(kept, f"fitting and {bootstraps} bootstraps", "forms of the law")
    }  # fmt: skip
    total = sum(weights[form] for form in kept)
    fits = tuple(Fit(form, fitted[form], sampled[form].values, weights[form] / total) for form in kept)
    return _tested(fits, study, trials[kept[0]], chosen, sampled[kept[0]])


def _resampling(form: AnyForm, values: Floats, study: Study, objective: Objective, wanted: str) -> Resampling:
    """What the bootstrap resamples: as wanted, or by the residuals.

    Raises:
        UserError: simulated residuals were asked for with an asymmetric objective, which they would shift.
    """
    asymmetric = objective.quantile != 0.5
    if wanted != "auto":
        if asymmetric and wanted not in ("pairs", "cluster"):
            raise UserError(f"--bootstrap: got {wanted}, expected pairs or cluster for a quantile")
        return cast(Resampling, wanted)
    levels = study.levels(form.axes)
    fitted_M = form.predict(values[None], levels)[0]
    residuals = Residuals.of(np.log(study.losses / fitted_M), study.configurations)
    varied = varies(residuals.means[study.configurations], levels, fitted_M)
    found = choose(residuals, varied, Design.of(study), form.free)
    return "pairs" if asymmetric and found != "cluster" else found


def _tested(
    fits: tuple[Fit, ...], study: Study, trials: Sequence[Trial], chosen: Resampling, sampled: Replicates
) -> Law:
    """The law with what its backtests tell: the discrepancy, and the factor up to which each axis is trusted."""
    form, ranges = fits[0].form, ranges_of(study)
    fitted_M = form.predict(fits[0].values[None], study.levels(form.axes))[0]
    residuals = Residuals.of(np.log(study.losses / fitted_M), study.configurations)
    residual = float(np.sqrt(residuals.mean_variance(form.free)[0] or 0.0))
    discrepancy = Discrepancy(discrepancy_scale(trials), residual, ranges)
    backtests = outcomes(trials)
    law = Law(fits, _noise(study, form, fitted_M), discrepancy, Reach(ranges), chosen, backtests, sampled)
    reached = {axis: factor for axis, factor in tested(backtests).items() if _useful(law, axis, factor)}
    return replace(law, reach=Reach(ranges, {axis: reached.get(axis, 1.0) for axis in study.axes}))


def _noise(study: Study, form: AnyForm, fitted_M: Floats) -> Noise:
    """The noise of the runs, with its dependence on the levels if that is significant."""
    residuals = Residuals.of(np.log(study.losses / fitted_M), study.configurations)
    found, levels = noise(residuals, form.free), study.levels(form.axes)
    if not varies(residuals.means[study.configurations], levels, fitted_M):
        return found
    _, first = np.unique(study.configurations, return_index=True)
    exponents, unit = noise_trend(residuals.means, dict(zip(form.axes, levels[:, first], strict=True)))
    return replace(found, exponents=exponents, unit=unit)


def _useful(law: Law, axis: str, factor: float) -> bool:
    """Whether the law is informative at the tested distance.

    The data must determine E; the interval must be narrow against the range of losses seen, and its half-width against
    the reducible loss there.
    """
    highest = {name: high for name, (_, high) in law.reach.ranges.items()}
    lowest = {name: low for name, (low, _) in law.reach.ranges.items()}
    levels = {**highest, axis: highest[axis] * factor}
    band = law.prediction_band(levels)
    least = float(law.predict(highest)[0])
    floorless = sum(one.weight for one in law.fits if _without_floor(one.form))
    undetermined = law.values[0] < _LEAST_E * least or floorless > _LIKELY
    if band is None or (undetermined and not _without_floor(law.form)):
        return False
    width = float(band[1][0] - band[0][0])
    seen = float(law.predict(lowest)[0]) - least
    return width <= _WIDEST * max(seen, 0.0) and width / 2 <= float(law.predict(levels)[0] - law.values[0])


def _usable(forms: Sequence[AnyForm], study: Study, count: int) -> list[AnyForm]:
    known = [form for form in forms if _identifiable(form, study)] or list(forms)
    smallest = min(form.free for form in known)
    return [form for form in known if form.free <= max(count - 1, smallest)]


def _trials(form: AnyForm, values: Floats, study: Study, objective: str) -> list[Trial]:
    found = (trial(form, study, split, objective_of(objective), values) for split in splits(study))
    return [one for one in found if one is not None]


def _combined(bic: Mapping[AnyForm, float], trials: Mapping[AnyForm, Sequence[Trial]]) -> dict[AnyForm, float]:
    """Weights by BIC and backtests, normalized; by BIC alone if the forms were not all backtested alike."""
    counts = {len(found) for found in trials.values()}
    tested = len(counts) == 1 and counts != {0}
    weights = {form: bic[form] * (backtest_weight(found) if tested else 1.0) for form, found in trials.items()}
    total = sum(weights.values())
    return {form: weight / total for form, weight in weights.items()}


def _without_floor(form: AnyForm) -> bool:
    """Whether E is fixed at 0: such a form bounds the extrapolation from below, but is no law unless asked for."""
    return isinstance(form, Form) and not form.irreducible


def _identifiable(form: AnyForm, study: Study) -> bool:
    """Whether the study has enough levels for the form: the five parameters of M4 need seven, E = 0 needs evidence."""
    if isinstance(form, Form):
        return form.irreducible or len(study.level_values(form.axes[0])) >= form.size + 2
    return len(study.level_values(form.axis)) >= form.size + 2


def _bic_weights(forms: Sequence[AnyForm], study: Study, count: int) -> list[float]:
    """Weights exp(-BIC / 2), normalized, of least-squares fits of log L to ``count`` configurations."""
    scores = []
    for form in forms:
        levels = study.levels(form.axes)
        values, _ = fit(form, levels, study.losses, OBJECTIVES["mse"], study.weights)
        residuals_M = np.log(study.losses) - np.log(form.predict(values[None], levels)[0])
        means_C = Residuals.of(residuals_M, study.configurations).means
        # residuals below 1e-6, the precision of losses written with six digits, are no evidence
        variance = float((means_C**2).mean()) + 1e-12
        scores.append(count * np.log(variance) + form.free * np.log(count))
    relative = np.exp(-0.5 * (np.array(scores) - min(scores)))
    return [float(weight) for weight in relative / relative.sum()]
