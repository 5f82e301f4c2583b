"""The whole analysis of a study: the law, the widest width held out and predicted, the plan, the doubts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field, PositiveInt

from isoflop.params import Section
from isoflop.scaling.diagnosis import Diagnosis, diagnose, extrapolation
from isoflop.scaling.fitting import LOSSES, fit
from isoflop.scaling.laws import L_N, L_ND, Floats, Form
from isoflop.scaling.planning import Optimum, budgets, plan
from isoflop.scaling.runs import MIN_WIDTHS, Study
from isoflop.scaling.uncertainty import Noise, Residuals, bootstrap, noise, prediction_interval

LOSS = "huber"


def _enough(widths: list[int]) -> list[int]:
    if len(set(widths)) < MIN_WIDTHS:
        raise ValueError(f"at least {MIN_WIDTHS} different widths, as fewer leave the law open")
    return widths


Widths = Annotated[list[PositiveInt], AfterValidator(_enough)]  # what ``sweep.widths`` must be


class Scaling(Section):
    """Section ``scaling`` of params.yaml."""

    bootstraps: int = Field(ge=20)
    seed: int = Field(ge=0)


@dataclass(frozen=True)
class Law:
    """A law fitted to a study, its bootstrap and the noise about it."""

    form: Form
    values: Floats  # [P]
    replicates: Floats  # [R, P]
    noise: Noise

    def predict(self, levels: Floats) -> Floats:
        """Losses [M] at levels [K, M] of the form's axes."""
        return np.asarray(self.form.predict(self.values[None], levels)[0])

    def band(self, levels: Floats) -> tuple[Floats, Floats]:
        """The 95 % confidence band [M], [M] of the law itself, without the noise of runs."""
        low, high = np.quantile(self.form.predict(self.replicates, levels), [0.025, 0.975], axis=0)
        return low, high

    def prediction(self, level_K: Floats, seeds: int) -> tuple[float, tuple[float, float] | None]:
        """The loss at one point, and the 95 % interval of the mean of ``seeds`` new runs there."""
        levels = level_K[:, None]
        losses_R = self.form.predict(self.replicates, levels)[:, 0]
        spread = self.noise.spread(seeds)
        return float(self.predict(levels)[0]), prediction_interval(losses_R, spread, self.noise.freedom)


@dataclass(frozen=True)
class Comparison:
    """Held-out runs at one data size: what was predicted, and what came."""

    unique_images: int
    seeds: int
    predicted: float
    low: float | None
    high: float | None
    actual: float
    sd: float | None

    @property
    def relative_error(self) -> float:
        return self.predicted / self.actual - 1

    @property
    def covered(self) -> bool | None:
        return None if self.low is None or self.high is None else self.low <= self.actual <= self.high


@dataclass(frozen=True)
class HeldOut:
    """The widest width, predicted by a law fitted to the others; comparisons go from the least data to the most."""

    width: int
    parameters: int
    law: Law
    comparisons: list[Comparison]


@dataclass(frozen=True)
class Analysis:
    """Everything that a study says. ``law`` is fitted to all runs; ``held_out.law`` to all but the widest width."""

    study: Study
    law: Law
    held_out: HeldOut | None
    optima: dict[str, Optimum]
    diagnoses: list[Diagnosis]

    @property
    def trusted(self) -> bool:
        """Whether nothing says that the law should not be believed at the next size."""
        grave = {
            "floor_at_zero",
            "held_out_missed",
            "held_out_unchecked",
            "no_held_out",
            "lack_of_fit",
            "no_noise_estimate",
        }
        return not grave & {diagnosis.kind for diagnosis in self.diagnoses}


def analyse(study: Study, bootstraps: int, seed: int) -> Analysis:
    """Fit, hold out, predict, plan and doubt."""
    law = fit_law(study, bootstraps, np.random.default_rng([seed, 0]))
    held_out = hold_out(study, bootstraps, np.random.default_rng([seed, 1]))
    optima = {}
    if law.form == L_ND:
        flops = budgets(study)
        optima = dict(zip(flops, plan(law.values, law.replicates, study, list(flops.values())), strict=True))
    doubts = diagnose(study, law.form, law.values, law.replicates, law.noise)
    doubts += [*_held_out_doubts(study, held_out), *_plan_doubts(optima)]
    return Analysis(study, law, held_out, optima, doubts)


