"""What stands between the runs and a law that one may trust, in words with the figures behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from isoflop.scaling.fitting import LOSSES, fit
from isoflop.scaling.forms import AnyForm, Floats, Form
from isoflop.scaling.laws import Law
from isoflop.scaling.runs import Study, in_words
from isoflop.scaling.uncertainty import Noise, Residuals

MAX_EXTRAPOLATION = 4.0  # times the largest run; beyond, a law that fits may be far off
_MIN_LEVELS = {"parameters": 4, "unique_samples": 3, "seen_samples": 3, "flops": 4}  # fewer leave an exponent loose
_CERTAINTY = 0.99  # of the test of lack of fit: one sound study in a hundred is doubted for nothing
_NEGLIGIBLE = 1e-4  # of the best loss: a floor or a term below it is none
_DISAGREEMENT = 0.05  # between forms that the runs do not rule out, relative
_NOUNS = {
    "parameters": "sizes",
    "unique_samples": "data sizes",
    "seen_samples": "lengths of training",
    "flops": "budgets",
}

Kind = Literal[
    "left_out", "single_size", "single_data_size", "few_sizes", "few_data_sizes", "few_budgets", "single_seed",
    "repeated_seed",
    "no_noise_estimate", "flops_assumed", "floor_at_zero", "no_gain", "lack_of_fit", "forms_disagree", "no_held_out",
    "held_out_unchecked", "held_out_missed", "held_out_loose", "extrapolation", "optimum_extrapolated",
    "optimum_unbounded", "profile_refused", "profile_disagrees", "more_samples_than_studied", "longer_than_studied",
]  # fmt: skip
# Diagnostics that forbid to believe the law at the next size.
GRAVE: frozenset[Kind] = frozenset(
    {"floor_at_zero", "held_out_missed", "held_out_loose", "held_out_unchecked", "no_held_out", "lack_of_fit",
     "no_noise_estimate", "forms_disagree"}
)  # fmt: skip


@dataclass(frozen=True)
class Diagnosis:
    """One reason for diagnostic: its kind is stable, its message is for reading, its figures are what stands behind it."""

    kind: Kind
    message: str
    figures: dict[str, float] = field(default_factory=dict)


def diagnose(study: Study, law: Law, floor: tuple[float, float] | None) -> list[Diagnosis]:
    """Everything about the runs and their law that weakens it, the design first."""
    parameters = _parameters(study, law.form, law.values, floor)
    return [*_design(study, law.form, law.noise), *parameters, *_misfit(study, law.form)]


def _design(study: Study, form: AnyForm, noise: Noise) -> Iterator[Diagnosis]:
    if study.left_out:
        counts = {kind: float(count) for kind, count in study.left_out.items()}
        yield Diagnosis("left_out", f"left out: {in_words(study.left_out)}; {len(study.runs)} runs remain", counts)
    if study.assumed:
        yield Diagnosis("flops_assumed", study.assumed)
    if "parameters" in study.axes and len(study.axes) == 1:
        samples = study.runs[0].unique_samples
        at = f", at {samples:g} samples" if samples > 1 else ""
        yield Diagnosis(
            "single_data_size",
            f"only L(N) was fitted{at}: found 1 data size, L(N, D) takes 3",
            {"samples": samples},
        )
    elif "parameters" not in study.axes and study.axes != ("flops",):
        yield Diagnosis("single_size", "all runs have models of one size: what size brings is not known", {})
    kinds: dict[str, Kind] = {"parameters": "few_sizes", "unique_samples": "few_data_sizes"}
    for axis in study.axes:
        count = len(study.level_values(axis))
        if 1 < count < _MIN_LEVELS[axis]:
            yield Diagnosis(
                kinds.get(axis, "few_budgets"),
                f"{count} {_NOUNS[axis]} leave the exponent and the floor loose; {_MIN_LEVELS[axis]} or more would pin "
                "them",
                {"levels": count},
            )
    if noise.seed is None:
        yield Diagnosis("single_seed", "each configuration has one seed: noise and misfit of the law look alike")
    runs = list(zip(study.configurations.tolist(), (run.seed for run in study.runs), strict=True))
    if noise.seed is not None and (repeated := len(runs) - len(set(runs))):
        yield Diagnosis(
            "repeated_seed",
            f"{repeated} runs repeat the configuration and seed of another: if they are copies of it, the noise of "
            "seeds comes out too small",
            {"runs": repeated},
        )
    if noise.freedom < 1:
        yield Diagnosis(
            "no_noise_estimate",
            f"{len(study.runs)} runs for the {form.size} parameters of the law leave nothing to tell its error by",
            {"runs": len(study.runs), "parameters": form.size},
        )


def _parameters(study: Study, form: AnyForm, values: Floats, floor: tuple[float, float] | None) -> Iterator[Diagnosis]:
    least = float(study.losses.min())
    if values[0] < _NEGLIGIBLE * least:
        reach = f" (95 % interval up to {floor[1]:.3g})" if floor else ""
        yield Diagnosis(
            "floor_at_zero",
            f"E is at its bound of 0{reach}: the runs show no floor yet, "
            "so losses far beyond them may come out too low",
            {"highest_floor": floor[1]} if floor else {},
        )
    if not isinstance(form, Form):
        return
    exponents = dict(zip(form.axes, values[1 + len(form.terms) :], strict=True))
    for axis in form.axes:
        coefficient = values[1 + form.term_of_axis[form.axes.index(axis)]]
        shares = study.column(axis) ** -exponents[axis]
        if coefficient == 0 or (1 - shares.min() / shares.max()) * (1 - values[0] / least) < _NEGLIGIBLE:
            yield Diagnosis("no_gain", f"over the study more {axis.replace('_', ' ')} bring no lower loss")


def _misfit(study: Study, form: AnyForm) -> Iterator[Diagnosis]:
    """The F test of lack of fit: do configurations' means miss the law by more than their seeds explain?

    The test holds for squares, so it has a fit by squares of its own.
    """
    from scipy.stats import f

    values, _ = fit(form, study.levels(form.axes), study.losses, LOSSES["mse"])
    fitted_M = form.predict(values[None], study.levels(form.axes))[0]
    residuals = Residuals.of(np.log(study.losses) - np.log(fitted_M), study.configurations)
    seed, seed_freedom = residuals.seed_variance()
    misfit, mean_freedom = residuals.misfit_variance(form.size)
    mean, _ = residuals.mean_variance(form.size)
    if seed is None or misfit is None or mean is None or seed == 0:
        return
    ratio = misfit / seed
    if ratio > f.ppf(_CERTAINTY, mean_freedom, seed_freedom):
        yield Diagnosis(
            "lack_of_fit",
            f"configurations miss the law by {np.sqrt(mean):.1%}, {np.sqrt(ratio):.1f} times what seeds explain "
            f"(F = {ratio:.1f} on {mean_freedom} and {seed_freedom} degrees of freedom)",
            {"misfit": float(np.sqrt(mean)), "f": float(ratio)},
        )


def forms_disagree(law: Law, levels: dict[str, Floats | float], where: str) -> Diagnosis | None:
    """A diagnostic where forms that the runs do not rule out expect losses at ``levels`` that differ by 5 % or more."""
    each = [Law((one,), law.noise).predict(levels)[0] for one in law.fits]
    apart = max(each) / min(each) - 1
    if apart < _DISAGREEMENT:
        return None
    losses = "; ".join(
        f"{one.form.label}: {loss:.3g} (weight {one.weight:.0%})" for one, loss in zip(law.fits, each, strict=True)
    )
    return Diagnosis(
        "forms_disagree", f"laws that fit the runs about as well disagree {where}: {losses}", {"apart": float(apart)}
    )


def extrapolation(parameters: float, study_parameters: float, what: str) -> Diagnosis | None:
    """A diagnostic about ``what`` if it is more than four times as large as the study's largest model."""
    factor = parameters / study_parameters
    if factor <= MAX_EXTRAPOLATION:
        return None
    return Diagnosis(
        "extrapolation",
        f"{what} has {parameters:.3g} parameters, {factor:.1f} times the largest of the study; "
        f"beyond {MAX_EXTRAPOLATION:g} times do not trust it",
        {"factor": factor},
    )
