"""The main metrics of a run for the comparison page: where to find them, how to format them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from isoflop.report import formats
from isoflop.report.facts import Facts, share_interval

Metrics = Mapping[str, Facts]  # name of the metrics file → its content, of one run


@dataclass(frozen=True)
class Measured:
    """A value and its 95 % interval, if known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Headline:
    """One metric. ``of`` reads it from a run's metrics and may raise KeyError where the run lacks it."""

    name: str
    of: Callable[[Metrics], Measured | None]
    shown: Callable[[float], str]
    difference: Callable[[float, float], str]


def _pp(value: float, first: float) -> str:
    return formats.pp(value - first)


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
    Headline("shipped model: test accuracy", _accuracy_of_shipped, formats.percent, _pp),
    Headline("shipped model: file size", _shipped("bytes"), formats.size, _ratio),
    Headline("shipped model: median latency", _shipped("latency_ms"), formats.ms, _ratio),
    Headline("base: test accuracy", _evaluated, formats.percent, _pp),
    Headline("base: test NLL", _at("evaluate", "nll"), formats.loss, _ratio),
    Headline("base: test ECE", _at("evaluate", "ece"), formats.percent, _pp),
    Headline("base: validation NLL", _at("train", "val_nll"), formats.loss, _ratio),
    Headline("base: parameters", _at("train", "parameters"), formats.count, _ratio),
    Headline("base: median latency", _latency_of_base, formats.ms, _ratio),
    Headline("base: training FLOPs", _at("train", "training_flops"), formats.rounded, _ratio),
    Headline("base: training throughput, images/s", _at("throughput", "images_per_s"), formats.rounded, _ratio),
    Headline("base: predicted validation NLL", _forecast, formats.loss, _ratio),
    Headline("base: prediction error", _at("score", "relative_error"), formats.signed_percent, _pp),
    Headline("law: held-out error", _at("scaling", "held_out", "relative_error"), formats.signed_percent, _pp),
    Headline("law: irreducible loss E", _law("E"), formats.loss, _plain),
    Headline("law: size exponent α", _law("alpha"), formats.loss, _plain),
    Headline("law: data exponent β", _law("beta"), formats.loss, _plain),
    Headline("law: training exponent γ", _law("gamma"), formats.loss, _plain),
)
