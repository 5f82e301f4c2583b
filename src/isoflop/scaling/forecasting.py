"""Forecast loss, accuracy and shipped file of a width from the study alone, and score the forecast after the training.

``scaling/forecast.json`` holds the forecast for ``train.width`` at its top level and those for ``scaling.predict`` in
``widths``. A forecast: ``width``, ``in_study``, ``parameters``, ``unique_samples`` (the full training split),
``epochs``, ``val_nll`` with ``low`` and ``high`` (95 % prediction interval of one run; None if the noise is not
identifiable), ``val_accuracy`` with ``val_accuracy_low`` and ``_high``, ``extrapolation`` (parameters / the study's
largest model), ``trusted`` (whether backtests held at that distance), and ``flags``: the kinds of the diagnostics of
the law and of this forecast. ``formats`` has a block ``float`` and ``int8`` each, with ``bytes``, ``latency_ms``,
``val_nll`` and ``val_accuracy`` as ``predicted``, ``low`` and ``high``. If the study has no law, all predictions are
None.

``scaling/score.json`` compares it with the training: ``predicted``, ``low``, ``high``, ``actual`` (measured),
``relative_error`` (predicted / actual - 1) and ``inside`` (the interval), and the same for the accuracy. Its
``formats`` compares both files of the base. ``shipped`` names the variant in ship/ and states in ``held`` whether
bytes, latency and accuracy were inside their intervals; None for a variant that no forecast covers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.scaling.diagnostics import extrapolation
from isoflop.scaling.formats import BASE_FILES, FORMATS, Band, Format, Formats, read_formats
from isoflop.scaling.law_file import KnownLaw, read_law
from isoflop.scaling.results import rounded
from isoflop.scaling.without_law import forecast_without_law, read_lack

_SAME = 1.01  # up to this factor above the study's maximum, samples do not count as extrapolated


def forecast(
    law_file: Path, formats_file: Path, width: int, others: Sequence[int], epochs: int, fraction: float = 1.0
) -> dict[str, Any]:
    """Forecast ``width`` and each of ``others``, trained for ``epochs`` on a fraction of the training split.

    If all runs of the study have the same number of epochs, the law does not depend on training length and the
    forecast is for that number.

    Raises:
        UserError: a file is missing or malformed, or the number of parameters of a width is unknown.
    """
    if read_lack(law_file):
        return forecast_without_law(width)
    law, formats = read_law(law_file), read_formats(formats_file)
    wanted = [(width, "train.width"), *((other, "scaling.predict") for other in others)]
    forecasts = []
    for one, key in wanted:
        found = training_forecast(law, one, epochs, fraction, key)
        shipped = {form: formats and format_forecast(formats, form, one, found) for form in FORMATS}
        forecasts.append(found | {"formats": shipped})
    names = ("width", "parameters", "val_nll", "low", "high", "val_accuracy", "val_accuracy_low",
             "val_accuracy_high", "extrapolation", "trusted", "formats")  # fmt: skip
    listed = {str(one["width"]): {name: one[name] for name in names} for one in forecasts[1:]}
    return {name: rounded(value) for name, value in {**forecasts[0], "widths": listed}.items()}


def format_forecast(formats: Formats, form: Format, width: int, found: Mapping[str, Any]) -> dict[str, Any]:
    """Bytes, latency, NLL and accuracy of the file of a width, whose training was forecast as ``found``."""
    at = np.array([float(width)])
    bands = {"bytes": formats.size(form, at), "latency_ms": formats.latency(form, at)}
    for name, ends in (("val_nll", ("low", "high")), ("val_accuracy", ("val_accuracy_low", "val_accuracy_high"))):
        values = [np.array([np.nan if found[one] is None else found[one]]) for one in (name, *ends)]
        trained = Band(*values)
        if form == "float":
            bands[name] = trained
        elif name == "val_accuracy":
            changed = trained.plus(formats.int8_accuracy(at))
            bands[name] = Band(*(np.clip(value, 0.0, 1.0) for value in (changed.predicted, changed.low, changed.high)))
        else:
            logs = Band(*(np.log(value) for value in values)).plus(formats.int8_log_nll(at))
            bands[name] = Band(*(np.exp(value) for value in (logs.predicted, logs.low, logs.high)))
    return {name: band.facts() for name, band in bands.items()}


def training_forecast(known: KnownLaw, width: int, epochs: int, fraction: float, key: str) -> dict[str, Any]:
    """The forecast for one training, without its files; ``key`` names the width in an error.

    Raises:
        UserError: the number of parameters of the width is unknown.
    """
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
    samples = fraction * planner.all_samples
    seen = law_epochs * samples
    levels = {"parameters": float(parameters), "unique_samples": samples, "seen_samples": seen,
              "flops": sizes.flops(parameters, seen)}  # fmt: skip
    predicted, bounds = law.prediction(levels, seeds=1)
    low, high = bounds or (None, None)
    flags = [kind for kind in known.diagnostics if kind not in ("extrapolation", "optimum_extrapolated")]
    largest = max(known.parameters_of_width.values())
    diagnostic = extrapolation(parameters, largest, f"width {width}")
    flags += [diagnostic.kind] if diagnostic else []
    if samples > _SAME * known.max_unique_samples:
        flags.append("more_samples_than_studied")
    longest = planner.most_samples if varies_epochs else planner.epochs * planner.all_samples
    if epochs * samples > _SAME * longest:
        flags.append("longer_than_studied")
    return {
        "width": width,
        "in_study": in_study,
        "parameters": parameters,
        "unique_samples": samples,
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


def score(
    forecast: dict[str, Any],
    train: dict[str, Any],
    variants: dict[str, Any],
    latency: dict[str, Any],
    shipped: str,
) -> dict[str, Any]:
    """Compare the forecast for ``train.width`` with the results of its training and with the files made from it.

    Args:
        train, variants, latency: contents of the files of these names in metrics/.
        shipped: name of the variant in ship/.
    """
    content: dict[str, Any] = {
        "width": forecast["width"],
        "epochs": train["epochs"],
        "forecast_epochs": forecast["epochs"],
    }
    for name, low, high, prefix in (
        ("val_nll", "low", "high", ""),
        ("val_accuracy", "val_accuracy_low", "val_accuracy_high", "accuracy_"),
    ):
        compared = _compared((forecast[name], forecast[low], forecast[high]), train[name])
        content |= {prefix + label: value for label, value in compared.items()}
    formats = {
        form: _score_format(forecast["formats"][form], BASE_FILES[form], variants, latency)
        for form in FORMATS
        if forecast["formats"][form] is not None
    }
    by_name = {BASE_FILES[form]: blocks for form, blocks in formats.items()}
    held = None
    if shipped in by_name:
        inside = [block["inside"] for name, block in by_name[shipped].items() if name != "val_nll"]
        held = None if None in inside else all(inside)
    return content | {"formats": formats, "shipped": {"variant": shipped, "held": held}}


def _score_format(
    expected: dict[str, Any], file: str, variants: dict[str, Any], latency: dict[str, Any]
) -> dict[str, Any]:
    cell = latency["conditions"]["headline"]
    measured = variants[file] | {"latency_ms": latency[file][cell]["p50_ms"]}
    return {
        name: _compared((band["predicted"], band["low"], band["high"]), measured[name])
        for name, band in expected.items()
    }


def _compared(band: tuple[float | None, float | None, float | None], actual: float) -> dict[str, Any]:
    """A predicted value and its interval against the measured value."""
    predicted, low, high = band
    inside = None if low is None or high is None else bool(low <= actual <= high)
    error = predicted / actual - 1 if predicted is not None and actual else None
    return {
        "predicted": rounded(predicted), "low": rounded(low), "high": rounded(high), "actual": rounded(actual),
        "relative_error": rounded(error), "inside": inside,
    }  # fmt: skip
