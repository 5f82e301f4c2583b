"""The loss that the law expects at a width, written down before anything of that width is trained.

``metrics/forecast.json``: ``width``, ``in_study``, ``parameters``, ``unique_images`` (the full training split),
``epochs`` (of the study's runs: the forecast is for a run like those), ``val_nll``, ``low`` and ``high`` (95 % for one
run; None where the noise is unknown), ``extrapolation`` (parameters / the study's largest), ``trusted``, and
``flags``: the kinds of the law's doubts and of this forecast's own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.errors import UserError
from isoflop.scaling.analysis import Law
from isoflop.scaling.diagnosis import extrapolation
from isoflop.scaling.laws import Form
from isoflop.scaling.planning import Sizes
from isoflop.scaling.results import rounded
from isoflop.scaling.uncertainty import Noise


def forecast(law_file: Path, width: int) -> dict[str, Any]:
    """What to expect of ``width`` on the full training split.

    Raises:
        UserError: the law's file is missing or is none, or no network of that width follows from the study's.
    """
    law, content = _read(law_file)
    known = {int(name): int(size) for name, size in content["parameters_of_width"].items()}
    sizes = Sizes(tuple(content["quadratic"]), **content["flops_per_image"])
    parameters = known.get(width, round(sizes.parameters(width)))
    if parameters < 1:
        raise UserError(
            f"train.width: found {width}, expected one whose size follows from the study's widths {list(known)}"
        )
    expected, bounds = law.prediction(law.form.point(parameters, content["all_images"]), seeds=1)
    low, high = bounds or (None, None)
    doubt = extrapolation(parameters, max(known.values()), f"width {width}")
    flags = [diagnosis["kind"] for diagnosis in content["diagnoses"] if diagnosis["kind"] != "extrapolation"]
    if content["all_images"] > 1.01 * content["unique_images"][-1]:  # the fractions stop short of the whole split
        flags.append("more_images_than_studied")
    values = {
        "width": width,
        "in_study": width in known,
        "parameters": parameters,
        "unique_images": content["all_images"],
        "epochs": content["epochs"],
        "val_nll": expected,
        "low": low,
        "high": high,
        "extrapolation": parameters / max(known.values()),
        "trusted": content["trusted"] and doubt is None,
        "flags": [*flags, *([doubt.kind] if doubt else [])],
    }
    return {name: rounded(value) for name, value in values.items()}


def _read(file: Path) -> tuple[Law, dict[str, Any]]:
    try:
        content = json.loads(file.read_text())
        values, replicates = np.array(content["values"]), np.array(content["replicates"])
        return Law(Form(tuple(content["axes"])), values, replicates, Noise(**content["noise"])), content
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: not a readable law ({error}); `dvc checkout` restores it") from None
