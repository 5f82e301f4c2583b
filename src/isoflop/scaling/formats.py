"""What a network of any width ships as: bytes, latency and INT8's change of accuracy as functions of width.

They are fitted to ``scaling/formats.json``, which stage ``formats`` measures on the networks of the study, and on an
untrained one of twice the largest width:

- bytes: a quadratic in width, exact but for the varying length of numbers in the file;
- latency: affine in MACs, or a power of MACs, whichever predicts the largest width better from the others;
- the change by INT8: a constant, or a line in log width if its slope differs significantly from 0.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from isoflop.runtime.damage import check_outputs
from isoflop.runtime.errors import UserError
from isoflop.scaling.forms import Floats

Format = Literal["float", "int8"]
FORMATS: tuple[Format, ...] = get_args(Format)
BASE_FILES: dict[Format, str] = {"float": "base", "int8": "base-int8"}  # of stage ``compare``

_LEAST_BYTES = 4.0  # standard deviation: the length of a number in the file varies by a few bytes
_REPEAT = 0.05  # relative standard deviation of the median latency when a file is timed at another time
_NORMAL = 1.96  # two-sided 95 % quantile
_SIGNIFICANT = 0.05  # of the slope of INT8's change
_WIDEST = 65_536


@dataclass(frozen=True)
class Band:
    """Predictions [M] with the 95 % prediction interval of a new measurement; nan where there is none."""

    predicted: Floats
    low: Floats
    high: Floats

    @classmethod
    def around(cls, predicted: Floats, half_width: Floats) -> Band:
        return cls(predicted, predicted - half_width, predicted + half_width)

    def facts(self) -> dict[str, float | None]:
        """The only prediction, for JSON."""
        values = (float(values[0]) for values in (self.predicted, self.low, self.high))
        return dict(zip(("predicted", "low", "high"), (value if np.isfinite(value) else None for value in values),
                        strict=True))  # fmt: skip

    def plus(self, other: Band) -> Band:
        """The sum of two independent quantities."""
        predicted = self.predicted + other.predicted
        below = np.hypot(self.predicted - self.low, other.predicted - other.low)
        return Band(predicted, predicted - below, predicted + np.hypot(self.high - self.predicted,
                                                                       other.high - other.predicted))  # fmt: skip


@dataclass(frozen=True)
class Formats:
    """Measurements of the study's networks [W] in both formats, by format where they differ."""

    timed: Floats  # [T] widths: those of the study, and one that is not trained
    macs: Floats  # [T]
    bytes_of: dict[Format, Floats]  # [T]
    latency_of: dict[Format, Floats]  # [T] median, ms
    widths: Floats  # [W]
    accuracy_change: Floats  # INT8 minus float, and its standard error, on the same validation images
    accuracy_error: Floats
    log_nll_change: Floats
    log_nll_error: Floats

    def size(self, form: Format, at: Floats) -> Band:
        """Bytes of the file at widths [M]."""
        return _quadratic(self.timed, self.bytes_of[form], at, _LEAST_BYTES)

    def latency(self, form: Format, at: Floats) -> Band:
        """Median latency in ms at widths [M], in the benchmark's headline setting on this machine."""
        macs = np.maximum(_quadratic(self.timed, self.macs, at, 0.0).predicted, 1.0)
        return _latency(self.macs, self.latency_of[form], macs)

    def int8_accuracy(self, at: Floats) -> Band:
        """INT8's change of the validation accuracy at widths [M]."""
        return _change(self.widths, self.accuracy_change, self.accuracy_error, at)

    def int8_log_nll(self, at: Floats) -> Band:
        """The log of the factor by which INT8 changes the validation NLL, at widths [M]."""
        return _change(self.widths, self.log_nll_change, self.log_nll_error, at)

    def most(self, quantity: Literal["bytes", "latency"], form: Format) -> Floats:
        """The upper end of the interval at every width from 1 on; the prediction itself where there is no interval."""
        found = (self.size if quantity == "bytes" else self.latency)(form, np.arange(1.0, _WIDEST + 1))
        return np.where(np.isfinite(found.high), found.high, found.predicted)

    def widest(self, form: Format, latency_ms: float | None, most_bytes: float | None) -> int | None:
        """The largest width whose intervals are within the limits; None if there is none.

        An interval can be wider at smaller widths, far from the study's; a smaller network is not slower, so these do
        not count.
        """
        within = np.ones(_WIDEST, bool)
        if latency_ms is not None:
            within &= self.most("latency", form) <= latency_ms
        if most_bytes is not None:
            within &= self.most("bytes", form) <= most_bytes
        return int(np.flatnonzero(within).max()) + 1 if within.any() else None


def read_formats(file: Path) -> Formats | None:
    """Read ``scaling/formats.json``; None if the study has networks of fewer than 3 widths.

    Raises:
        UserError: the file is missing or malformed, or differs from dvc.lock.
    """
    check_outputs(file)
    try:
        content = json.loads(file.read_text())
        trained, untrained = (
            {int(width): block for width, block in content[name].items()} for name in ("widths", "untrained")
        )
        if len(trained) < 3:
            return None
        timed = trained | untrained
        return Formats(
            np.array(sorted(timed), np.float64), _column(timed, "macs"),
            {form: _column(timed, form, "bytes") for form in FORMATS},
            {form: _column(timed, form, "latency_ms") for form in FORMATS},
            np.array(sorted(trained), np.float64),
            _column(trained, "change", "accuracy"), _column(trained, "change", "accuracy_error"),
            _column(trained, "change", "log_nll"), _column(trained, "change", "log_nll_error"),
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file}: not readable ({error}); fix: run `dvc repro formats`") from None


