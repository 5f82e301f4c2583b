"""Diagnostics of a user's table: a metric that is no loss, and FLOPs in other units than sizes and samples."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from isoflop.scaling.diagnostics import Diagnostic
from isoflop.scaling.tables.metrics import metric_of_name
from isoflop.scaling.tables.runs import Study

_RISES = 0.5  # share of the variance of log loss that the axes explain, from which its direction is clear
_AGREE = 10.0  # FLOPs within this factor of 6 N S are plausible
_CLOSE = 3.0  # a ratio within this factor of a power of a thousand is a matter of units
_LIKELY_UNITS = {
    18: "parameters and samples are in billions (1e9)",
    15: "parameters are in millions (1e6) and samples in billions (1e9)",
    12: "parameters and samples are in millions (1e6), or one of them in trillions",
    9: "parameters or samples are in billions (1e9)",
    6: "parameters or samples are in millions (1e6)",
    3: "parameters or samples are in thousands",
    -3: "FLOPs are in thousands",
    -6: "FLOPs are in MFLOPs (1e6)",
    -9: "FLOPs are in GFLOPs (1e9)",
    -12: "FLOPs are in TFLOPs (1e12)",
    -15: "FLOPs are in PFLOPs (1e15)",
    -18: "FLOPs are in EFLOPs (1e18)",
}


def table_diagnostics(study: Study) -> list[Diagnostic]:
    """The diagnostics of the columns of a table; none for a sweep, whose units are known."""
    if study.loss_column is None:
        return []
    return [*_metric(study, study.loss_column), *_units(study)]


def _metric(study: Study, column: str) -> Iterator[Diagnostic]:
    """Whether the metric rises with scale, or its name says that it is no loss."""
    share, effect = _direction(study)
    named = metric_of_name(column) if study.metric == "loss" else None
    if effect > 0 and share > _RISES:
        offer = "" if study.metric != "loss" else f"; fix: --loss-is {named or 'accuracy'} if it is one"
        message = f"column {column} rises with scale, but a loss falls: the law describes no scaling of it{offer}"
        yield Diagnostic("metric_rises", message, {"explained": share})
    elif named is not None:
        message = f"column {column} is fitted as a loss, but its name suggests {named}; fix: --loss-is {named} if it is"
        yield Diagnostic("metric_unclear", message)


def _direction(study: Study) -> tuple[float, float]:
    """A regression of log loss on the log levels: R², and the change of log loss from the least to the most of all."""
    axes = [axis for axis in study.axes if len(set(study.column(axis).tolist())) > 1]
    logs_KM = np.log(study.levels(axes))
    design_MK = (logs_KM - logs_KM.mean(axis=1, keepdims=True)).T
    target_M = np.log(study.losses)
    target_M = target_M - target_M.mean()
    slopes_K = np.linalg.lstsq(design_MK, target_M, rcond=1e-6)[0]
    share = 1 - float(((target_M - design_MK @ slopes_K) ** 2).sum() / max(float((target_M**2).sum()), 1e-300))
    return share, float(slopes_K @ np.ptp(design_MK, axis=0))


def _units(study: Study) -> Iterator[Diagnostic]:
    """Whether the FLOPs of the table are far from 6 FLOPs per parameter and sample seen."""
    if not {"parameters", "flops"} <= study.named or not {"unique_samples", "seen_samples"} & study.named:
        return
    sizes, seen, flops = (study.column(axis) for axis in ("parameters", "seen_samples", "flops"))
    ratio = float(np.median(flops / (6 * sizes * seen)))
    if 1 / _AGREE <= ratio <= _AGREE:
        return
    power = 3 * round(math.log10(ratio) / 3)
    likely = _LIKELY_UNITS.get(power) if abs(math.log10(ratio) - power) <= math.log10(_CLOSE) else None
    cause = (
        f"likely {likely}; fix: write the values out, such as 125M"
        if likely
        else "expected of convolutions, which use a weight several times per sample; else check the units"
    )
    message = f"FLOPs are {ratio:.3g} times 6 N S (6 per parameter and sample seen): {cause}"
    yield Diagnostic("units_disagree", message, {"ratio": ratio})
