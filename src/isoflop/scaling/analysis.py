"""The whole analysis of a study: the law, the largest size held out and predicted, the plan, advice, the diagnostics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field, PositiveInt

from isoflop.scaling.accuracy import AccuracyOfLoss, accuracy_of_loss
from isoflop.scaling.advice import DataQuestion, NextRun, data_question, next_run
from isoflop.scaling.diagnosis import GRAVE, Diagnosis, diagnose, extrapolation, forms_disagree
from isoflop.scaling.forms import Floats, Form
from isoflop.scaling.laws import Law, fit_law
from isoflop.scaling.planning import Optimum, Planner, budgets
from isoflop.scaling.profiles import Profile, disagreement, profiles
from isoflop.scaling.runs import MIN_WIDTHS, SAME, Run, Study
from isoflop.scaling.uncertainty import floor_interval, interval

LOSS = "huber"
_LOOSE = 2.0  # high / low of a prediction's interval from which on it tests nothing


def _enough(widths: list[int]) -> list[int]:
    if len(set(widths)) < MIN_WIDTHS:
        raise ValueError(f"at least {MIN_WIDTHS} different widths, as fewer leave the law open")
    return widths


Widths = Annotated[list[PositiveInt], AfterValidator(_enough)]  # what ``sweep.widths`` must be


Bootstraps = Annotated[int, Field(ge=20)]  # what ``scaling.bootstraps`` must be
Seed = Annotated[int, Field(ge=0)]


@dataclass(frozen=True)
class Comparison:
    """Held-out runs of one configuration: what was predicted, and what came."""

    levels: dict[str, float]
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
    """The largest level of the study's first axis, predicted by a law fitted to the others; comparisons go from the
    least data and training to the most."""

    name: str
    axis: str
    level: float
    width: int | None
    law: Law
    comparisons: list[Comparison]

    def holds(self, run: Run) -> bool:
        """Whether a run is one that the law did not see."""
        return float(getattr(run, self.axis)) > self.level / SAME


@dataclass(frozen=True)
class Analysis:
    """Everything that a study says. ``law`` is fitted to all runs; ``held_out.law`` to all but the largest."""

    study: Study
    law: Law
    floor: tuple[float, float] | None  # 95 % interval of E
    planner: Planner
    held_out: HeldOut | None
    optima: dict[str, Optimum]
    profiles: list[Profile]
    data_question: DataQuestion | None
    next_run: NextRun | None
    accuracy: AccuracyOfLoss | None
    diagnoses: list[Diagnosis]

    @property
    def trusted(self) -> bool:
        """Whether nothing says that the law should not be believed at the next size."""
        return not GRAVE & {diagnosis.kind for diagnosis in self.diagnoses}


def analyse(study: Study, bootstraps: int, seed: int, loss: str = LOSS) -> Analysis:
    """Fit, hold out, predict, plan, advise and diagnostic."""
    law = fit_law(study, bootstraps, np.random.default_rng([seed, 0]), loss)
    floor = _floor(study, law)
    held_out = hold_out(study, bootstraps, np.random.default_rng([seed, 1]), loss)
    planner = Planner.of(law, study)
    plans = "parameters" in study.axes and study.data_axis in study.axes
    optima = {name: planner.optimum(flops) for name, flops in budgets(study).items()} if plans else {}
    found = read_profiles(study, bootstraps, np.random.default_rng([seed, 2]))
    diagnostics = [*diagnose(study, law, floor), *_held_out_diagnostics(study, held_out), *_plan_diagnostics(optima)]
    diagnostics += [*_profile_diagnostics(found, planner), *_form_diagnostics(study, planner)]
    return Analysis(
        study, law, floor, planner, held_out, optima, found,
        data_question(planner, study), next_run(planner, study), accuracy_of_loss(study), diagnostics,
    )  # fmt: skip


def _floor(study: Study, law: Law) -> tuple[float, float] | None:
    """E's 95 % interval: by its profile where it has one, else by the bootstrap."""
    if isinstance(law.form, Form):
        levels = study.levels(law.form.axes)
        return floor_interval(law.form, levels, study.losses, study.configurations, law.values)
    return interval(law.replicates[:, 0]) if law.noise.freedom else None


def read_profiles(study: Study, replicates: int, rng: np.random.Generator) -> list[Profile]:
    """The IsoFLOP profiles of the runs on the most data, or on data that go with the budget where passes do not."""
    if "parameters" not in study.axes or study.data_axis not in study.axes:
        return []
    most = max(study.column("unique_samples"))
    part = study.only([study.data_axis == "unique_samples" or run.unique_samples == most for run in study.runs])
    flops, sizes, samples = (part.column(name) for name in ("flops", "parameters", "seen_samples"))
    return profiles(flops, sizes, samples, part.losses, replicates, rng)


def hold_out(study: Study, bootstraps: int, rng: np.random.Generator, loss: str = LOSS) -> HeldOut | None:
    """Predict the largest level of the first axis from the others; None where too few remain to fit a law."""
    axis = study.axes[0]
    level = max(study.column(axis))
    rest = study.only([getattr(run, axis) <= level / SAME for run in study.runs])
    if not rest.runs or len(rest.level_values(axis)) < MIN_WIDTHS:
        return None
    law = fit_law(rest, bootstraps, rng, loss)
    constant = [name for name in study.axes if name not in rest.axes]
    groups: dict[tuple[float, float], list[Run]] = {}
    for run in study.runs:
        same = all(getattr(run, name) == getattr(rest.runs[0], name) for name in constant)
        if getattr(run, axis) > level / SAME and same:
            groups.setdefault((run.unique_samples, run.seen_samples), []).append(run)
    comparisons = [_comparison(law, runs) for _, runs in sorted(groups.items())]
    widths = {run.width for run in study.runs if getattr(run, axis) > level / SAME}
    name = study.size_name(level) if axis == "parameters" else f"{level:.3g} {axis.replace('_', ' ')}"
    width = widths.pop() if len(widths) == 1 else None
    return HeldOut(name, axis, level, width, law, comparisons) if comparisons else None


