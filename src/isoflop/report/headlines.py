"""The quantities that a comparison of runs puts first: where they are in the metrics, and how they are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from isoflop.report import formats
from isoflop.report.facts import Facts, share_interval

Metrics = Mapping[str, Facts]  # of a run, by the name of their file


@dataclass(frozen=True)
class Measured:
    """A value with its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Headline:
    """A quantity; ``of`` may raise KeyError where a run lacks it."""

    name: str
    of: Callable[[Metrics], Measured | None]
    shown: Callable[[float], str]
    difference: Callable[[float, float], str]


def _points(value: float, first: float) -> str:
    return formats.points(value - first)


def _ratio(value: float, first: float) -> str:
    return formats.signed_percent(value / first - 1) if first else "–"


def _plain(value: float, first: float) -> str:
    return f"{value - first:+.4g}".replace("-", "−")


def _accuracy_of_shipped(metrics: Metrics) -> Measured:
    return _share(float(metrics["shipped"]["accuracy"]), metrics["data"]["images"]["test"])


def _evaluated(metrics: Metrics) -> Measured:
    return _share(metrics["evaluate"]["accuracy"], metrics["evaluate"]["images"])


def _share(share: float, count: int) -> Measured:
    return Measured(share, *share_interval(share, count))


def _shipped(name: str) -> Callable[[Metrics], Measured]:
    return lambda metrics: Measured(float(metrics["shipped"][name]))


def _at(name: str, *keys: str) -> Callable[[Metrics], Measured | None]:
    def of(metrics: Metrics) -> Measured | None:
        value: Any = metrics[name]
        for key in keys:
            value = value[key]
        return None if value is None else Measured(float(value))

    return of


def _law(parameter: str) -> Callable[[Metrics], Measured]:
    def of(metrics: Metrics) -> Measured:
        return Measured(*(metrics["scaling"]["parameters"][parameter][name] for name in ("value", "low", "high")))

    return of


def _latency_of_base(metrics: Metrics) -> Measured:
    latency, base = metrics["latency"], next(iter(metrics["variants"]))
    return Measured(latency[base][latency["conditions"]["headline"]]["p50_ms"])


def _forecast(metrics: Metrics) -> Measured:
    return Measured(*(metrics["forecast"][name] for name in ("val_nll", "low", "high")))


HEADLINES = (
    Headline("test accuracy of what ships", _accuracy_of_shipped, formats.percent, _points),
    Headline("its size", _shipped("bytes"), formats.size, _ratio),
    Headline("its latency", _shipped("latency_ms"), formats.ms, _ratio),
    Headline("test accuracy of the base", _evaluated, formats.percent, _points),
    Headline("test loss (NLL) of the base", _at("evaluate", "nll"), formats.loss, _ratio),
    Headline("calibration error (ECE)", _at("evaluate", "ece"), formats.percent, _points),
    Headline("validation loss (NLL)", _at("train", "val_nll"), formats.loss, _ratio),
    Headline("parameters", _at("train", "parameters"), formats.count, _ratio),
    Headline("training FLOPs", _at("train", "training_flops"), formats.rounded, _ratio),
    Headline("images a second in training", _at("throughput", "images_per_s"), formats.rounded, _ratio),
    Headline("latency of the base", _latency_of_base, formats.ms, _ratio),
    Headline("forecast of its validation loss", _forecast, formats.loss, _ratio),
    Headline("forecast / measured - 1", _at("score", "relative_error"), formats.signed_percent, _points),
    Headline("law: held-out error", _at("scaling", "held_out", "relative_error"), formats.signed_percent, _points),
    Headline("law: floor E", _law("E"), formats.loss, _plain),
    Headline("law: exponent α of size", _law("alpha"), formats.loss, _plain),
    Headline("law: exponent β of data", _law("beta"), formats.loss, _plain),
    Headline("law: exponent γ of training", _law("gamma"), formats.loss, _plain),
)
