"""Forecast loss and accuracy of a width from the law alone, and score the forecast after the training.

``scaling/forecast.json`` holds the forecast for ``train.width`` at its top level and those for ``scaling.predict`` in
``widths``. A forecast: ``width``, ``in_study``, ``parameters``, ``unique_samples`` (the full training split),
``epochs``, ``val_nll`` with ``low`` and ``high`` (95 % prediction interval of one run; None if the noise is not
identifiable), ``val_accuracy`` with ``val_accuracy_low`` and ``_high``, ``extrapolation`` (parameters / the study's
largest model), ``trusted`` (whether backtests held at that distance), and ``flags``: the kinds of the diagnostics of
the law and of this forecast. If the study has no law, all predictions are None.

``scaling/score.json`` compares it with the training: ``predicted``, ``low``, ``high``, ``actual`` (measured),
``relative_error`` (predicted / actual - 1) and ``inside`` (the interval), and the same for the accuracy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.scaling.diagnostics import extrapolation
from isoflop.scaling.law_file import KnownLaw, read_law
from isoflop.scaling.results import rounded
from isoflop.scaling.without_law import forecast_without_law, read_lack

_SAME = 1.01  # up to this factor above the study's maximum, samples do not count as extrapolated


def forecast(law_file: Path, width: int, others: Sequence[int], epochs: int) -> dict[str, Any]:
    """Forecast ``width`` and each of ``others``, trained for ``epochs`` on the full training split.

    If all runs of the study have the same number of epochs, the law does not depend on training length and the
    forecast is for that number.

    Raises:
        UserError: the law's file is missing or malformed, or the number of parameters of a width is unknown.
    """
    if read_lack(law_file):
        return forecast_without_law(width)
    law = read_law(law_file)
    forecasts = [_forecast(law, one, epochs, key) for one, key in
              [(width, "train.width"), *((other, "scaling.predict") for other in others)]]  # fmt: skip
    names = ("width", "parameters", "val_nll", "low", "high", "val_accuracy", "val_accuracy_low",
             "val_accuracy_high", "extrapolation", "trusted")  # fmt: skip
    listed = {str(one["width"]): {name: one[name] for name in names} for one in forecasts[1:]}
    return {name: rounded(value) for name, value in {**forecasts[0], "widths": listed}.items()}


def _forecast(known: KnownLaw, width: int, epochs: int, key: str) -> dict[str, Any]:
    planner = known.planner
    law, sizes = planner.law, planner.sizes
    in_study = width in known.parameters_of_width
    parameters = known.parameters_of_width[width] if in_study else sizes.parameters(width)
    if not parameters >= 1:
        raise UserError(
            f"{key}: got {width}, expected a width whose number of parameters follows from the study's widths "
            f"{sorted(known.parameters_of_width)}"
        )
    parameters = round(parameters)
    varies_epochs = "seen_samples" in law.form.axes
    law_epochs = float(epochs) if varies_epochs else planner.epochs
    seen = law_epochs * planner.all_samples
    levels = {"parameters": float(parameters), "unique_samples": planner.all_samples, "seen_samples": seen,
              "flops": sizes.flops(parameters, seen)}  # fmt: skip
    predicted, bounds = law.prediction(levels, seeds=1)
    low, high = bounds or (None, None)
    flags = [kind for kind in known.diagnostics if kind not in ("extrapolation", "optimum_extrapolated")]
    largest = max(known.parameters_of_width.values())
    diagnostic = extrapolation(parameters, largest, f"width {width}")
    flags += [diagnostic.kind] if diagnostic else []
    if planner.all_samples > _SAME * known.max_unique_samples:
        flags.append("more_samples_than_studied")
    longest = planner.most_samples if varies_epochs else planner.epochs * planner.all_samples
    if epochs * planner.all_samples > _SAME * longest:
        flags.append("longer_than_studied")
    return {
        "width": width,
        "in_study": in_study,
        "parameters": parameters,
        "unique_samples": planner.all_samples,
        "epochs": law_epochs,
        "val_nll": predicted,
        "low": low,
        "high": high,
        **_accuracy(known, levels, predicted),
        "extrapolation": parameters / largest,
        "trusted": bool(law.reach.trusts(levels)[0]),
        "flags": flags,
    }


def _accuracy(known: KnownLaw, levels: dict[str, float], predicted: float) -> dict[str, float | None]:
    names = ("val_accuracy", "val_accuracy_low", "val_accuracy_high")
    if known.accuracy is None:
        return dict.fromkeys(names)
    law = known.planner.law
    low, high = known.accuracy.interval(law.replicate_losses(levels)[:, 0], law.noise, seeds=1) or (None, None)
    return dict(zip(names, (float(known.accuracy.accuracy(np.array(predicted))), low, high), strict=True))


def score(forecast: dict[str, Any], train: dict[str, Any]) -> dict[str, Any]:
    """Compare the forecast for ``train.width`` with the results of its training (metrics/train.json)."""
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
