"""A user's table of runs as a study; the caller names the columns. ``table_files`` reads the files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.runtime.errors import UserError
from isoflop.scaling.forms import AXES, AXIS_NAMES, Floats
from isoflop.scaling.tables.copies import copies
from isoflop.scaling.tables.files import Table, of_frame, read_file
from isoflop.scaling.tables.metrics import Metric, to_loss
from isoflop.scaling.tables.runs import MIN_WIDTHS, Run, Study, exclusion_reason, format_counts
from isoflop.scaling.tables.values import matching, number

_STATES = {"state", "status"}  # W&B and MLflow: how a run ended
_UNFINISHED = {"crashed", "failed", "killed", "running", "preempted", "preempting", "scheduled", "pending"}
_SIZES = ("parameters", "samples", "seen", "epochs", "flops")


@dataclass(frozen=True)
class Columns:
    """Column names. ``samples`` are unique samples; samples seen are ``seen`` or else ``samples`` times ``epochs``.

    ``weight`` is a positive weight of each run in the fit.
    """

    loss: str = "loss"
    parameters: str | None = None
    samples: str | None = None
    seen: str | None = None
    epochs: str | None = None
    flops: str | None = None
    seed: str | None = None
    accuracy: str | None = None
    weight: str | None = None


def read_table(
    table: Any,
    columns: Columns,
    where: Sequence[str] = (),
    chance: float | None = None,
    loss_is: Metric | None = None,
    hold_out: str | None = None,
) -> Study:
    """Read the study of the rows that meet all conditions ``where``, such as "depth=2" or "flops>1e20".

    Left out and counted are rows without a loss or a size, rows of runs that did not finish (a column State or Status),
    copies of a row, and runs whose loss diverged or is above 0.9 of the ``chance`` loss.

    Args:
        table: file (CSV, TSV, JSON, JSONL or Parquet, gzipped or not), data frame, columns by name, or rows.
        loss_is: what the column ``loss`` holds; accuracies become errors, and perplexities their logarithm.
        hold_out: condition of the runs to test the law on, such as "flops>1e20", or a column that is 1 for them.

    Raises:
        UserError: the file or a column is missing, a size or loss is not a positive number, or too few rows remain.
    """
    whole = _table(table)
    kept = whole.only(matching(whole, where))
    if not kept.rows:
        raise UserError(f"{whole.source}: got no rows{f' where {list(where)}' if where else ''}, expected one per run")
    columns = _existing(kept, columns)
    metric: Metric = loss_is or "loss"
    scale = _scale_of_accuracy(kept, columns.loss) if metric == "accuracy" else 1.0
    seeds = _seeds(kept, columns.seed)
    held = set(matching(kept, [_condition(hold_out, columns)], "--hold-out")) if hold_out else set()
    rows = [_read_row(kept, index, columns, (metric, scale), chance, seeds[index]) for index in range(len(kept.rows))]
    rows = [
        replace(row, held=index in held, row=kept.lines[index]) if isinstance(row, Run) else row
        for index, row in enumerate(rows)
    ]
    repeated = copies([row if isinstance(row, Run) else None for row in rows])
    reasons = [
        row if isinstance(row, str) else "copy of another row" if index in repeated else ""
        for index, row in enumerate(rows)
    ]
    runs = tuple(row for row, reason in zip(rows, reasons, strict=True) if isinstance(row, Run) and not reason)
    study = Study(
        runs,
        Counter(filter(None, reasons)),
        all_samples=max((run.unique_samples for run in runs), default=0.0),
        assumed=_assumed(columns),
        dropped=tuple((line, reason) for line, reason in zip(kept.lines, reasons, strict=True) if reason),
        named=_named(columns),
        metric=metric,
        metric_scale=scale,
        loss_column=columns.loss,
        held_out=hold_out,
    )
    _check_levels(study, kept.source)
    if hold_out and not 0 < sum(run.held for run in runs) < len(runs):
        raise UserError(f"--hold-out: got {hold_out}, which {'no' if not held else 'every'} run meets, expected some")
    return study


def _condition(hold_out: str, columns: Columns) -> str:
    """The condition on the table: a bare column means 1, and an option's name such as ``flops`` its column."""
    condition = hold_out if any(sign in hold_out for sign in "=<>") else f"{hold_out}=1"
    name = condition.split("=")[0].split("<")[0].split(">")[0].rstrip("! ")
    return condition.replace(name, getattr(columns, name, None) or name, 1)


