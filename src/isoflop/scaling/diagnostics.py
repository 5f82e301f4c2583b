"""Diagnostics of a study and its law: weaknesses of the design, the fit, the held-out prediction and the optima.

Each has a stable kind, a message and the values behind it. The kinds in ``WARNINGS`` mean that the law should not be
trusted beyond its runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from isoflop.scaling.fitting.bent import at_bounds
from isoflop.scaling.fitting.held_out import HeldOut
from isoflop.scaling.fitting.laws import Law
from isoflop.scaling.fitting.objectives import OBJECTIVES
from isoflop.scaling.fitting.one_form import fit
from isoflop.scaling.fitting.uncertainty import Noise, Residuals
from isoflop.scaling.forms import AXIS_NAMES, AnyForm, Floats, Form, point
from isoflop.scaling.planning import Optimum, Planner
from isoflop.scaling.profiles import Profile, disagreement
from isoflop.scaling.tables.runs import MIN_WIDTHS, Study, format_counts

MAX_EXTRAPOLATION = 4.0  # times the largest run; beyond that, even a law that fits may be far off
_MIN_LEVELS = {"parameters": 4, "unique_samples": 3, "seen_samples": 3, "flops": 4}  # to identify an exponent and E
_LACK_OF_FIT_CONFIDENCE = 0.99  # the F test has a false positive in 1 of 100 sound studies
_NEGLIGIBLE = 1e-4  # relative to the lowest loss: a smaller E or term counts as zero
_DISAGREEMENT = 0.05  # relative difference between forms that are not ruled out
_WIDEST = 0.5  # share of the range of losses seen; a wider held-out interval does not test the law
_NOUNS = {
    "parameters": "model sizes",
    "unique_samples": "data sizes",
    "seen_samples": "training lengths",
    "flops": "FLOP budgets",
}

Kind = Literal[
    "runs_excluded", "single_size", "single_data_size", "few_sizes", "few_data_sizes", "few_budgets", "single_seed",
    "repeated_seed", "no_noise_estimate", "flops_assumed", "irreducible_loss_at_zero", "no_gain", "lack_of_fit",
    "forms_disagree", "no_held_out", "held_out_without_interval", "held_out_outside_interval",
    "held_out_interval_too_wide", "extrapolation", "optimum_extrapolated", "optimum_unbounded", "profile_rejected",
    "profile_disagrees", "more_samples_than_studied", "longer_than_studied",
    "metric_rises", "metric_unclear", "units_disagree", "parameter_at_bound", "backtest_missed",
]  # fmt: skip
WARNINGS: frozenset[Kind] = frozenset(
    {"irreducible_loss_at_zero", "held_out_outside_interval", "held_out_interval_too_wide",
     "held_out_without_interval", "no_held_out", "lack_of_fit", "no_noise_estimate", "forms_disagree",
     "metric_rises"}
)  # fmt: skip
# kinds that void the trust in extrapolations, whatever the backtests showed
VOIDING: frozenset[Kind] = frozenset(
    {"irreducible_loss_at_zero", "held_out_outside_interval", "lack_of_fit", "no_noise_estimate", "metric_rises"}
)


@dataclass(frozen=True)
class Diagnostic:
    """One weakness of a study or its law."""

    kind: Kind
    message: str
    values: dict[str, float] = field(default_factory=dict)


def diagnose(study: Study, law: Law, irreducible: tuple[float, float] | None) -> list[Diagnostic]:
    """All diagnostics of the study's design and of the fitted law, the design first.

    Args:
        irreducible: 95 % interval of the irreducible loss E.
    """
    parameters = _parameters(study, law.form, law.values, irreducible)
    bounds = [*_bounds(study, law), *_backtests(law)]
    return [*_design(study), *_noise(study, law.form, law.noise), *parameters, *bounds, *_lack_of_fit(study, law.form)]


def _design(study: Study) -> Iterator[Diagnostic]:
    if study.excluded:
        counts = {reason: float(count) for reason, count in study.excluded.items()}
        message = f"excluded: {format_counts(study.excluded)}; {len(study.runs)} runs remain"
        yield Diagnostic("runs_excluded", message, counts)
    if study.assumed:
        yield Diagnostic("flops_assumed", study.assumed)
    if study.axes == ("parameters",):
        samples = study.runs[0].unique_samples
        at = f", at {samples:g} samples" if samples > 1 else ""
        message = f"only L(N) was fitted{at}: got 1 data size, L(N, D) requires 3"
        yield Diagnostic("single_data_size", message, {"samples": samples})
    elif "parameters" not in study.axes and study.axes != ("flops",):
        yield Diagnostic("single_size", "all models have the same size: the effect of size is not identifiable")
    kinds: dict[str, Kind] = {"parameters": "few_sizes", "unique_samples": "few_data_sizes"}
    for axis in study.axes:
        count = len(study.level_values(axis))
        if 1 < count < _MIN_LEVELS[axis]:
            got = f"got {count} {_NOUNS[axis]}, expected at least {_MIN_LEVELS[axis]}"
            message = f"the exponent and E are poorly identified: {got}"
            yield Diagnostic(kinds.get(axis, "few_budgets"), message, {"levels": count})


def _noise(study: Study, form: AnyForm, noise: Noise) -> Iterator[Diagnostic]:
    if noise.seed is None:
        yield Diagnostic(
            "single_seed", "one seed per configuration: seed noise and misfit of the law cannot be separated"
        )
    runs = list(zip(study.configurations.tolist(), (run.seed for run in study.runs), strict=True))
    seeds_known = len({seed for _, seed in runs}) > 1  # a table may lack them
    if noise.seed is not None and seeds_known and (repeated := len(runs) - len(set(runs))):
        yield Diagnostic(
            "repeated_seed",
            f"runs with the configuration and seed of another run: {repeated}; if they are copies, the seed noise is "
            "underestimated",
            {"runs": repeated},
        )
    if noise.degrees_of_freedom < 1:
        yield Diagnostic(
            "no_noise_estimate",
            f"{len(study.runs)} runs for the law's {form.free} parameters leave no degrees of freedom to estimate the "
            "noise",
            {"runs": len(study.runs), "parameters": form.free},
        )


def _parameters(
    study: Study, form: AnyForm, values: Floats, irreducible: tuple[float, float] | None
) -> Iterator[Diagnostic]:
    least = float(study.losses.min())
    if values[0] < _NEGLIGIBLE * least:
        interval = f" (95 % interval up to {irreducible[1]:.3g})" if irreducible else ""
        yield Diagnostic(
            "irreducible_loss_at_zero",
            f"the irreducible loss E is at its bound of 0{interval}: the runs do not identify E, so extrapolated "
            "losses may be too low",
            {"upper_bound": irreducible[1]} if irreducible else {},
        )
    for axis in form.axes:
        if _gain(study, form, values, axis) < _NEGLIGIBLE:
            yield Diagnostic(
                "no_gain", f"more {AXIS_NAMES[axis]} do not lower the predicted loss within the study's range"
            )


def _gain(study: Study, form: AnyForm, values: Floats, axis: str) -> float:
    """The relative reduction of the predicted loss from the least to the most of ``axis``, at the most of others."""
    most_K = np.array([study.column(name).max() for name in form.axes])
    ends_KM = np.stack([most_K, most_K], axis=1)
    ends_KM[form.axes.index(axis), 0] = study.column(axis).min()
    least, most = form.predict(values[None], ends_KM)[0]
    return float(1 - most / least)


def _bounds(study: Study, law: Law) -> Iterator[Diagnostic]:
    """Parameters of M4 or the broken power law at a bound of the fit: the runs do not identify them."""
    if isinstance(law.form, Form):
        return
    found = at_bounds(law.form, study.levels(law.form.axes), study.losses, law.values)
    if found:
        each = " and ".join(f"{name} = {value:.3g}" for name, value in found.items())
        message = f"the fit of {law.form.label} ends at a bound of {each}: the runs do not identify the bend"
        yield Diagnostic("parameter_at_bound", message, found)


def _backtests(law: Law) -> Iterator[Diagnostic]:
    for one in law.backtests:
        if not one.held:
            yield Diagnostic(
                "backtest_missed",
                f"backtest: without the runs beyond 1/{one.factor:.3g} of the largest number of "
                f"{AXIS_NAMES[one.axis]}, the law predicts them with an error of {one.error:+.1%}, beyond the "
                f"factor of {1 + one.half_width:.3g} on each side that the other backtests led to",
                {"factor": one.factor, "error": one.error},
            )


def _lack_of_fit(study: Study, form: AnyForm) -> Iterator[Diagnostic]:
    """The F test of lack of fit: do configuration means deviate from the law by more than their seed noise?

    The test assumes least squares, so it uses a least-squares fit instead of the law's own.
    """
    from scipy.special import fdtri

    values, _ = fit(form, study.levels(form.axes), study.losses, OBJECTIVES["mse"])
    fitted_M = form.predict(values[None], study.levels(form.axes))[0]
    residuals = Residuals.of(np.log(study.losses) - np.log(fitted_M), study.configurations)
    seed, seed_dof = residuals.seed_variance()
    misfit, mean_dof = residuals.misfit_variance(form.free)
    mean, _ = residuals.mean_variance(form.free)
    if seed is None or misfit is None or mean is None or seed == 0:
        return
    ratio = misfit / seed
    if ratio > fdtri(mean_dof, seed_dof, _LACK_OF_FIT_CONFIDENCE):
        yield Diagnostic(
            "lack_of_fit",
            f"lack of fit: configurations deviate from the law by {np.sqrt(mean):.1%}, {np.sqrt(ratio):.1f} times what "
            f"seed noise explains (F = {ratio:.1f} with {mean_dof} and {seed_dof} degrees of freedom)",
            {"misfit": float(np.sqrt(mean)), "f": float(ratio)},
        )


def held_out_diagnostics(study: Study, held_out: HeldOut | None) -> list[Diagnostic]:
    """Whether the held-out test was possible, whether the law passed it, and how far it extrapolated."""
    if held_out is None:
        count = len(study.level_values(study.axes[0]))
        got = f"got {count} {_NOUNS[study.axes[0]]}, holding out the largest requires {MIN_WIDTHS + 1}"
        return [Diagnostic("no_held_out", f"the law's extrapolation was not tested: {got}", {"levels": count})]
    last = held_out.comparisons[-1]
    diagnostics = []
    if last.covered is None:
        message = f"held-out {held_out.name} has no prediction interval: too few other runs to estimate the noise"
        diagnostics.append(Diagnostic("held_out_without_interval", message))
    if last.low and last.high and _too_wide(study, held_out, last.low, last.high):
        message = (
            f"the 95 % prediction interval of held-out {held_out.name}, {last.low:.3g} to {last.high:.3g}, is too wide "
            "to test the law: wider than half of the range of losses seen, or than the reducible loss on each side"
        )
        diagnostics.append(Diagnostic("held_out_interval_too_wide", message, {"ratio": last.high / last.low}))
    missed, count = sum(one.covered is False for one in held_out.comparisons), len(held_out.comparisons)
    if last.covered is False:
        message = (
            f"held-out {held_out.name}: predicted {last.predicted:.4g} (95 % interval {last.low:.4g} to "
            f"{last.high:.4g}), measured {last.actual:.4g}, error {last.relative_error:+.1%}"
        )
        diagnostics.append(Diagnostic("held_out_outside_interval", message, {"relative_error": last.relative_error}))
    elif missed and _more_than_chance(missed, count):
        message = f"{missed} of {count} configurations of held-out {held_out.name} lie outside their 95 % intervals"
        diagnostics.append(Diagnostic("held_out_outside_interval", message, {"missed": missed}))
    others = [float(getattr(run, held_out.axis)) for run in study.runs if not held_out.includes(run)]
    if held_out.axis == "parameters":
        far = extrapolation(held_out.level, max(others), f"held-out {held_out.name}")
        diagnostics += [far] if far else []
    return diagnostics


def _too_wide(study: Study, held_out: HeldOut, low: float, high: float) -> bool:
    """Whether an interval is wider than half of the range of losses seen, or twice the reducible loss."""
    seen = [run.loss for run in study.runs if not held_out.includes(run)]
    reducible = held_out.comparisons[-1].predicted - float(held_out.law.values[0])
    return high - low > _WIDEST * (max(seen) - min(seen)) or high - low > 2 * reducible


def _more_than_chance(missed: int, count: int) -> bool:
    """Whether 95 % intervals miss significantly more often than 5 % (one-sided binomial test at 5 %)."""
    from scipy.special import bdtrc

    return bool(bdtrc(missed - 1, count, 0.05) < 0.05)


def optimum_diagnostics(optima: dict[str, Optimum], planner: Planner) -> list[Diagnostic]:
    """Budgets whose compute-optimal size is extrapolated or does not exist."""
    extrapolated = [name for name, best in optima.items() if best.status == "extrapolated"]
    unbounded = [name for name, best in optima.items() if best.status == "unbounded"]
    diagnostics = []
    if extrapolated:
        message = (
            "the compute-optimal size lies outside the study's sizes or samples for the budgets "
            f"{', '.join(extrapolated)}"
        )
        diagnostics.append(Diagnostic("optimum_extrapolated", message, {"budgets": len(extrapolated)}))
    if unbounded:
        message = (
            f"no compute-optimal size for the budgets {', '.join(unbounded)} by {planner.law.form.label}: "
            f"{planner.why_unbounded(optima[unbounded[0]].flops)}"
        )
        diagnostics.append(Diagnostic("optimum_unbounded", message, {"budgets": len(unbounded)}))
    return diagnostics


def profile_diagnostics(profiles: list[Profile], planner: Planner) -> list[Diagnostic]:
    """IsoFLOP profiles that have no optimum or contradict the law's."""
    diagnostics = []
    for profile in profiles:
        if profile.rejected:
            rejected = f"the IsoFLOP profile at {profile.flops:.3g} FLOPs has no optimum: {profile.rejected}"
            diagnostics.append(Diagnostic("profile_rejected", rejected, {"flops": profile.flops}))
        elif message := disagreement(profile, planner.optimum(profile.flops).parameters_interval):
            diagnostics.append(Diagnostic("profile_disagrees", message, {"flops": profile.flops}))
    return diagnostics


