"""A law of a study: the form that its runs support best, the others they do not rule out, and the noise about it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from isoflop.runtime.progress import tracked
from isoflop.scaling.fitting import LOSSES, fit
from isoflop.scaling.forms import M4, AnyForm, Floats, candidates, point
from isoflop.scaling.runs import Study
from isoflop.scaling.uncertainty import Noise, Residuals, bootstrap, middle, noise, prediction_interval

_RULED_OUT = 0.02  # a form whose share of the evidence is less is not followed


@dataclass(frozen=True)
class Fit:
    """One form fitted to a study."""

    form: AnyForm
    values: Floats  # [P]
    replicates: Floats  # [R, P], its bootstrap
    weight: float  # its share of the evidence among the forms


@dataclass(frozen=True)
class Law:
    """The forms that a study's runs do not rule out, the best first, and the noise about the best."""

    fits: tuple[Fit, ...]
    noise: Noise

    @property
    def form(self) -> AnyForm:
        return self.fits[0].form

    @property
    def values(self) -> Floats:
        """Parameters [P] of the best form."""
        return self.fits[0].values

    @property
    def replicates(self) -> Floats:
        """Bootstrap [R, P] of the best form."""
        return self.fits[0].replicates

    def predict(self, levels: Mapping[str, Floats | float]) -> Floats:
        """Losses [M] that the best form expects at levels by axis."""
        return np.asarray(self.form.predict(self.values[None], point(self.form, levels))[0])

    def samples(self, levels: Mapping[str, Floats | float]) -> Floats:
        """Losses [R, M] of replicates of all forms, of each as many as its weight says."""
        return np.concatenate(
            [one.form.predict(rows, point(one.form, levels)) for one, rows in self.rows_of_each()], axis=0
        )

    def rows_of_each(self) -> list[tuple[Fit, Floats]]:
        """Each form with the replicates that stand for it in a mixture."""
        most = max(len(one.replicates) for one in self.fits)
        counts = [max(1, round(one.weight * most)) for one in self.fits]
        return [
            (one, one.replicates[np.arange(count) % len(one.replicates)])
            for one, count in zip(self.fits, counts, strict=True)
        ]

    def band(self, levels: Mapping[str, Floats | float]) -> tuple[Floats, Floats]:
        """The 95 % confidence band [M], [M] of the law itself: bootstrap and forms, without the noise of runs."""
        return middle(self.samples(levels))

    def prediction_band(self, levels: Mapping[str, Floats | float]) -> tuple[Floats, Floats] | None:
        """Where a new run falls with 95 %, [M], [M]; None where the noise is unknown."""
        spread, freedom = self.noise.spread(1), self.noise.freedom
        bounds = [prediction_interval(losses_R, spread, freedom) for losses_R in self.samples(levels).T]
        if any(bound is None for bound in bounds):
            return None
        low, high = np.array(bounds, np.float64).T
        return low, high

    def prediction(self, levels: Mapping[str, float], seeds: int) -> tuple[float, tuple[float, float] | None]:
        """The loss at one point, and the 95 % interval of the mean of ``seeds`` new runs there."""
        losses_R = self.samples(levels)[:, 0]
        bounds = prediction_interval(losses_R, self.noise.spread(seeds), self.noise.freedom)
        return float(self.predict(levels)[0]), bounds


def fit_law(study: Study, bootstraps: int, rng: np.random.Generator, loss: str = "huber") -> Law:
    """Fit every form that the study's axes allow and weigh them; the best is the law, the others widen its intervals.

    Runs go in one by one, not as means over their seeds: each counts alike where a configuration has lost a seed,
    and Huber's loss can turn from a single bad run. The bootstrap keeps a configuration's runs together. The weights
    are those of BIC (Schwarz 1978; Raftery 1995), which sees nothing but the runs that are fitted.
    """
    count = int(study.configurations.max()) + 1
    forms = candidates(study.axes)
    smallest = min(form.size for form in forms)
    forms = [form for form in forms if form.size <= max(count - 1, smallest) and _is_told(form, study)]
    weights = _evidence(forms, study, count)
    kept = [number for number in np.argsort(-weights, kind="stable") if weights[number] >= _RULED_OUT]
    total = float(weights[kept].sum())
    fits = []
    for number in tracked(kept, f"fitting and {bootstraps} bootstraps", "forms of the law"):
        form = forms[number]
        levels = study.levels(form.axes)
        values, _ = fit(form, levels, study.losses, LOSSES[loss])
        replicates = bootstrap(form, levels, study.losses, study.configurations, LOSSES[loss], values, bootstraps, rng)
        fits.append(Fit(form, values, replicates, float(weights[number]) / total))
    best = fits[0]
    fitted_M = best.form.predict(best.values[None], study.levels(best.form.axes))[0]
    residuals = Residuals.of(np.log(study.losses / fitted_M), study.configurations)
    return Law(tuple(fits), noise(residuals, best.form.size))


def _is_told(form: AnyForm, study: Study) -> bool:
    """Whether the study has the levels for it: M4's five parameters take seven."""
    return not isinstance(form, M4) or len(study.level_values(form.axis)) >= form.size + 2


def _evidence(forms: list[AnyForm], study: Study, count: int) -> Floats:
    """Shares of the evidence: exp(-BIC / 2) of fits by squares of log L to ``count`` configurations, normalized."""
    if len(forms) == 1:
        return np.ones(1)
    mse = LOSSES["mse"]
    scores = []
    for form in forms:
        levels = study.levels(form.axes)
        values, _ = fit(form, levels, study.losses, mse)
        residuals_M = np.log(study.losses) - np.log(form.predict(values[None], levels)[0])
        means_C = Residuals.of(residuals_M, study.configurations).means
        # residuals of rounded losses are no evidence: 1e-6 is where six digits end
        variance = float((means_C**2).mean()) + 1e-12
        scores.append(count * np.log(variance) + form.size * np.log(count))
    relative = np.exp(-0.5 * (np.array(scores) - min(scores)))
    return np.asarray(relative / relative.sum())
