"""Write an analysis for users and programs: scaling/scaling.json and the CSV of runs.

``facts`` builds scaling/scaling.json. Its keys are stable; a value is None if it does not exist:

- ``lacks``: None, or, for a study without a law, its ``reason`` and a ``command`` that would change it;
- ``form`` (formula), ``objective`` and its value ``objective_value``; ``runs``, ``excluded`` (number by reason),
  ``configurations``;
- ``parameters``: ``value``, ``low`` and ``high`` of each parameter of the law of all runs (E, A, alpha, ...), with 95 %
  bootstrap intervals (E: profile interval); ``forms``: the forms that are not ruled out, each with its BIC ``weight``;
- ``seed_noise`` and ``configuration_noise``: relative standard deviations of the loss between seeds, and of the law's
  misfit beyond them;
- ``held_out``: ``name``, ``width``, and for the configuration with the most data ``seeds``, ``predicted``, ``low`` and
  ``high`` (95 % prediction interval of the mean over seeds), ``actual`` (measured mean), ``sd``, ``relative_error``
  (predicted / actual - 1) and ``covered``, by a law that was not fitted to that size; ``points``: the same for each
  configuration;
- ``optimal``: a ``planning.Optimum`` for each budget (``smallest``, ``median``, ``largest``, ``tenfold``);
- ``profiles``: the compute-optimal size of each budget by its IsoFLOP profile, with that of the law; their
  ``profile_exponent`` a of N* ∝ C^a; ``exponents``: a and b (of S* ∝ C^b) by the law and by the profiles, each with
  ``value``, ``low`` and ``high``;
- ``dropped``: the rows of a table that were left out, with the reason; ``metric``: what its losses were made from;
  ``unit``: what its samples are called;
- ``data_question``, ``next_run``: see ``advice``;
- ``resampling``: what the bootstrap resampled; ``discrepancy``: the scale of the law's own error, see
  ``backtests.Discrepancy``;
- ``trusted_to``: for each axis, the factor beyond the runs to which backtests held (1: nothing beyond the runs);
  ``backtests``: what each held out, at which factor, with its error and whether it held;
- ``diagnostics``: a list of {kind, message, values}.
"""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.runtime.files import write_json
from isoflop.scaling.analysis import OBJECTIVE, Analysis
from isoflop.scaling.exponents import exponents
from isoflop.scaling.fitting.held_out import Comparison, HeldOut
from isoflop.scaling.fitting.laws import Law
from isoflop.scaling.fitting.objectives import objective_of
from isoflop.scaling.fitting.one_form import objective_values
from isoflop.scaling.fitting.uncertainty import interval
from isoflop.scaling.planning import Planner
from isoflop.scaling.profiles import Profile, exponent
from isoflop.scaling.tables.runs import Study


def facts(analysis: Analysis, objective: str = OBJECTIVE) -> dict[str, Any]:
    """The content of scaling/scaling.json, see the module's docstring."""
    law, study = analysis.law, analysis.study
    content: dict[str, Any] = {
        "lacks": None,
        "form": law.form.label,
        "objective": objective,
        "objective_value": _objective_value(law, study, objective),
        "runs": len(study.runs),
        "excluded": dict(sorted(study.excluded.items())),
        "dropped": [{"row": row, "reason": reason} for row, reason in study.dropped],
        "metric": study.metric,
        "unit": study.unit,
        "configurations": len(set(study.configurations.tolist())),
        "parameters": _parameters(law, analysis.irreducible),
        "forms": [{"form": one.form.label, "weight": one.weight} for one in law.fits],
        "seed_noise": law.noise.seed,
        "configuration_noise": law.noise.configuration,
        "held_out": _held_out(analysis.held_out),
        "optimal": {name: asdict(best) for name, best in analysis.optima.items()},
        "profiles": [_profile(profile, analysis.planner) for profile in analysis.profiles],
        "profile_exponent": exponent(analysis.profiles),
        "exponents": exponents(analysis.planner, analysis.profiles),
        "data_question": asdict(analysis.data_question) if analysis.data_question else None,
        "next_run": asdict(analysis.next_run) if analysis.next_run else None,
        "resampling": law.resampling,
        "discrepancy": law.discrepancy.scale,
        "trusted_to": dict(law.reach.trusted_to),
        "backtests": [asdict(one) for one in law.backtests],
        "diagnostics": [asdict(diagnostic) for diagnostic in analysis.diagnostics],
    }
    return {name: rounded(value) for name, value in content.items()}


