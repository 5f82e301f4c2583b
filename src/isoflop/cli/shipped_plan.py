"""The part of ``isoflop plan`` about what ships: widths within limits, and the forecast of both files of a width."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.report.facts import read_facts
from isoflop.report.formats import between, count, ms, percent
from isoflop.report.scaling_words import FORMAT_NAMES
from isoflop.runtime.errors import UserError
from isoflop.scaling.forecasting import format_forecast, training_forecast
from isoflop.scaling.formats import FORMATS, Format, Formats, read_formats
from isoflop.scaling.law_file import KnownLaw


@dataclass(frozen=True)
class Limits:
    """Goals that take measurements of a project: latency in ms and bytes of the shipped file, and hours of training."""

    latency_ms: float | None = None
    hours: float | None = None
    most_bytes: float | None = None

    @property
    def of_file(self) -> bool:
        return self.latency_ms is not None or self.most_bytes is not None


def formats_of(project: Path) -> Formats | None:
    """What the networks of the project's study ship as; None if stage ``formats`` has not run on 3 widths."""
    file = project / "scaling" / "formats.json"
    return read_formats(file) if file.is_file() else None


def most_parameters(known: KnownLaw, project: Path, limits: Limits) -> float:
    """The number of parameters of the largest network whose file is within the limits, in the better format.

    Without ``scaling/formats.json`` the latency is that of a power law through the float models of the benchmark.

    Raises:
        UserError: no width is within the limits, or nothing was measured.
    """
    formats = formats_of(project)
    if formats is None:
        if limits.most_bytes is not None:
            raise UserError("--bytes: got no scaling/formats.json of 3 widths; fix: `dvc repro formats` measures it")
        return parameters_for(limits.latency_ms or 0.0, project)
    sizes = known.planner.sizes
    widest = {form: formats.widest(form, limits.latency_ms, limits.most_bytes) for form in FORMATS}
    losses = {form: _loss(known, formats, form, width) for form, width in widest.items() if width}
    if not losses:
        raise UserError(_why_none(formats, limits))
    best = widest[min(losses, key=lambda form: losses[form])] or 1
    return float(known.parameters_of_width.get(best) or sizes.parameters(best))


def _loss(known: KnownLaw, formats: Formats, form: Format, width: int) -> float:
    """The predicted loss of a file, trained as long and on as many images as the study knows."""
    planner = known.planner
    levels = planner.levels(planner.sizes.parameters(width), planner.epochs * planner.all_samples)
    loss = float(planner.law.predict({axis: np.atleast_1d(level) for axis, level in levels.items()})[0])
    at = np.array([float(width)])
    return loss * float(np.exp(formats.int8_log_nll(at).predicted[0])) if form == "int8" else loss


def _why_none(formats: Formats, limits: Limits) -> str:
    """Which limit no width meets, and the least that can be kept."""
    for option, limit, least in (
        ("--latency-ms", limits.latency_ms, min(float(formats.most("latency", form).min()) for form in FORMATS)),
        ("--bytes", limits.most_bytes, min(float(formats.most("bytes", form).min()) for form in FORMATS)),
    ):
        if limit is not None and least > limit:
            return f"{option}: got {limit:g}, expected at least {least:.4g}, which no smaller network is sure to keep"
    return "--latency-ms and --bytes: got limits that no format meets together; fix: raise one"


def parameters_for(latency_ms: float, project: Path) -> float:
    """Return the number of parameters at this latency, by a power law fitted to the float models of the benchmark."""
    timed = read_facts(project / "metrics" / "latency.json")
    scores = read_facts(project / "metrics" / "variants.json")
    cell = timed["conditions"]["headline"]
    whole = [name for name, block in scores.items() if block["made_by"] in ("train", "distill") and name in timed]
    names = [name for name in whole if scores[name]["network"] == name]  # not INT8 or FP16
    points = {scores[name]["parameters"]: timed[name][cell]["p50_ms"] for name in names}
    if len(points) < 2:
        raise UserError("--latency-ms: got benchmarks of one model size, expected two (the base and a distilled model)")
    sizes, times = np.log(np.array(sorted(points.items()), np.float64)).T
    slope, start = np.polyfit(sizes, times, 1)
    if slope <= 0:
        raise UserError(
            f"--latency-ms: smaller models were not faster ({ms(float(np.exp(times[0])))} and "
            f"{ms(float(np.exp(times[-1])))}), so latency does not determine size; fix: benchmark on an idle machine"
        )
    return float(np.exp((np.log(latency_ms) - start) / slope))


def expected_files(
    known: KnownLaw, project: Path | None, width: int | None, epochs: float, fraction: float = 1.0
) -> dict[Format, dict[str, Any]]:
    """The forecasts of both files of a width, as in ``scaling/forecast.json``; empty if they are unknown."""
    formats = formats_of(project) if project else None
    if formats is None or width is None:
        return {}
    trained = training_forecast(known, width, max(1, round(epochs)), fraction, "plan")
    return {form: format_forecast(formats, form, width, trained) for form in FORMATS}


def file_lines(expected: dict[Format, dict[str, Any]], width: int | None) -> list[str]:
    """A line for each file: bytes, latency and accuracy with 95 % intervals of a new measurement."""
    words = {"bytes": (count, "bytes "), "latency_ms": (ms, ""), "val_accuracy": (percent, "validation accuracy ")}
    lines = []
    for form, bands in expected.items():
        parts = []
        for name, (say, noun) in words.items():
            band = bands[name]
            if band["predicted"] is None:
                continue
            interval = "" if band["low"] is None else f" ({say(band['low'])} to {say(band['high'])})"
            parts.append(f"{noun}{say(band['predicted'])}{interval}")
        loss = bands["val_nll"]
        if loss["low"] is not None:
            parts.append(f"loss {between(loss['low'], loss['high'])}")
        lines.append(f"file of width {width} in {FORMAT_NAMES[form]}: {', '.join(parts)}")
    return lines