def _column(blocks: Mapping[int, Any], *names: str) -> Floats:
    """A value of each block, by ascending width."""
    values = [blocks[width] for width in sorted(blocks)]
    for name in names:
        values = [value[name] for value in values]
    return np.array(values, np.float64)


def _quantile(degrees_of_freedom: int) -> float:
    """Of Student's t, for a two-sided 95 % interval; nan without degrees of freedom."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees_of_freedom, 0.975)) if degrees_of_freedom > 0 else float("nan")


def _quadratic(widths: Floats, values: Floats, at: Floats, least: float) -> Band:
    """The quadratic through measurements, with the prediction interval of least squares."""
    design, wanted = (np.vander(one / widths.max(), 3) for one in (widths, at))
    found, *_ = np.linalg.lstsq(design, values, rcond=None)
    dof = len(widths) - 3
    sd = max(float(np.sqrt(((design @ found - values) ** 2).sum() / max(dof, 1))), least)
    leverage = ((wanted @ np.linalg.pinv(design.T @ design)) * wanted).sum(axis=1)
    return Band.around(wanted @ found, _quantile(dof) * sd * np.sqrt(1 + leverage))


def _affine(macs: Floats, times: Floats) -> Callable[[Floats], Floats]:
    """A constant plus a share of the MACs, both at least 0, by least squares of relative errors."""
    from scipy.optimize import nnls

    scale = macs.max()
    (start, slope), _ = nnls(np.stack([1 / times, macs / scale / times], axis=1), np.ones(len(times)))
    return lambda at: np.asarray(np.maximum(start + slope * at / scale, 1e-9))


def _power(macs: Floats, times: Floats) -> Callable[[Floats], Floats]:
    slope, start = np.polyfit(np.log(macs), np.log(times), 1)
    slope = max(float(slope), 0.0)
    start = float(np.log(times).mean() - slope * np.log(macs).mean())
    return lambda at: np.asarray(np.exp(start + slope * np.log(at)))


def _latency(macs: Floats, times: Floats, at: Floats) -> Band:
    """Times at MACs [M]: the form with the smaller error at the largest network, fitted without it.

    The interval of the log has four parts: residuals, with Student's t for their estimated size; and with the normal
    quantile a repeated measurement, the error of that backtest in proportion to the log distance beyond the largest
    network, and half the difference of the two forms.
    """
    errors, distance = {}, np.log(macs[-1] / macs[-2])
    for fit in (_affine, _power):
        errors[fit] = abs(float(np.log(fit(macs[:-1], times[:-1])(macs[-1:])[0] / times[-1])))
    best, other = sorted(errors, key=lambda fit: errors[fit])
    chosen, compared = best(macs, times), other(macs, times)
    logs, wanted, dof = np.log(macs), np.log(at), len(macs) - 2
    sd = np.sqrt((np.log(chosen(macs) / times) ** 2).sum() / dof)
    leverage = 1 / len(macs) + (wanted - logs.mean()) ** 2 / ((logs - logs.mean()) ** 2).sum()
    beyond = np.maximum(wanted - logs[-1], 0) + np.maximum(logs[0] - wanted, 0)
    apart = np.log(chosen(at) / compared(at)) / 2
    known = _REPEAT**2 + (errors[best] / distance * beyond) ** 2 + apart**2
    half_width = np.sqrt((_quantile(dof) * sd) ** 2 * (1 + leverage) + _NORMAL**2 * known)
    half_width = np.minimum(half_width, 25.0)
    return Band(chosen(at), chosen(at) * np.exp(-half_width), chosen(at) * np.exp(half_width))


def _change(widths: Floats, changes: Floats, errors: Floats, at: Floats) -> Band:
    """A change that each width measured with a standard error: the interval of a new width's measurement."""
    from scipy.special import stdtr

    logs, wanted = np.log(widths), np.log(at)
    centered = logs - logs.mean()
    squares, dof = float((centered**2).sum()), len(widths) - 2
    slope = float(centered @ changes) / squares
    spread = max(float(np.sqrt(((changes - changes.mean() - slope * centered) ** 2).sum() / dof)), errors.mean())
    is_line = 2 * stdtr(dof, -abs(slope) * np.sqrt(squares) / spread) < _SIGNIFICANT
    if is_line:
        leverage = 1 / len(widths) + (wanted - logs.mean()) ** 2 / squares
        predicted = changes.mean() + slope * (wanted - logs.mean())
    else:
        dof += 1
        leverage, predicted = np.full(len(at), 1 / len(widths)), np.full(len(at), changes.mean())
        spread = max(float(changes.std(ddof=1)), float(errors.mean()))
    return Band.around(predicted, _quantile(dof) * spread * np.sqrt(1 + leverage))