def read_points(table: Any, columns: Columns) -> tuple[Table, dict[str, Floats]]:
    """Read points to predict: the table, and the levels [M] of its rows by axis; nan where a row lacks a size.

    Raises:
        UserError: a column of the sizes is missing, or a size is not a positive number.
    """
    points = _table(table)
    sizes = _existing(points, replace(columns, loss="", seed=None, accuracy=None, weight=None))
    found = [_levels(points, index, sizes) for index in range(len(points.rows))]
    return points, {
        axis: np.array([math.nan if isinstance(levels, str) else levels[axis] for levels in found], np.float64)
        for axis in AXES
    }


def _table(table: Any) -> Table:
    return read_file(Path(table)) if isinstance(table, str | Path) else of_frame(table)


def _existing(table: Table, columns: Columns) -> Columns:
    """The columns with their names in the table, which tracking exports prefix."""
    found = {name: table.name(value, f"--{name}") for name, value in vars(columns).items() if value}
    if not any((columns.parameters, columns.samples, columns.seen, columns.flops)):
        raise UserError(
            f"{table.source}: got columns {table.shown}; expected --parameters, --samples, --seen or --flops to name "
            "at least one that the loss depends on"
        )
    if columns.flops and columns.parameters is None and (columns.samples or columns.seen):
        raise UserError(
            f"{table.source}: got --flops and samples without --parameters, expected --parameters too, or --flops alone"
        )
    return replace(columns, **found)


def _scale_of_accuracy(table: Table, name: str) -> float:
    """100 if the accuracies of a column are in percent, else 1."""
    values = [_cell(table, index, name) for index in range(len(table.rows))]
    return 100.0 if any(value is not None and 1 < value < math.inf for value in values) else 1.0


def _read_row(
    table: Table, index: int, columns: Columns, metric: tuple[Metric, float], chance: float | None, seed: int
) -> Run | str:
    """The run of a row, or why the row is left out. ``metric`` is what its loss is, and the scale of accuracies."""
    row = table.rows[index]
    state = next((str(value).strip().lower() for name, value in row.items() if name.lower() in _STATES), "")
    if state in _UNFINISHED:
        return state
    value = _cell(table, index, columns.loss)
    if value is None:
        return f"without {columns.loss}"
    loss = to_loss(metric[0], value, metric[1])
    if math.isfinite(loss) and loss <= 0:
        expected = {"accuracy": "an accuracy below 100 %", "perplexity": "a perplexity above 1"}
        raise _bad_cell(table, index, columns.loss, expected.get(metric[0], "a positive loss"))
    levels = _levels(table, index, columns)
    if isinstance(levels, str):
        return levels
    if reason := exclusion_reason(loss, chance):
        return reason
    weight = 1.0 if columns.weight is None else _cell(table, index, columns.weight)
    if columns.weight and not (weight and 0 < weight < math.inf):
        raise _bad_cell(table, index, columns.weight, "a positive weight")
    sizes, unique, seen, flops = (levels[axis] for axis in AXES)
    accuracy = _accuracy(table, index, columns.accuracy)
    return Run(sizes, unique, seen, flops, seed, loss, accuracy, weight=weight or 1.0)


