"""What an analysis leaves behind: the metrics, the table of points, and the law's own file.

``facts`` makes metrics/scaling.json, flat and with stable names (None where there is nothing to say):

- ``form`` L(N, D) or L(N); ``loss``; ``runs``, ``diverged``, ``configurations``;
- ``E``, ``A``, ``B``, ``alpha``, ``beta`` of the law of all runs, each with ``_low`` and ``_high`` (95 %, bootstrap);
- ``seed_noise`` and ``configuration_noise``: relative standard deviations of the loss;
- ``held_out_width``, ``_parameters``, ``_unique_images``, ``_seeds``, ``_predicted``, ``_low``, ``_high`` (95 % for
  the mean of its seeds), ``_actual`` (their mean), ``_sd``, ``_relative_error`` (predicted / actual - 1),
  ``_covered``: at the most data, by a law that never saw that width; ``held_out_by_images``: the same a data size;
- ``optimal``: a block a budget (``smallest``, ``median``, ``largest``, ``tenfold``) with ``flops``, ``place`` (inside,
  extrapolated, unbounded), ``parameters``, ``width``, ``unique_images``, ``val_nll``, ``_low`` and ``_high``;
- ``trusted``: no doubt that forbids it; ``diagnoses``: a list of {kind, message}.
"""

from __future__ import annotations

import csv
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.scaling.analysis import LOSS, Analysis, HeldOut
from isoflop.scaling.laws import L_ND
from isoflop.scaling.planning import Optimum, Sizes
from isoflop.scaling.uncertainty import interval


def facts(analysis: Analysis) -> dict[str, Any]:
    """What metrics/scaling.json holds (see the module)."""
    law, study = analysis.law, analysis.study
    content: dict[str, Any] = {
        "form": "L(N, D)" if law.form == L_ND else "L(N)",
        "loss": LOSS,
        "runs": len(study.runs),
        "diverged": study.diverged,
        "configurations": len(set(study.configurations.tolist())),
    }
    for name in L_ND.names:
        known = name in law.form.names
        place = law.form.names.index(name) if known else 0
        low, high = interval(law.replicates[:, place])
        bounded = known and law.noise.freedom > 0
        content |= {name: float(law.values[place]) if known else None}
        content |= {f"{name}_low": low if bounded else None, f"{name}_high": high if bounded else None}
    content |= {"seed_noise": law.noise.seed, "configuration_noise": law.noise.configuration}
    content |= _held_out_facts(analysis.held_out)
    content["optimal"] = {name: _optimum_facts(best) for name, best in analysis.optima.items()}
    content |= {"trusted": analysis.trusted, "diagnoses": [asdict(diagnosis) for diagnosis in analysis.diagnoses]}
    return {name: rounded(value) for name, value in content.items()}


def write_facts(analysis: Analysis, file: Path) -> None:
    """metrics/scaling.json."""
    file.write_text(json.dumps(facts(analysis), indent=1) + "\n")


def _held_out_facts(held_out: HeldOut | None) -> dict[str, Any]:
    names = ["unique_images", "seeds", "predicted", "low", "high", "actual", "sd", "relative_error", "covered"]
    blocks = []
    for comparison in held_out.comparisons if held_out else []:
        blocks.append({name: getattr(comparison, name) for name in names})
    headline = blocks[-1] if blocks else dict.fromkeys(names)
    content: dict[str, Any] = {
        "held_out_width": held_out.width if held_out else None,
        "held_out_parameters": held_out.parameters if held_out else None,
    }
    content |= {f"held_out_{name}": value for name, value in headline.items()}
    content["held_out_by_images"] = {str(block["unique_images"]): block for block in blocks}
    return content


def _optimum_facts(best: Optimum) -> dict[str, Any]:
    size_low, size_high = best.parameters_interval or (None, None)
    loss_low, loss_high = best.val_nll_interval or (None, None)
    return {
        "flops": best.flops,
        "place": best.place,
        "parameters": best.parameters,
        "parameters_low": size_low,
        "parameters_high": size_high,
        "width": best.width,
        "unique_images": best.unique_images,
        "val_nll": best.val_nll,
        "val_nll_low": loss_low,
        "val_nll_high": loss_high,
    }


def rounded(value: Any) -> Any:
    """Floats to six significant digits, however deep; what is not finite becomes None, which JSON has a word for."""
    if isinstance(value, float):
        return float(f"{value:.6g}") if np.isfinite(value) else None
    if isinstance(value, dict):
        return {name: rounded(inner) for name, inner in value.items()}
    return [rounded(inner) for inner in value] if isinstance(value, list) else value


def write_points(analysis: Analysis, file: Path) -> None:
    """A CSV row a run: its loss, and what the law predicts that never saw the widest width.

    Where too few widths allowed to hold one out, the law of all runs predicts.
    """
    law = analysis.held_out.law if analysis.held_out else analysis.law
    predicted_M = law.predict(analysis.study.levels(law.form.axes))
    with file.open("w", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["parameters", "unique_images", "seed", "val_nll", "predicted", "held_out"])
        for run, predicted in zip(analysis.study.runs, predicted_M, strict=True):
            held_out = analysis.held_out is not None and run.width == analysis.held_out.width
            losses = (f"{run.val_nll:.6g}", f"{predicted:.6g}")
            rows.writerow([run.parameters, run.unique_images, run.seed, *losses, str(held_out).lower()])


def write_law(analysis: Analysis, file: Path) -> None:
    """The law of all runs with its bootstrap and its noise, and of the study what a forecast must know."""
    law, study = analysis.law, analysis.study
    sizes = Sizes.of(study)
    content = {
        "axes": list(law.form.axes),
        "names": law.form.names,
        "values": _digits(law.values.tolist()),
        "replicates": [_digits(row) for row in law.replicates.tolist()],
        "noise": asdict(law.noise),
        "quadratic": list(sizes.quadratic),
        "flops_per_image": {"cost": sizes.cost, "growth": sizes.growth},
        "parameters_of_width": {str(run.width): run.parameters for run in study.runs},
        "unique_images": sorted({run.unique_images for run in study.runs}),
        "all_images": study.all_images,
        "epochs": max(run.epochs for run in study.runs),
        "trusted": analysis.trusted,
        "diagnoses": [asdict(diagnosis) for diagnosis in analysis.diagnoses],
    }
    file.write_text(json.dumps(content) + "\n")


def _digits(values: list[float]) -> list[float]:
    # a coefficient and its exponent make up for each other: six digits would not give the same curve
    return [float(f"{value:.10g}") for value in values]
