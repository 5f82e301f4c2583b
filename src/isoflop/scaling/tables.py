"""Read a user's table of runs, CSV or Parquet, as a study; the caller names the columns."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.runtime.errors import UserError
from isoflop.scaling.forms import AXIS_NAMES
from isoflop.scaling.runs import MIN_WIDTHS, Run, Study, exclusion_reason

Row = dict[str, Any]


@dataclass(frozen=True)
class Columns:
    """Column names. ``samples`` are unique samples; samples seen are ``seen`` or else ``samples`` times ``epochs``."""

    loss: str = "loss"
    parameters: str | None = None
    samples: str | None = None
    seen: str | None = None
    epochs: str | None = None
    flops: str | None = None
    seed: str | None = None
    accuracy: str | None = None


def read_table(file: Path, columns: Columns, where: Sequence[str] = (), chance: float | None = None) -> Study:
    """Read the study of the rows that meet all conditions ``where``, such as "depth=2".

    Rows with an empty or non-finite loss are excluded as diverged, rows with a loss above 0.9 of the ``chance`` loss as
    undertrained.

    Raises:
        UserError: the file or a column is missing, a size or loss is not a positive number, or too few rows remain.
    """
    rows = _selected(_read(file), where, file)
    _check_columns(rows, columns, file)
    runs: list[Run] = []
    reasons: Counter[str] = Counter()
    for line, row in rows:
        loss = _loss(row, columns.loss, f"{file}: row {line}")
        reason = exclusion_reason(loss, chance)
        reasons[reason] += bool(reason)
        runs += [] if reason or loss is None else [_run(row, columns, loss, f"{file}: row {line}")]
    largest = max((run.unique_samples for run in runs), default=0.0)
    study = Study(tuple(runs), +reasons, all_samples=largest, assumed=_assumed(columns))
    _check_levels(study, file)
    return study


def _read(file: Path) -> list[Row]:
    if file.suffix == ".parquet":
        try:
            from pyarrow import ArrowException
            from pyarrow.parquet import read_table as read_parquet
        except ImportError:
            raise UserError(f"{file}: Parquet requires pyarrow; fix: `pip install 'isoflop[parquet]'`") from None
        try:
            return list(read_parquet(file).to_pylist())
        except (ArrowException, ValueError) as error:
            raise UserError(f"{file}: not readable as Parquet ({error})") from None
    try:
        with file.open(newline="", encoding="utf-8-sig") as stream:
            return list(csv.DictReader(stream))
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{file}: not readable as CSV ({error})") from None


def _selected(rows: list[Row], where: Sequence[str], file: Path) -> list[tuple[int, Row]]:
    kept = list(enumerate(rows, 2))  # line numbers as in an editor: the header is line 1
    for condition in where:
        name, separator, value = condition.partition("=")
        if not separator:
            raise UserError(f"--where: got {condition!r}, expected COLUMN=VALUE")
        if rows and name not in rows[0]:
            raise UserError(f"{file}: got columns {', '.join(rows[0])}; expected {name} (--where {condition})")
        kept = [(line, row) for line, row in kept if str(row[name]) == value]
    if not kept:
        raise UserError(f"{file}: got no rows{f' where {list(where)}' if where else ''}, expected one row per run")
    return kept


def _check_columns(rows: list[tuple[int, Row]], columns: Columns, file: Path) -> None:
    present = [str(name) for name in rows[0][1]]
    for option, name in vars(columns).items():
        if name is not None and name not in present:
            raise UserError(f"{file}: got columns {', '.join(present)}; expected {name} (--{option})")
    if columns.parameters is None and columns.samples is None and columns.seen is None and columns.flops is None:
        raise UserError(
            f"{file}: got columns {', '.join(present)}; expected --parameters, --samples, --seen or --flops to name "
            "at least one that the loss depends on"
        )
    if columns.flops and columns.parameters is None and (columns.samples or columns.seen):
        raise UserError(
            f"{file}: got --flops and samples without --parameters, expected --parameters too, or --flops alone"
        )


def _assumed(columns: Columns) -> str:
    if columns.parameters is None:
        return ""
    if columns.flops is None:
        return "the table has no FLOPs: C = 6 N S is assumed, 6 FLOPs per parameter and sample seen"
    if columns.samples is None and columns.seen is None:
        return "the table has no samples: S = C / (6 N) is assumed, each sample seen once"
    return ""


def _check_levels(study: Study, file: Path) -> None:
    if not study.runs:
        raise UserError(f"{file}: got no run with a loss, expected at least {MIN_WIDTHS}")
    if len({run.loss for run in study.runs}) == 1:
        raise UserError(f"{file}: got the same loss {study.runs[0].loss:g} in all rows, expected different losses")
    counts = {axis: len(study.level_values(axis)) for axis in study.axes}
    if max(counts.values()) < MIN_WIDTHS or counts.get("parameters", MIN_WIDTHS) < MIN_WIDTHS:
        got = ", ".join(f"{count} of {AXIS_NAMES[axis]}" for axis, count in counts.items())
        raise UserError(f"{file}: got levels {got} in {len(study.runs)} runs, expected at least {MIN_WIDTHS} levels")


def _loss(row: Row, name: str, where: str) -> float | None:
    text = row[name]
    if text is None or str(text).strip() == "":
        return None
    loss = _number(text, name, where)
    if not math.isfinite(loss):
        return None
    if loss <= 0:
        raise UserError(f"{where}: column {name}: got {text}, expected a positive loss")
    return loss


def _run(row: Row, columns: Columns, loss: float, where: str) -> Run:
    def size(name: str | None, otherwise: float) -> float:
        if name is None:
            return otherwise
        value = _number(row[name], name, where)
        if not (math.isfinite(value) and value > 0):
            raise UserError(f"{where}: column {name}: got {row[name]}, expected a positive number")
        return value

    parameters = size(columns.parameters, 1.0)
    paid = size(columns.flops, 6 * parameters) / (6 * parameters) if columns.parameters else 1.0
    unique = size(columns.samples, 0.0) or size(columns.seen, paid) / size(columns.epochs, 1.0)
    seen = size(columns.seen, 0.0) or unique * size(columns.epochs, 1.0)
    accuracy = None if columns.accuracy is None else _number(row[columns.accuracy], columns.accuracy, where)
    if accuracy is not None and not 0 <= accuracy <= 1:
        raise UserError(f"{where}: column {columns.accuracy}: got {accuracy:g}, expected a number from 0 to 1")
    seed = 0.0 if columns.seed is None else _number(row[columns.seed], columns.seed, where)
    if not math.isfinite(seed):
        raise UserError(f"{where}: column {columns.seed}: got {row[columns.seed or '']}, expected a number")
    return Run(parameters, unique, seen, size(columns.flops, 6 * parameters * seen), round(seed), loss, accuracy)


def _number(text: Any, name: str, where: str) -> float:
    try:
        return float(text)
    except (TypeError, ValueError):
        raise UserError(f"{where}: column {name}: got {text!r}, expected a number") from None
