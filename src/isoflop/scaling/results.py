"""What an analysis leaves behind for people and programs: the metrics and the table of points.

``facts`` makes metrics/scaling.json, with stable names (None where there is nothing to say):

- ``form`` (as people write it), ``loss``; ``runs``, ``left_out`` (a count a reason), ``configurations``;
- ``parameters``: for each parameter of the law of all runs (E, A, alpha, ...) its ``value``, ``low`` and ``high``
  (95 %, bootstrap; E by its profile); ``forms``: what the runs do not rule out, each with its ``weight``;
- ``seed_noise`` and ``configuration_noise``: relative standard deviations of the loss;
- ``held_out``: ``name``, ``width``, and at the most data ``seeds``, ``predicted``, ``low``, ``high`` (95 % for the
  mean of its seeds), ``actual`` (their mean), ``sd``, ``relative_error`` (predicted / actual - 1), ``covered``, by a
  law that never saw that size; ``points``: the same for each configuration;
- ``optimal``: a block a budget (``smallest``, ``median``, ``largest``, ``tenfold``), see ``planning.Optimum``;
- ``profiles``: what the runs of one budget say of its best size, beside the law's interval for it;
- ``data_question``, ``next_run``: see ``advice``; ``trusted``: no diagnostic that forbids it;
- ``diagnoses``: a list of {kind, message, figures}.
"""

from __future__ import annotations

import csv
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.runtime.files import write_json
from isoflop.scaling.analysis import LOSS, Analysis, Comparison, HeldOut
from isoflop.scaling.laws import Law
from isoflop.scaling.planning import Planner
from isoflop.scaling.profiles import Profile, exponent
from isoflop.scaling.uncertainty import interval


def facts(analysis: Analysis, loss: str = LOSS) -> dict[str, Any]:
    """What metrics/scaling.json holds (see the module)."""
    law, study = analysis.law, analysis.study
    content: dict[str, Any] = {
        "form": law.form.label,
        "loss": loss,
        "runs": len(study.runs),
        "left_out": dict(sorted(study.left_out.items())),
        "configurations": len(set(study.configurations.tolist())),
        "parameters": _parameters(law, analysis.floor),
        "forms": [{"form": one.form.label, "weight": one.weight} for one in law.fits],
        "seed_noise": law.noise.seed,
        "configuration_noise": law.noise.configuration,
        "held_out": _held_out(analysis.held_out),
        "optimal": {name: asdict(best) for name, best in analysis.optima.items()},
        "profiles": [_profile(profile, analysis.planner) for profile in analysis.profiles],
        "profile_exponent": exponent(analysis.profiles),
        "data_question": asdict(analysis.data_question) if analysis.data_question else None,
        "next_run": asdict(analysis.next_run) if analysis.next_run else None,
        "trusted": analysis.trusted,
        "diagnoses": [asdict(diagnosis) for diagnosis in analysis.diagnoses],
    }
    return {name: rounded(value) for name, value in content.items()}


def write_facts(analysis: Analysis, file: Path, loss: str = LOSS) -> None:
    """metrics/scaling.json."""
    write_json(file, facts(analysis, loss))


def _parameters(law: Law, floor: tuple[float, float] | None) -> dict[str, Any]:
    content = {}
    for place, name in enumerate(law.form.names):
        low, high = interval(law.replicates[:, place]) if law.noise.freedom else (None, None)
        if name == "E":
            low, high = floor or (None, None)
        content[name] = {"value": float(law.values[place]), "low": low, "high": high}
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
    names = ("flops", "refused", "parameters", "parameters_interval", "samples", "samples_interval", "loss", "flat")
    by_law = planner.optimum(profile.flops)
    return {
        **{name: getattr(profile, name) for name in names},
        "law_parameters": by_law.parameters,
        "law_parameters_interval": by_law.parameters_interval,
    }


def rounded(value: Any) -> Any:
    """Floats to six significant digits, however deep; what is not finite becomes None, which JSON has a word for."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list | tuple) else value


def write_points(analysis: Analysis, file: Path) -> None:
    """A CSV row a run: its sizes (``body_parameters``: without embedding and head, where they are known), its loss, and
    what the law predicts that never saw the largest size.

    Where too few sizes allowed to hold one out, the law of all runs predicts.
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
            unseen = held_out is not None and held_out.holds(run)
            body = "" if run.body_parameters is None else f"{run.body_parameters:.10g}"
            rows.writerow([*sizes, body, run.seed, f"{run.loss:.6g}", f"{predicted:.6g}", str(unseen).lower()])