def _objective_value(law: Law, study: Study, objective: str) -> float:
    """The objective of the law of all runs, as in ``fitting.fit``: a sum over the runs."""
    levels, weights = study.levels(law.form.axes), study.weights
    values_RP, losses_RM = law.values[None], study.losses[None]
    return float(objective_values(law.form, values_RP, levels, losses_RM, objective_of(objective), weights)[0])


def write_facts(analysis: Analysis, file: Path, objective: str = OBJECTIVE) -> None:
    """Write scaling/scaling.json."""
    write_json(file, facts(analysis, objective))


def _parameters(law: Law, irreducible: tuple[float, float] | None) -> dict[str, Any]:
    content = {}
    for index, name in enumerate(law.form.names):
        low, high = interval(law.replicates[:, index]) if law.noise.degrees_of_freedom else (None, None)
        if name == "E":
            low, high = irreducible or (None, None)
        content[name] = {"value": float(law.values[index]), "low": low, "high": high}
    return content


def _held_out(held_out: HeldOut | None) -> dict[str, Any] | None:
    if held_out is None:
        return None
    points = [_compared(comparison) for comparison in held_out.comparisons]
    return {"name": held_out.name, "width": held_out.width, **points[-1], "points": points}


def _compared(comparison: Comparison) -> dict[str, Any]:
    names = ("seeds", "predicted", "low", "high", "actual", "sd", "relative_error", "covered")
    return {**comparison.levels, **{name: getattr(comparison, name) for name in names}}


def _profile(profile: Profile, planner: Planner) -> dict[str, Any]:
    names = ("flops", "rejected", "parameters", "parameters_interval", "samples", "samples_interval", "loss", "flat")
    by_law = planner.optimum(profile.flops)
    return {
        **{name: getattr(profile, name) for name in names},
        "law_parameters": by_law.parameters,
        "law_parameters_interval": by_law.parameters_interval,
    }


def rounded(value: Any, digits: int = 6) -> Any:
    """Round all floats in a nested value to ``digits`` significant digits; non-finite ones become None, for JSON."""
    if isinstance(value, float):
        return float(f"{value:.{digits}g}") if np.isfinite(value) else None
    if isinstance(value, dict):
        return {name: rounded(inner, digits) for name, inner in value.items()}
    return [rounded(inner, digits) for inner in value] if isinstance(value, list | tuple) else value


def write_points(analysis: Analysis, file: Path) -> None:
    """Write a CSV with one row per run: sizes, measured loss and the loss predicted by the held-out law.

    Without a held-out level, the law of all runs predicts. ``body_parameters`` exclude embedding and head and are empty
    if unknown.
    """
    held_out = analysis.held_out
    law = held_out.law if held_out else analysis.law
    axes = ("parameters", "unique_samples", "seen_samples", "flops")
    predicted_M = law.predict({axis: analysis.study.column(axis) for axis in axes})
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow([*axes, "body_parameters", "seed", "loss", "predicted", "held_out"])
        for run, predicted in zip(analysis.study.runs, predicted_M, strict=True):
            sizes = [f"{getattr(run, axis):.10g}" for axis in axes]
            is_held_out = held_out is not None and held_out.includes(run)
            body = "" if run.body_parameters is None else f"{run.body_parameters:.10g}"
            rows.writerow([*sizes, body, run.seed, f"{run.loss:.6g}", f"{predicted:.6g}", str(is_held_out).lower()])
