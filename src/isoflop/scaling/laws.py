"""The law of a study: choose between forms by BIC, with bootstrap and noise, and predict with intervals.

``forms`` holds the formulas, ``fitting`` fits a single form.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from isoflop.runtime.progress import tracked
from isoflop.scaling.fitting import fit
from isoflop.scaling.forms import M4, AnyForm, Floats, candidates, point
from isoflop.scaling.objectives import OBJECTIVES
from isoflop.scaling.reach import Predictions, Reach
from isoflop.scaling.runs import Study
from isoflop.scaling.uncertainty import Noise, Residuals, bootstrap, central_interval, noise, prediction_interval

_MIN_WEIGHT = 0.02  # forms with a lower BIC weight are ruled out


@dataclass(frozen=True)
class Fit:
    """One form fitted to a study."""

    form: AnyForm
    values: Floats  # [P] parameters
    replicates: Floats  # [R, P] bootstrap replicates of the parameters
    weight: float  # BIC weight among the forms that are kept


@dataclass(frozen=True)
class Law:
    """The forms that the runs do not rule out, best first, the noise of runs about the best, and how far it reaches."""

    fits: tuple[Fit, ...]
    noise: Noise
    reach: Reach = field(default_factory=Reach)

    @property
    def form(self) -> AnyForm:
        return self.fits[0].form

    @property
    def values(self) -> Floats:
        """Parameters [P] of the best form."""
        return self.fits[0].values

    @property
    def replicates(self) -> Floats:
        """Bootstrap replicates [R, P] of the best form's parameters."""
        return self.fits[0].replicates

    def predict(self, levels: Mapping[str, Floats | float]) -> Floats:
        """Losses [M] that the best form predicts at levels by axis."""
        return np.asarray(self.form.predict(self.values[None], point(self.form, levels))[0])

    def replicate_losses(self, levels: Mapping[str, Floats | float]) -> Floats:
        """Losses [R, M] that the bootstrap replicates predict, of all forms in proportion to their weights."""
        return np.concatenate(
            [one.form.predict(rows, point(one.form, levels)) for one, rows in self._weighted_replicates()], axis=0
        )

    def _weighted_replicates(self) -> list[tuple[Fit, Floats]]:
        """Each fit with a number of its replicates in proportion to its weight."""
        most = max(len(one.replicates) for one in self.fits)
        counts = [max(1, round(one.weight * most)) for one in self.fits]
        return [
            (one, one.replicates[np.arange(count) % len(one.replicates)])
            for one, count in zip(self.fits, counts, strict=True)
        ]

    def confidence_band(self, levels: Mapping[str, Floats | float]) -> tuple[Floats, Floats]:
        """The 95 % confidence band of the law, lower and upper [M]: bootstrap and forms, without the noise of runs."""
        return central_interval(self.replicate_losses(levels))

    def prediction_band(self, levels: Mapping[str, Floats | float]) -> tuple[Floats, Floats] | None:
        """The 95 % prediction band of a new run, lower and upper [M]; None if the noise is not identifiable."""
        sd, dof = self.noise.sd_of_mean(1), self.noise.degrees_of_freedom
        bounds = [prediction_interval(losses_R, sd, dof) for losses_R in self.replicate_losses(levels).T]
        if any(bound is None for bound in bounds):
            return None
        low, high = np.array(bounds, np.float64).T
        return low, high

    def predictions(self, levels: Mapping[str, Floats | float]) -> Predictions:
        """Predict new runs at M points, with 95 % prediction intervals, and whether each is within a tested distance.

        Args:
            levels: levels [M] by axis, at least those of the form; a scalar holds for all points. Other axes of the
                study are compared with its range only.
        """
        predicted = self.predict(levels)
        low, high = self.prediction_band(levels) or (np.full_like(predicted, np.nan), np.full_like(predicted, np.nan))
        trusted = np.broadcast_to(self.reach.trusts(levels), predicted.shape)
        return Predictions(predicted, low, high, trusted)

    def prediction(self, levels: Mapping[str, float], seeds: int) -> tuple[float, tuple[float, float] | None]:
        """The loss predicted at one point and the 95 % prediction interval of the mean of ``seeds`` new runs there."""
        losses_R = self.replicate_losses(levels)[:, 0]
        bounds = prediction_interval(losses_R, self.noise.sd_of_mean(seeds), self.noise.degrees_of_freedom)
        return float(self.predict(levels)[0]), bounds


def fit_law(study: Study, bootstraps: int, rng: np.random.Generator, objective: str = "huber") -> Law:
    """Fit every form that the study's axes allow, weight each by BIC, and bootstrap those that are not ruled out.

    The form with the highest weight is the law; the others widen its intervals. BIC (Schwarz 1978; Raftery 1995) uses
    only the runs that are fitted. The fit is to single runs, not to means over seeds: every run counts alike even if a
    configuration has lost a seed, and Huber's loss can limit the effect of a single outlier. The bootstrap resamples
    whole configurations.
    """
    count = int(study.configurations.max()) + 1
    forms = candidates(study.axes)
    smallest = min(form.size for form in forms)
    forms = [form for form in forms if form.size <= max(count - 1, smallest) and _identifiable(form, study)]
    weights = _bic_weights(forms, study, count)
    kept = [index for index in np.argsort(-weights, kind="stable") if weights[index] >= _MIN_WEIGHT]
    total = float(weights[kept].sum())
    fits = []
    for index in tracked(kept, f"fitting and {bootstraps} bootstraps", "forms of the law"):
        form = forms[index]
        levels = study.levels(form.axes)
        values, _ = fit(form, levels, study.losses, OBJECTIVES[objective])
        replicates = bootstrap(
            form, levels, study.losses, study.configurations, OBJECTIVES[objective], values, bootstraps, rng
        )
        fits.append(Fit(form, values, replicates, float(weights[index]) / total))
    best = fits[0]
    fitted_M = best.form.predict(best.values[None], study.levels(best.form.axes))[0]
    residuals = Residuals.of(np.log(study.losses / fitted_M), study.configurations)
    return Law(tuple(fits), noise(residuals, best.form.size))


def _identifiable(form: AnyForm, study: Study) -> bool:
    """Whether the study has enough levels for the form: the five parameters of M4 need seven."""
    return not isinstance(form, M4) or len(study.level_values(form.axis)) >= form.size + 2


def _bic_weights(forms: list[AnyForm], study: Study, count: int) -> Floats:
    """Weights exp(-BIC / 2), normalized, of least-squares fits of log L to ``count`` configurations."""
    if len(forms) == 1:
        return np.ones(1)
    scores = []
    for form in forms:
        levels = study.levels(form.axes)
        values, _ = fit(form, levels, study.losses, OBJECTIVES["mse"])
        residuals_M = np.log(study.losses) - np.log(form.predict(values[None], levels)[0])
        means_C = Residuals.of(residuals_M, study.configurations).means
        # residuals below 1e-6, the precision of losses written with six digits, are no evidence
        variance = float((means_C**2).mean()) + 1e-12
        scores.append(count * np.log(variance) + form.size * np.log(count))
    relative = np.exp(-0.5 * (np.array(scores) - min(scores)))
    return np.asarray(relative / relative.sum())