def _comparison(law: Law, runs: list[Run]) -> Comparison:
    losses = np.array([run.loss for run in runs], np.float64)
    names = ("parameters", "unique_samples", "seen_samples", "flops")
    levels = {name: float(getattr(runs[0], name)) for name in names}
    predicted, bounds = law.prediction(levels, len(losses))
    low, high = bounds or (None, None)
    sd = float(losses.std(ddof=1)) if len(losses) > 1 else None
    return Comparison(levels, len(losses), predicted, low, high, float(losses.mean()), sd)


def _held_out_diagnostics(study: Study, held_out: HeldOut | None) -> list[Diagnosis]:
    if held_out is None:
        count = len(study.level_values(study.axes[0]))
        noun = "sizes" if study.axes[0] == "parameters" else "levels"
        message = (
            f"nothing tested the law: {count} {noun} have runs, and holding the largest out takes {MIN_WIDTHS + 1}"
        )
        return [Diagnosis("no_held_out", message, {"levels": count})]
    last = held_out.comparisons[-1]
    diagnostics = []
    if last.covered is None:
        message = f"{held_out.name} was predicted, but too few other runs leave nothing to tell the error by"
        diagnostics.append(Diagnosis("held_out_unchecked", message))
    missed = sum(one.covered is False for one in held_out.comparisons)
    if last.low and last.high and last.high > _LOOSE * last.low:
        message = f"{held_out.name} was predicted within {last.low:.3g} to {last.high:.3g}: too wide to test the law by"
        diagnostics.append(Diagnosis("held_out_loose", message, {"ratio": last.high / last.low}))
    if last.covered is not False and missed and _unlikely(missed, len(held_out.comparisons)):
        message = (
            f"{missed} of the {len(held_out.comparisons)} configurations of {held_out.name} lie outside their intervals"
        )
        diagnostics.append(Diagnosis("held_out_missed", message, {"missed": missed}))
    if last.covered is False:
        message = (
            f"without {held_out.name} the law predicted {last.predicted:.4g} (95 % {last.low:.4g} to "
            f"{last.high:.4g}) for it, and {last.actual:.4g} came: {last.relative_error:+.1%}"
        )
        diagnostics.append(Diagnosis("held_out_missed", message, {"relative_error": last.relative_error}))
    others = [float(getattr(run, held_out.axis)) for run in study.runs if not held_out.holds(run)]
    if held_out.axis == "parameters":
        far = extrapolation(held_out.level, max(others), f"the held-out {held_out.name}")
        diagnostics += [far] if far else []
    return diagnostics


def _unlikely(missed: int, count: int) -> bool:
    """Whether so many misses of 95 % intervals are no bad luck (binomial, 5 %)."""
    from scipy.stats import binom

    return float(binom.sf(missed - 1, count, 0.05)) < 0.05


def _plan_diagnostics(optima: dict[str, Optimum]) -> list[Diagnosis]:
    outside = [name for name, best in optima.items() if best.place == "extrapolated"]
    nowhere = [name for name, best in optima.items() if best.place == "unbounded"]
    diagnostics = []
    if outside:
        message = f"the best size lies outside the study's models or data for the budgets {', '.join(outside)}"
        diagnostics.append(Diagnosis("optimum_extrapolated", message, {"budgets": len(outside)}))
    if nowhere:
        message = (
            f"the law has no best size for the budgets {', '.join(nowhere)}: one of size and samples brings no gain, "
            "or its form has no minimum along a budget"
        )
        diagnostics.append(Diagnosis("optimum_unbounded", message, {"budgets": len(nowhere)}))
    return diagnostics


def _profile_diagnostics(found: list[Profile], planner: Planner) -> list[Diagnosis]:
    diagnostics = []
    for profile in found:
        if profile.refused:
            message = f"no best size from the runs at {profile.flops:.3g} FLOPs: {profile.refused}"
            diagnostics.append(Diagnosis("profile_refused", message, {"flops": profile.flops}))
        elif said := disagreement(profile, planner.optimum(profile.flops).parameters_interval):
            diagnostics.append(Diagnosis("profile_disagrees", said, {"flops": profile.flops}))
    return diagnostics


def _form_diagnostics(study: Study, planner: Planner) -> list[Diagnosis]:
    """Whether forms disagree at four times the largest size, or data where there is one size, as far as one may go."""
    largest = max(study.runs, key=lambda run: (run.parameters, run.seen_samples))
    factor = {axis: 4.0 if axis == study.axes[0] else 1.0 for axis in ("parameters", "unique_samples", "seen_samples")}
    levels: dict[str, Floats | float] = {axis: by * float(getattr(largest, axis)) for axis, by in factor.items()}
    levels["flops"] = 4.0 * largest.flops
    diagnostic = forms_disagree(
        planner.law, levels, f"at 4 times the largest of the study's {study.axes[0].replace('_', ' ')}"
    )
    return [diagnostic] if diagnostic else []