def form_diagnostics(study: Study, law: Law) -> list[Diagnostic]:
    """Whether forms disagree at the extrapolation limit: four times the largest level of the study's first axis."""
    largest = max(study.runs, key=lambda run: (run.parameters, run.seen_samples))
    axes = ("parameters", "unique_samples", "seen_samples")
    factor = {axis: MAX_EXTRAPOLATION if axis == study.axes[0] else 1.0 for axis in axes}
    levels: dict[str, Floats | float] = {axis: by * float(getattr(largest, axis)) for axis, by in factor.items()}
    levels["flops"] = MAX_EXTRAPOLATION * largest.flops
    losses = [float(one.form.predict(one.values[None], point(one.form, levels))[0, 0]) for one in law.fits]
    difference = max(losses) / min(losses) - 1
    if difference < _DISAGREEMENT:
        return []
    each = "; ".join(
        f"{one.form.label}: {loss:.3g} (weight {one.weight:.0%})" for one, loss in zip(law.fits, losses, strict=True)
    )
    where = f"{MAX_EXTRAPOLATION:g} times the study's largest number of {AXIS_NAMES[study.axes[0]]}"
    message = f"forms that fit the runs about equally well disagree at {where}: "
    return [Diagnostic("forms_disagree", message + each, {"relative_difference": float(difference)})]


def extrapolation(parameters: float, study_parameters: float, what: str) -> Diagnostic | None:
    """The diagnostic about ``what`` if it has more than four times the parameters of the study's largest model."""
    factor = parameters / study_parameters
    if factor <= MAX_EXTRAPOLATION:
        return None
    return Diagnostic(
        "extrapolation",
        f"{what} has {parameters:.3g} parameters, {factor:.1f} times the largest fitted model; predictions beyond "
        f"{MAX_EXTRAPOLATION:g} times are not trusted",
        {"factor": factor},
    )