def _levels(table: Table, index: int, columns: Columns) -> dict[str, float] | str:
    """The levels of a row by axis, or the reason to leave it out: a size is missing."""
    given: dict[str, float] = {}
    for option in _SIZES:
        name = getattr(columns, option)
        if name is None:
            continue
        value = _cell(table, index, name)
        if value is None or math.isnan(value):
            return f"without {name}"
        if not 0 < value < math.inf:
            raise _bad_cell(table, index, name, "a positive number")
        given[option] = value
    parameters, epochs = given.get("parameters", 1.0), given.get("epochs", 1.0)
    paid = given["flops"] / (6 * parameters) if "flops" in given and columns.parameters else 1.0
    unique = given.get("samples") or given.get("seen", paid) / epochs
    seen = given.get("seen") or unique * epochs
    flops = given.get("flops", 6 * parameters * seen)
    return {"parameters": parameters, "unique_samples": unique, "seen_samples": seen, "flops": flops}


def _accuracy(table: Table, index: int, name: str | None) -> float | None:
    accuracy = None if name is None else _cell(table, index, name)
    if name is None or accuracy is None or math.isnan(accuracy):
        return None
    if not 0 <= accuracy <= 1:
        raise _bad_cell(table, index, name, "a number from 0 to 1, or percent with a % sign")
    return accuracy


def _cell(table: Table, index: int, name: str) -> float | None:
    try:
        return number(table.rows[index][name], decimal_comma=table.decimal_comma)
    except (TypeError, ValueError):
        got = repr(table.rows[index][name])
        raise _bad_cell(table, index, name, 'a number such as 125000000, "125,000,000" or 125M', got) from None


def _bad_cell(table: Table, index: int, name: str, expected: str, got: str | None = None) -> UserError:
    value = table.rows[index][name]
    where = f"{table.source}: row {table.lines[index]}: column {name}"
    cure = f'fix: correct the cell, or leave the row out: --where "{name}!={value}"'
    return UserError(f"{where}: got {got or value}, expected {expected}; {cure}")


def _seeds(table: Table, name: str | None) -> list[int]:
    """The seed of each row: integers as they are, and other texts numbered in alphabetical order."""
    texts = ["" if name is None else str(row[name]).strip() for row in table.rows]
    try:
        return [0 if name is None else round(float(text)) for text in texts]
    except (ValueError, OverflowError):
        order = {text: index for index, text in enumerate(sorted(set(texts)))}
        return [order[text] for text in texts]


def _named(columns: Columns) -> frozenset[str]:
    """The axes that the table states; the others are assumed or 1."""
    named = {"parameters": columns.parameters, "flops": columns.flops, "unique_samples": columns.samples,
             "seen_samples": columns.seen or (columns.samples and columns.epochs)}  # fmt: skip
    return frozenset(axis for axis, column in named.items() if column)


def _assumed(columns: Columns) -> str:
    has_samples = columns.samples is not None or columns.seen is not None
    if columns.parameters is None or (columns.flops is None) != has_samples:
        return ""
    if has_samples:
        return "the table has no FLOPs: C = 6 N S is assumed, 6 FLOPs per parameter and sample seen"
    return "the table has no samples: S = C / (6 N) is assumed, each sample seen once"


def _check_levels(study: Study, source: str) -> None:
    left_out = f" (left out: {format_counts(study.excluded)})" if study.excluded else ""
    if not study.runs:
        raise UserError(f"{source}: got no run with a loss{left_out}, expected at least {MIN_WIDTHS}")
    if len({run.loss for run in study.runs}) == 1:
        raise UserError(f"{source}: got the same loss {study.runs[0].loss:g} in all rows, expected different losses")
    counts = {axis: len(study.level_values(axis)) for axis in study.axes}
    if max(counts.values()) < MIN_WIDTHS or counts.get("parameters", MIN_WIDTHS) < MIN_WIDTHS:
        got = ", ".join(f"{count} of {AXIS_NAMES[axis]}" for axis, count in counts.items())
        raise UserError(
            f"{source}: got levels {got} in {len(study.runs)} runs{left_out}, expected at least {MIN_WIDTHS} levels"
        )
