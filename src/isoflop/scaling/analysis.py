"""The complete analysis of a study: law, held-out prediction, compute-optimal sizes, advice and diagnostics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from isoflop.scaling.advice import DataQuestion, NextRun, data_question, next_run
from isoflop.scaling.diagnostics import (
    VOIDING,
    Diagnostic,
    diagnose,
    form_diagnostics,
    held_out_diagnostics,
    optimum_diagnostics,
    profile_diagnostics,
)
from isoflop.scaling.fitting.accuracy import AccuracyOfLoss, accuracy_of_loss
from isoflop.scaling.fitting.held_out import HeldOut, hold_out
from isoflop.scaling.fitting.irreducible import irreducible_interval
from isoflop.scaling.fitting.law_fitting import fit_law
from isoflop.scaling.fitting.laws import Law
from isoflop.scaling.fitting.objectives import objective_of
from isoflop.scaling.forms import AnyForm
from isoflop.scaling.planning import Optimum, Planner, budgets
from isoflop.scaling.profiles import Profile, profiles
from isoflop.scaling.table_checks import table_diagnostics
from isoflop.scaling.tables.runs import MIN_WIDTHS, Study

OBJECTIVE = "huber"


def _enough(widths: list[int]) -> list[int]:
    if len(set(widths)) < MIN_WIDTHS:
        raise ValueError(f"at least {MIN_WIDTHS} different widths, as fewer do not identify the law")
    return widths


Width = Annotated[int, Field(ge=1, le=65_536)]
Widths = Annotated[list[Width], Field(max_length=100), AfterValidator(_enough)]  # of ``sweep.widths``
Bootstraps = Annotated[int, Field(ge=20, le=100_000)]  # of ``scaling.bootstraps``


@dataclass(frozen=True)
class Analysis:
    """All results for a study. ``law`` is fitted to all runs, ``held_out.law`` to all but the largest."""

    study: Study
    law: Law
    irreducible: tuple[float, float] | None  # 95 % interval of E
    planner: Planner
    held_out: HeldOut | None
    optima: dict[str, Optimum]
    profiles: list[Profile]
    data_question: DataQuestion | None
    next_run: NextRun | None
    accuracy: AccuracyOfLoss | None
    diagnostics: list[Diagnostic]


def analyse(
    study: Study,
    bootstraps: int,
    seed: int,
    objective: str = OBJECTIVE,
    *,
    resampling: str = "auto",
    forms: Sequence[AnyForm] | None = None,
) -> Analysis:
    """Fit the law, predict the held-out size, find the compute-optimal sizes and collect the diagnostics.

    Args:
        bootstraps: number of bootstrap replicates.
        seed: of the replicates.
        objective: a key of ``objectives.OBJECTIVES``.
        resampling: what the bootstrap resamples: ``auto``, or one of ``resampling.RESAMPLINGS``.
        forms: the forms to choose from; by default all over the axes of the study.
    """
    first, second = (np.random.default_rng([seed, part]) for part in (0, 1))
    law = fit_law(study, bootstraps, first, objective, resampling=resampling, forms=forms)
    irreducible = _irreducible_interval(study, law, objective)
    held_out = hold_out(study, bootstraps, second, objective, resampling=resampling, forms=forms)
    planner = Planner.of(law, study)
    has_optima = "parameters" in study.axes and study.data_axis in study.axes
    optima = {name: planner.optimum(flops) for name, flops in budgets(study).items()} if has_optima else {}
    isoflop = read_profiles(study, bootstraps, np.random.default_rng([seed, 2]))
    diagnostics = [
        *table_diagnostics(study),
        *diagnose(study, law, irreducible),
        *held_out_diagnostics(study, held_out),
        *optimum_diagnostics(optima, planner),
        *profile_diagnostics(isoflop, planner),
        *form_diagnostics(study, law),
    ]
    rises = any(diagnostic.kind == "metric_rises" for diagnostic in diagnostics)  # advice to lower it makes no sense
    if VOIDING & {diagnostic.kind for diagnostic in diagnostics}:
        law = replace(law, reach=law.reach.within_runs())
        planner = replace(planner, law=law)
    return Analysis(
        study, law, irreducible, planner, held_out, optima, isoflop,
        None if rises else data_question(planner, study), None if rises else next_run(planner, study),
        accuracy_of_loss(study), diagnostics,
    )  # fmt: skip


def _irreducible_interval(study: Study, law: Law, objective: str) -> tuple[float, float] | None:
    """The 95 % interval of E; None if the noise is not identifiable."""
    if law.sampled is None or not law.noise.degrees_of_freedom:
        return None
    levels = study.levels(law.form.axes)
    return irreducible_interval(
        law.form, levels, study.losses, objective_of(objective), law.values, law.sampled, study.weights
    )


def read_profiles(study: Study, replicates: int, rng: np.random.Generator) -> list[Profile]:
    """The IsoFLOP profiles of the study: of all runs if compute buys unique samples, else of those on the most data."""
    if "parameters" not in study.axes or study.data_axis not in study.axes:
        return []
    all_runs, most = study.data_axis == "unique_samples", max(study.column("unique_samples"))
    part = study.only([all_runs or run.unique_samples == most for run in study.runs])
    flops, sizes, samples = (part.column(name) for name in ("flops", "parameters", "seen_samples"))
    return profiles(flops, sizes, samples, part.losses, replicates, rng)
