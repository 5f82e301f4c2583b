"""The law's own file: everything that a forecast or a plan must know of a study, and nothing of any training since."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.scaling.accuracy import AccuracyOfLoss
from isoflop.scaling.analysis import Analysis
from isoflop.scaling.forms import form_from_json, form_to_json
from isoflop.scaling.laws import Fit, Law
from isoflop.scaling.planning import Planner, Sizes
from isoflop.scaling.uncertainty import Noise


@dataclass(frozen=True)
class KnownLaw:
    """What the file holds, read back."""

    planner: Planner
    accuracy: AccuracyOfLoss | None
    parameters_of_width: dict[int, int]
    most_unique: float  # of the study's runs; less than ``planner.all_samples`` where its fractions stop short
    trusted: bool
    diagnostics: list[str]  # kinds


def write_law(analysis: Analysis, file: Path) -> None:
    """The law of all runs with its bootstrap and its noise, and of the study what a forecast must know."""
    law, study, planner = analysis.law, analysis.study, analysis.planner
    fits = [
        {
            "form": form_to_json(one.form),
            "names": one.form.names,
            "values": _digits(one.values.tolist()),
            "replicates": [_digits(row) for row in one.replicates.tolist()],
            "weight": one.weight,
        }
        for one in law.fits
    ]
    content = {
        "fits": fits,
        "noise": asdict(law.noise),
        "sizes": asdict(planner.sizes),
        "plan": {name: value for name, value in vars(planner).items() if name not in ("law", "sizes")},
        "accuracy": asdict(analysis.accuracy) if analysis.accuracy else None,
        "parameters_of_width": {str(run.width): run.parameters for run in study.runs if run.width is not None},
        "most_unique": max(run.unique_samples for run in study.runs),
        "trusted": analysis.trusted,
        "diagnoses": [asdict(diagnosis) for diagnosis in analysis.diagnoses],
    }
    file.write_text(json.dumps(content) + "\n")


def read_law(file: Path) -> KnownLaw:
    """Read what ``write_law`` wrote.

    Raises:
        UserError: the file is missing or holds something else.
    """
    try:
        content = json.loads(file.read_text())
        law = Law(tuple(_fit(one) for one in content["fits"]), Noise(**content["noise"]))
        quadratic = content["sizes"].pop("quadratic")
        sizes = Sizes(tuple(quadratic) if quadratic else None, **content["sizes"])
        return KnownLaw(
            Planner(law, sizes, **content["plan"]),
            AccuracyOfLoss(**content["accuracy"]) if content["accuracy"] else None,
            {int(width): int(size) for width, size in content["parameters_of_width"].items()},
            float(content["most_unique"]),
            bool(content["trusted"]),
            [diagnosis["kind"] for diagnosis in content["diagnoses"]],
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise UserError(f"{file}: not a readable law ({error}); `dvc repro scaling` makes it") from None


def _fit(content: dict[str, Any]) -> Fit:
    form = form_from_json(content["form"])
    values, replicates = np.array(content["values"], np.float64), np.array(content["replicates"], np.float64)
    if values.shape != (form.size,) or replicates.shape[1:] != (form.size,) or not np.isfinite(replicates).all():
        raise ValueError(f"parameters that are not {form.size} numbers")
    return Fit(form, values, replicates, float(content["weight"]))


def _digits(values: list[float]) -> list[float]:
    # a coefficient and its exponent make up for each other: six digits would not give the same curve
    return [float(f"{value:.10g}") for value in values]
