"""Ask a fitted law: the loss at a point, the level that reaches a loss, and a table of points to predict."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.scaling.fitting.reach import Predictions
from isoflop.scaling.forms import AXES, Floats
from isoflop.scaling.law_file import KnownLaw
from isoflop.scaling.planning import Optimum, Planner
from isoflop.scaling.tables.metrics import from_loss
from isoflop.scaling.tables.user_tables import Columns, read_points

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


@dataclass(frozen=True)
class Goal:
    """What to ask a law; the fields that are not given are None.

    ``samples`` (unique, with ``epochs`` passes) and ``parameters`` name one training, whose loss is predicted; so does
    the level of a law of one axis. Otherwise one field is given, and the answer is the compute-optimal training.
    """

    flops: float | None = None
    loss: float | None = None
    parameters: float | None = None
    samples: float | None = None
    epochs: float | None = None


def answer(known: KnownLaw, goal: Goal) -> Optimum | Answer:
    """The compute-optimal training for a goal, or the prediction for one training.

    Raises:
        UserError: the law has no answer for the goal.
    """
    law = known.planner.law
    alone = law.form.axes[0] if len(law.form.axes) == 1 else None
    level = {"parameters": goal.parameters, "flops": goal.flops}.get(alone or "")
    if goal.samples is not None or level is not None:
        return at_point(known, parameters=goal.parameters, samples=goal.samples, epochs=goal.epochs, flops=goal.flops)
    if alone is None or goal.loss is None:
        return _optimum(known.planner, goal)
    found = level_for(known, goal.loss)
    if found is None:
        raise UserError(f"--loss: got {goal.loss:g}, which no level reaches by the law {law.form.label}")
    return found


def _optimum(planner: Planner, goal: Goal) -> Optimum:
    label = planner.law.form.label
    if planner.best(planner.sizes.flops(planner.largest, planner.most_samples)) is None:
        raise UserError(f"law {label}: has no best size, because {planner.why_unbounded()}")
    flops = goal.flops
    if goal.loss is not None:
        flops = planner.flops_for(goal.loss)
        if flops is None:
            raise UserError(f"--loss: got {goal.loss:g}, which no budget reaches by the law {label}")
    elif goal.parameters is not None:
        flops = planner.flops_of(goal.parameters)
        if flops is None:
            raise UserError(f"law {label}: {goal.parameters:.3g} parameters are the best size for no budget")
    if flops is None:
        raise UserError("plan: got no goal, expected one of flops, loss, parameters or samples")
    best = planner.optimum(flops)
    if best.parameters is None:
        raise UserError(f"law {label}: has no best size for {flops:.3g} FLOPs, because {planner.why_unbounded(flops)}")
    return best


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
