"""The loss and the accuracy that the law expects of a width, written down before anything of that width is trained.

``metrics/forecast.json`` holds a block for ``train.width``, flat, and ``widths``: the same for each of
``scaling.predict``. A block: ``width``, ``in_study``, ``parameters``, ``unique_samples`` (the full training split),
``epochs``, ``val_nll``, ``low`` and ``high`` (95 % for one run; None where the noise is unknown), ``val_accuracy``
with ``val_accuracy_low`` and ``_high``, ``extrapolation`` (parameters / the study's largest), ``trusted``, and
``flags``: the kinds of the law's diagnostics and of this forecast's own.

``metrics/score.json`` is what came of it: ``predicted``, ``low``, ``high``, ``actual``, ``relative_error`` (predicted
/ actual - 1) and ``inside``, and the same of the accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.scaling.diagnosis import extrapolation
from isoflop.scaling.law_files import KnownLaw, read_law
from isoflop.scaling.results import rounded

_SAME = 1.01  # samples within this factor of the study's most are no extrapolation


def forecast(law_file: Path, width: int, others: Sequence[int], epochs: int) -> dict[str, Any]:
    """What to expect of ``width`` and of each of ``others``, trained for ``epochs`` on the full training split.

    Where the study trained all its runs for as long, the law knows nothing of time and the forecast is for a run as
    long as those.

    Raises:
        UserError: the law's file is missing or is none, or no network of a width follows from the study's.
    """
    law = read_law(law_file)
    blocks = [_forecast(law, one, epochs, key) for one, key in
              [(width, "train.width"), *((other, "scaling.predict") for other in others)]]  # fmt: skip
    names = ("width", "parameters", "val_nll", "low", "high", "val_accuracy", "val_accuracy_low",
             "val_accuracy_high", "extrapolation", "trusted")  # fmt: skip
    listed = {str(block["width"]): {name: block[name] for name in names} for block in blocks[1:]}
    return {name: rounded(value) for name, value in {**blocks[0], "widths": listed}.items()}


def _forecast(known: KnownLaw, width: int, epochs: int, key: str) -> dict[str, Any]:
    planner = known.planner
    law, sizes = planner.law, planner.sizes
    in_study = width in known.parameters_of_width
    parameters = known.parameters_of_width[width] if in_study else sizes.parameters(width)
    if not parameters >= 1:
        raise UserError(
            f"{key}: found {width}, expected one whose size follows from the study's widths "
            f"{sorted(known.parameters_of_width)}"
        )
    parameters = round(parameters)
    knows_time = "seen_samples" in law.form.axes
    passes = float(epochs) if knows_time else planner.epochs
    seen = passes * planner.all_samples
    levels = {"parameters": float(parameters), "unique_samples": planner.all_samples, "seen_samples": seen,
              "flops": sizes.flops(parameters, seen)}  # fmt: skip
    expected, bounds = law.prediction(levels, seeds=1)
    low, high = bounds or (None, None)
    flags = [kind for kind in known.diagnostics if kind not in ("extrapolation", "optimum_extrapolated")]
    largest = max(known.parameters_of_width.values())
    diagnostic = extrapolation(parameters, largest, f"width {width}")
    flags += [diagnostic.kind] if diagnostic else []
    if planner.all_samples > _SAME * known.most_unique:  # the fractions stop short of the whole split
        flags.append("more_samples_than_studied")
    longest = planner.most_samples if knows_time else planner.epochs * planner.all_samples
    if epochs * planner.all_samples > _SAME * longest:
        flags.append("longer_than_studied")
    return {
        "width": width,
        "in_study": in_study,
        "parameters": parameters,
        "unique_samples": planner.all_samples,
        "epochs": passes,
        "val_nll": expected,
        "low": low,
        "high": high,
        **_accuracy(known, levels, expected),
        "extrapolation": parameters / largest,
        "trusted": known.trusted and diagnostic is None,
        "flags": flags,
    }


def _accuracy(known: KnownLaw, levels: dict[str, float], expected: float) -> dict[str, float | None]:
    names = ("val_accuracy", "val_accuracy_low", "val_accuracy_high")
    if known.accuracy is None:
        return dict.fromkeys(names)
    law = known.planner.law
    low, high = known.accuracy.interval(law.samples(levels)[:, 0], law.noise, seeds=1) or (None, None)
    return dict(zip(names, (float(known.accuracy.accuracy(np.array(expected))), low, high), strict=True))


def score(forecast: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
    """The forecast of ``train.width`` beside what its training came to (metrics/train.json)."""
    content: dict[str, Any] = {
        "width": forecast["width"],
        "epochs": train["epochs"],
        "forecast_epochs": forecast["epochs"],
    }
    for name, low, high, prefix in (
        ("val_nll", "low", "high", ""),
        ("val_accuracy", "val_accuracy_low", "val_accuracy_high", "accuracy_"),
    ):
        predicted, actual, bounds = forecast[name], train[name], (forecast[low], forecast[high])
        inside = None if None in bounds else bool(bounds[0] <= actual <= bounds[1])
        error = predicted / actual - 1 if predicted is not None and actual else None
        values = (predicted, *bounds, actual, error, inside)
        names = ("predicted", "low", "high", "actual", "relative_error", "inside")
        content |= {prefix + label: rounded(value) for label, value in zip(names, values, strict=True)}
    return content
