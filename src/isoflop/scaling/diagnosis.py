"""What stands between the runs and a law that one may trust, in words with the figures behind them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from isoflop.scaling.fitting import LOSSES, fit
from isoflop.scaling.laws import L_N, Floats, Form
from isoflop.scaling.runs import Study
from isoflop.scaling.uncertainty import Noise, Residuals

MAX_EXTRAPOLATION = 4.0  # times the largest run; beyond, a law that fits may be far off (DESIGN §6)
_MIN_LEVELS = 3  # of an axis; fewer cannot tell an exponent from a floor
_CERTAINTY = 0.99  # of the test of lack of fit: one sound study in a hundred is doubted for nothing
_NEGLIGIBLE = 1e-4  # of the best loss: a floor or a term below it is none


@dataclass(frozen=True)
class Diagnosis:
    """One reason for doubt: its kind is stable, its message is for reading."""

    kind: str
    message: str


def diagnose(study: Study, form: Form, values: Floats, replicates: Floats, noise: Noise) -> list[Diagnosis]:
    """Everything about the runs and their law that weakens it, the design first."""
    return [*_design(study, form, noise), *_parameters(study, form, values, replicates), *_misfit(study, form)]


def _design(study: Study, form: Form, noise: Noise) -> Iterator[Diagnosis]:
    if study.diverged:
        yield Diagnosis("diverged", f"{study.diverged} runs diverged and were left out; {len(study.runs)} remain")
    if form == L_N:
        yield Diagnosis(
            "single_fraction",
            f"only L(N) was fitted, at {study.runs[0].unique_images} images: found 1 data fraction, "
            f"L(N, D) takes {_MIN_LEVELS}",
        )
    for what, count, needed in (("widths", len(study.widths), 4), ("fractions", len(study.fractions), _MIN_LEVELS)):
        if 1 < count < needed:
            yield Diagnosis(
                f"few_{what}", f"{count} {what} leave the exponent and the floor loose; {needed} or more would pin them"
            )
    if noise.seed is None:
        yield Diagnosis("single_seed", "each configuration has one seed: noise and misfit of the law look alike")
    if noise.freedom < 1:
        yield Diagnosis(
            "no_noise_estimate",
            f"{len(study.runs)} runs for the {form.size} parameters of the law leave nothing to tell its error by",
        )


def _parameters(study: Study, form: Form, values: Floats, replicates: Floats) -> Iterator[Diagnosis]:
    least = float(study.losses.min())
    if values[0] < _NEGLIGIBLE * least:
        share = float((replicates[:, 0] < _NEGLIGIBLE * least).mean())
        yield Diagnosis(
            "floor_at_zero",
            f"E is at its bound of 0 (as in {share:.0%} of the bootstrap): the runs show no floor yet, "
            "so losses far beyond them come out too low",
        )
    terms_KM = study.levels(form.axes) ** -values[1 + len(form.axes) :, None] * values[1 : 1 + len(form.axes), None]
    for axis, low, high in zip(form.axes, terms_KM.min(axis=1), terms_KM.max(axis=1), strict=True):
        if high - low < _NEGLIGIBLE * least:
            yield Diagnosis("no_gain", f"over the study more {axis.replace('_', ' ')} bring no lower loss")


def _misfit(study: Study, form: Form) -> Iterator[Diagnosis]:
    """The F test of lack of fit: do configurations' means miss the law by more than their seeds explain?

    The test holds for squares, so it has a fit by squares of its own.
    """
    from scipy.stats import f

    values, _ = fit(form, study.levels(form.axes), study.losses, LOSSES["mse"])
    fitted_M = form.predict(values[None], study.levels(form.axes))[0]
    residuals = Residuals.of(np.log(study.losses) - np.log(fitted_M), study.configurations)
    seed, seed_freedom = residuals.seed_variance()
    mean, mean_freedom = residuals.mean_variance(form.size)
    if seed is None or mean is None or seed == 0:
        return
    ratio = mean * float(residuals.counts.mean()) / seed
    if ratio > f.ppf(_CERTAINTY, mean_freedom, seed_freedom):
        yield Diagnosis(
            "lack_of_fit",
            f"configurations miss the law by {np.sqrt(mean):.1%}, {np.sqrt(ratio):.1f} times what seeds explain "
            f"(F = {ratio:.1f} on {mean_freedom} and {seed_freedom} degrees of freedom)",
        )


def extrapolation(parameters: float, study_parameters: float, what: str) -> Diagnosis | None:
    """A doubt about ``what`` if it is more than four times as large as the study's largest model."""
    factor = parameters / study_parameters
    if factor <= MAX_EXTRAPOLATION:
        return None
    return Diagnosis(
        "extrapolation",
        f"{what} has {parameters:.3g} parameters, {factor:.1f} times the largest of the study; "
        f"beyond {MAX_EXTRAPOLATION:g} times do not trust it",
    )
