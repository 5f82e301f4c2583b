"""Ask a fitted law: the loss at a point, the level that reaches a loss, and a table of points to predict."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.scaling.forms import AXES, Floats
from isoflop.scaling.law_file import KnownLaw
from isoflop.scaling.metrics import from_loss
from isoflop.scaling.planning import Planner
from isoflop.scaling.reach import Predictions
from isoflop.scaling.tables import Columns, read_points

_OPTIONS = {
    "parameters": "--parameters",
    "unique_samples": "--samples",
    "seen_samples": "--samples and --epochs",
    "flops": "--flops",
}
_NEVER_TRUSTED = {"metric_rises"}  # kinds of diagnostics of a law that describes something else than a loss
_ADDED = ("predicted", "low", "high", "trusted")
_DIGITS = 8  # of predictions in a table
_REACH = 1e12  # a level beyond the study's by this factor is none


@dataclass(frozen=True)
class Answer:
    """The prediction at one point: the metric of one new run with its 95 % prediction interval, if there is one.

    ``trusted`` states whether backtests held at the distance of the point from the runs.
    """

    levels: dict[str, float]  # by axis of ``forms.AXES``
    predicted: float
    interval: tuple[float, float] | None
    trusted: bool


def at_point(
    known: KnownLaw,
    *,
    parameters: float | None = None,
    samples: float | None = None,
    epochs: float | None = None,
    flops: float | None = None,
) -> Answer:
    """Predict one new run.

    Args:
        samples: unique training samples.
        epochs: passes over them; default: the most of the study.
        flops: of training; only for a law of the FLOPs.

    Raises:
        UserError: the loss depends on an axis that is not given.
    """
    planner = known.planner
    given = {"parameters": parameters, "unique_samples": samples, "seen_samples": samples or epochs, "flops": flops}
    missing = [_OPTIONS[axis] for axis in planner.law.form.axes if given[axis] is None]
    if missing:
        raise UserError(f"law {planner.law.form.label}: got no {' and '.join(missing)}, on which the loss depends")
    size, unique = parameters or planner.largest, samples or planner.all_samples
    seen = unique * (epochs or planner.epochs)
    levels = dict(zip(AXES, (size, unique, seen, flops or planner.sizes.flops(size, seen)), strict=True))
    found = predictions(known, {axis: np.array([level]) for axis, level in levels.items()})
    interval = (float(found.low[0]), float(found.high[0]))
    return Answer(
        levels, float(found.predicted[0]), interval if np.isfinite(interval).all() else None, bool(found.trusted[0])
    )


def predictions(known: KnownLaw, levels: dict[str, Floats]) -> Predictions:
    """Predictions of the metric that the law was fitted to, such as an accuracy, for new runs at levels [M] by axis."""
    found = known.planner.law.predictions(levels)
    one, other, middle = (
        from_loss(known.metric, losses, known.metric_scale) for losses in (found.low, found.high, found.predicted)
    )
    trusted = found.trusted & (not _NEVER_TRUSTED & set(known.diagnostics))
    return Predictions(middle, np.minimum(one, other), np.maximum(one, other), trusted)


def level_for(known: KnownLaw, wanted: float) -> Answer | None:
    """The least level of a law of one axis at which the predicted metric is as good as ``wanted``; None if none is."""
    (axis,) = known.planner.law.form.axes
    rising = known.metric == "accuracy"

    def reached(level: float) -> Answer | None:
        found = at_point(known, **_only(axis, level))
        good = found.predicted >= wanted if rising else found.predicted <= wanted
        return found if good else None

    low, high = _range(known.planner, axis)
    low, high = np.log(low / _REACH), np.log(high * _REACH)
    if not reached(float(np.exp(high))):
        return None
    while high - low > 1e-9:
        middle = (low + high) / 2
        low, high = (low, middle) if reached(float(np.exp(middle))) else (middle, high)
    return reached(float(np.exp(high)))


def _only(axis: str, level: float) -> dict[str, Any]:
    return {{"parameters": "parameters", "flops": "flops"}.get(axis, "samples"): level}


def _range(planner: Planner, axis: str) -> tuple[float, float]:
    if axis == "parameters":
        return planner.smallest, planner.largest
    if axis == "flops":
        low, high = planner.law.reach.ranges.get(axis, (1.0, 1.0))
        return float(low), float(high)
    return planner.least_samples, planner.most_samples


def predict_table(known: KnownLaw, points: Any, columns: Columns) -> str:
    """The rows of a table of points as CSV, with ``predicted``, ``low``, ``high`` and ``trusted`` added to each.

    ``low`` and ``high`` are the 95 % prediction interval of one new run, empty if the noise is not identifiable; all
    are empty in rows without a size.

    Raises:
        UserError: a column of the sizes is missing, or a size is not a positive number.
    """
    table, levels = read_points(points, columns)
    usable = np.asarray(np.isfinite(levels["flops"]), bool)
    found = predictions(known, {axis: values[usable] for axis, values in levels.items()}) if usable.any() else None
    kept = [name for name in table.columns if name not in _ADDED]
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow([*kept, *_ADDED])
    place = iter(range(int(usable.sum())))
    for row, known_sizes in zip(table.rows, usable.tolist(), strict=True):
        cells = ["" if row[name] is None else row[name] for name in kept]
        if not known_sizes or found is None:
            rows.writerow([*cells, "", "", "", "false"])
            continue
        index = next(place)
        numbers = [values[index] for values in (found.predicted, found.low, found.high)]
        written = ["" if np.isnan(value) else f"{value:.{_DIGITS}g}" for value in numbers]
        rows.writerow([*cells, *written, str(bool(found.trusted[index])).lower()])
    return text.getvalue()
