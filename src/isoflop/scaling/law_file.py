"""Read and write law.json: the fitted law and what a forecast or a plan needs from its study, and nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.runtime.damage import check_outputs
from isoflop.runtime.errors import UserError
from isoflop.scaling.analysis import Analysis
from isoflop.scaling.fitting.accuracy import AccuracyOfLoss
from isoflop.scaling.fitting.backtests import Backtest, Discrepancy
from isoflop.scaling.fitting.laws import Fit, Law
from isoflop.scaling.fitting.reach import Reach
from isoflop.scaling.fitting.uncertainty import Noise
from isoflop.scaling.forms import form_from_json, form_to_json
from isoflop.scaling.planning import Planner, Sizes
from isoflop.scaling.results import rounded
from isoflop.scaling.without_law import read_lack

_DIGITS = 10  # of parameters: coefficients and exponents are so correlated that six digits would change the curve


@dataclass(frozen=True)
class KnownLaw:
    """The content of law.json."""

    planner: Planner
    accuracy: AccuracyOfLoss | None
    parameters_of_width: dict[int, int]
    max_unique_samples: float  # of the study's runs; below ``planner.all_samples`` if no fraction is 1
    diagnostics: list[str]  # their kinds
    metric: str = "loss"  # what the losses were made from, see ``metrics``
    metric_scale: float = 1.0  # 100 for accuracies in percent


def write_law(analysis: Analysis, file: Path) -> None:
    """Write the law of all runs, its bootstrap replicates and noise, and the ranges and diagnostics of the study."""
    file.write_text(json.dumps(law_content(analysis)) + "\n")  # compact, unlike write_json: thousands of replicates


def law_content(analysis: Analysis) -> dict[str, Any]:
    """Return the content of law.json."""
    law, study, planner = analysis.law, analysis.study, analysis.planner
    fits = [
        {
            "form": form_to_json(one.form),
            "names": one.form.names,
            "values": rounded(one.values.tolist(), _DIGITS),
            "replicates": rounded(one.replicates.tolist(), _DIGITS),
            "weight": one.weight,
        }
        for one in law.fits
    ]
    return {
        "fits": fits,
        "noise": asdict(law.noise),
        "discrepancy": {"scale": law.discrepancy.scale, "residual": law.discrepancy.residual},
        "reach": asdict(law.reach),
        "resampling": law.resampling,
        "backtests": [asdict(one) for one in law.backtests],
        "sizes": asdict(planner.sizes),
        "plan": {name: value for name, value in vars(planner).items() if name not in ("law", "sizes")},
        "accuracy": asdict(analysis.accuracy) if analysis.accuracy else None,
        "parameters_of_width": {str(run.width): run.parameters for run in study.runs if run.width is not None},
        "max_unique_samples": max(run.unique_samples for run in study.runs),
        "diagnostics": [asdict(diagnostic) for diagnostic in analysis.diagnostics],
        "metric": study.metric,
        "metric_scale": study.metric_scale,
    }


def known_law(analysis: Analysis) -> KnownLaw:
    """What law.json holds of an analysis, without a file."""
    study = analysis.study
    return KnownLaw(
        analysis.planner,
        analysis.accuracy,
        {run.width: round(run.parameters) for run in study.runs if run.width is not None},
        max(run.unique_samples for run in study.runs),
        [diagnostic.kind for diagnostic in analysis.diagnostics],
        study.metric,
        study.metric_scale,
    )


def read_law(file: Path) -> KnownLaw:
    """Read the file that ``write_law`` wrote.

    Raises:
        UserError: the file is missing or malformed, or differs from dvc.lock, or the study has no law.
    """
    check_outputs(file)
    if missing := read_lack(file):
        raise UserError(f"{file}: {missing}")
    with _explained(file):
        return _known(json.loads(file.read_text()))


def read_laws_by_size(file: Path) -> dict[int, KnownLaw]:
    """Read the law of each image size that has one; empty if the study has a single size, or no law.

    Raises:
        UserError: the file is missing or malformed, or differs from dvc.lock.
    """
    check_outputs(file)
    with _explained(file):
        content = json.loads(file.read_text())
        return {int(size): _known(law) for size, law in content.get("image_sizes", {}).items()}


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn errors about the content of law.json into UserError."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{file}: not a readable law ({error}); fix: run `dvc repro scaling`") from None


def _known(content: dict[str, Any]) -> KnownLaw:
    ranges = {axis: (float(low), float(high)) for axis, (low, high) in content["reach"]["ranges"].items()}
    reach = Reach(ranges, content["reach"]["trusted_to"])
    backtests = tuple(Backtest(**one) for one in content["backtests"])
    discrepancy = Discrepancy(**content["discrepancy"], ranges=ranges)
    fits = tuple(_fit(one) for one in content["fits"])
    law = Law(fits, Noise(**content["noise"]), discrepancy, reach, content["resampling"], backtests)
    quadratic = content["sizes"].pop("quadratic")
    sizes = Sizes(tuple(quadratic) if quadratic else None, **content["sizes"])
    return KnownLaw(
        Planner(law, sizes, **content["plan"]),
        AccuracyOfLoss(**content["accuracy"]) if content["accuracy"] else None,
        {int(width): int(size) for width, size in content["parameters_of_width"].items()},
        float(content["max_unique_samples"]),
        [diagnostic["kind"] for diagnostic in content["diagnostics"]],
        str(content["metric"]),
        float(content["metric_scale"]),
    )


def _fit(content: dict[str, Any]) -> Fit:
    form = form_from_json(content["form"])
    values, replicates = np.array(content["values"], np.float64), np.array(content["replicates"], np.float64)
    if values.shape != (form.size,) or replicates.shape[1:] != (form.size,) or not np.isfinite(replicates).all():
        raise ValueError(f"expected {form.size} finite parameters")
    return Fit(form, values, replicates, float(content["weight"]))