def fit_law(study: Study, bootstraps: int, rng: np.random.Generator) -> Law:
    """L(N, D) fitted to single runs, or L(N) where all have the same data.

    Runs go in one by one, not as means over their seeds: each counts alike where a configuration has lost a seed,
    and Huber's loss can turn from a single bad run. The bootstrap keeps a configuration's runs together.
    """
    form = L_ND if len(study.fractions) > 1 else L_N
    levels, losses, loss = study.levels(form.axes), study.losses, LOSSES[LOSS]
    values, _ = fit(form, levels, losses, loss)
    residuals = np.log(losses) - np.log(form.predict(values[None], levels)[0])
    spread = noise(Residuals.of(residuals, study.configurations), form.size)
    replicates = bootstrap(form, levels, losses, study.configurations, loss, values, bootstraps, rng)
    return Law(form, values, replicates, spread)


def hold_out(study: Study, bootstraps: int, rng: np.random.Generator) -> HeldOut | None:
    """Predict the widest width from the others; None where too few others remain to fit a law."""
    widest = study.widths[-1]
    rest = study.only([run.width != widest for run in study.runs])
    if len(rest.widths) < MIN_WIDTHS:
        return None
    law = fit_law(rest, bootstraps, rng)
    runs = [run for run in study.runs if run.width == widest]
    comparisons = []
    for images in sorted({run.unique_images for run in runs}):
        if law.form == L_N and images != rest.runs[0].unique_images:
            continue
        losses = np.array([run.val_nll for run in runs if run.unique_images == images], np.float64)
        level_K = law.form.point(runs[0].parameters, images)
        predicted, bounds = law.prediction(level_K, len(losses))
        low, high = bounds or (None, None)
        sd = float(losses.std(ddof=1)) if len(losses) > 1 else None
        comparisons.append(Comparison(images, len(losses), predicted, low, high, float(losses.mean()), sd))
    return HeldOut(widest, runs[0].parameters, law, comparisons) if comparisons else None


def _held_out_doubts(study: Study, held_out: HeldOut | None) -> list[Diagnosis]:
    if held_out is None:
        message = (
            f"nothing tested the law: {len(study.widths)} widths have runs, and holding the widest out takes "
            f"{MIN_WIDTHS + 1}"
        )
        return [Diagnosis("no_held_out", message)]
    last = held_out.comparisons[-1]
    doubts = []
    if last.covered is None:
        message = f"width {held_out.width} was predicted, but too few other runs leave nothing to tell the error by"
        doubts.append(Diagnosis("held_out_unchecked", message))
    if last.covered is False:
        message = (
            f"without width {held_out.width} the law predicted {last.predicted:.4g} (95 % {last.low:.4g} to "
            f"{last.high:.4g}) for it, and {last.actual:.4g} came: {last.relative_error:+.1%}"
        )
        doubts.append(Diagnosis("held_out_missed", message))
    largest = max(run.parameters for run in study.runs if run.width != held_out.width)
    far = extrapolation(held_out.parameters, largest, f"the held-out width {held_out.width}")
    return [*doubts, far] if far else doubts


def _plan_doubts(optima: dict[str, Optimum]) -> list[Diagnosis]:
    outside = [name for name, best in optima.items() if best.place == "extrapolated"]
    nowhere = [name for name, best in optima.items() if best.place == "unbounded"]
    doubts = []
    if outside:
        message = f"the best size lies outside the study's models or data for the budgets {', '.join(outside)}"
        doubts.append(Diagnosis("optimum_extrapolated", message))
    if nowhere:
        message = f"the law has no best size for the budgets {', '.join(nowhere)}: one of N and D brings no gain"
        doubts.append(Diagnosis("optimum_unbounded", message))
    return doubts
