"""Read the file of a table as named columns and rows: delimited text, JSON, JSONL and Parquet, compressed or not.

Exports of experiment trackers are tables like others: nested objects become columns named by their path, such as
``config.width`` (W&B) or ``metrics.val_loss`` (MLflow).
"""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import re
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from isoflop.runtime.errors import UserError

_DELIMITERS = (",", ";", "\t", "|")
_SEPARATOR_LINE = re.compile(r'^"?sep=(.)"?\r?\n')  # the first line of files that Excel writes
_PACKED = {"gzip": b"\x1f\x8b", "bzip2": b"BZh", "xz": b"\xfd7zXZ\0"}  # how each begins
_OPENERS: dict[str, Any] = {"gzip": gzip.open, "bzip2": bz2.open, "xz": lzma.open}
_RULE = re.compile(r":?-{3,}:?")  # between header and rows of a Markdown table
_SHOWN = 30  # column names in an error; tracking exports have hundreds
_LONGEST = 80  # characters of a column's name in an error
_MOST_BYTES = 256 << 20  # of a table, decompressed
_MOST_VALUES = 10_000_000  # rows times columns


@dataclass(frozen=True)
class Table:
    """Rows by column name. ``lines`` [M] is the number of each row in an editor (text) or its position from 1."""

    source: str
    columns: tuple[str, ...]
    rows: list[dict[str, Any]]
    lines: list[int]
    decimal_comma: bool = False  # "3,20" is 3.2, as in text that separates columns by semicolons

    def name(self, wanted: str, option: str) -> str:
        """The column called ``wanted``, or the only one whose path ends in it: ``val_loss`` of ``metrics.val_loss``.

        Raises:
            UserError: there is no such column, or more than one.
        """
        found = [name for name in self.columns if name == wanted]
        found = found or [name for name in self.columns if name.rpartition(".")[2] == wanted]
        found = found or [name for name in self.columns if name.casefold() == wanted.casefold()]
        if len(found) == 1:
            return found[0]
        if found:
            got = f"{self.source}: got {len(found)} columns {wanted} ({option})"
            cure = f"name it in full: {', '.join(found)}" if len(set(found)) > 1 else "rename one of them"
            raise UserError(f"{got}, expected one; fix: {cure}")
        raise UserError(f"{self.source}: got columns {self.shown}; expected {wanted} ({option})")

    @property
    def shown(self) -> str:
        """The names of the columns, for messages; the first of them if there are many."""
        more = len(self.columns) - _SHOWN
        return ", ".join(name[:_LONGEST] for name in self.columns[:_SHOWN]) + (f" and {more} more" if more > 0 else "")

    def only(self, keep: Iterable[int]) -> Table:
        """The table restricted to the rows with these indices."""
        kept = list(keep)
        rows, lines = [self.rows[row] for row in kept], [self.lines[row] for row in kept]
        return Table(self.source, self.columns, rows, lines, self.decimal_comma)


def read_file(file: Path) -> Table:
    """Read a table; the content decides on the format, not the name of the file.

    Raises:
        UserError: the file is missing, too large, not a table, or has rows with more fields than columns.
    """
    try:
        return _table(file, _content(file))
    except (RecursionError, MemoryError, OverflowError) as error:  # of the parsers
        raise UserError(f"{file}: not readable ({error or type(error).__name__}), expected a table of runs") from None


def _content(file: Path) -> bytes:
    """Return the content, decompressed."""
    try:
        with file.open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise UserError(f"{file}: not readable ({error.strerror}), expected a table of runs") from None
    packed = next((name for name, start in _PACKED.items() if data.startswith(start)), "")
    if packed:
        unpack: Callable[[BinaryIO], IO[bytes]] = _OPENERS[packed]
        try:
            with unpack(io.BytesIO(data)) as stream:
                data = stream.read(_MOST_BYTES + 1)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
            raise UserError(f"{file}: not readable as {packed} ({error})") from None
    if len(data) > _MOST_BYTES:
        raise UserError(f"{file}: got more than {_MOST_BYTES >> 20} MiB, expected a table of runs")
    return data


def _table(file: Path, data: bytes) -> Table:
    if data[:4] == b"PAR1" or file.suffix == ".parquet":
        return _of_records(_parquet_rows(file, data), str(file))
    if data[:4] == b"PK\x03\x04":
        raise UserError(f"{file}: got a workbook or zip archive, expected a table; fix: save it as CSV")
    text = _decoded(data)
    if "\0" in text:
        raise UserError(f"{file}: got a binary file, expected CSV, TSV, JSON, JSONL or Parquet")
    if text.lstrip()[:1] in ("{", "["):
        return _of_records(_json_rows(text, file), str(file))
    return _delimited(text, str(file))


def _check_size(source: str, rows: int, columns: int) -> None:
    if rows * columns > _MOST_VALUES:
        got = f"{source}: got {rows:,} rows of {columns:,} columns"
        raise UserError(f"{got}, expected at most {_MOST_VALUES:,} values")


def of_frame(frame: Any) -> Table:
    """The table of a data frame (pandas, polars, pyarrow), of columns {name: values} or of a sequence of rows.

    Raises:
        UserError: it is none of these.
    """
    if hasattr(frame, "to_pylist"):  # pyarrow
        return _of_records(frame.to_pylist(), "table")
    if hasattr(frame, "to_dicts"):  # polars
        return _of_records(frame.to_dicts(), "table")
    if hasattr(frame, "to_dict"):  # pandas
        return _of_records(frame.to_dict("records"), "table")
    if isinstance(frame, Mapping):
        return _of_records(_transposed({str(name): list(values) for name, values in frame.items()}, "table"), "table")
    rows = list(frame) if isinstance(frame, Iterable) else []
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        raise UserError(f"frame: got {type(frame).__name__}, expected a data frame, columns or rows of runs")
    return _of_records(rows, "table")


def _decoded(data: bytes) -> str:
    """Text in UTF-8, UTF-16 or, as a last resort, Latin-1, which decodes all bytes."""
    if data[:4] in (b"\xff\xfe\0\0", b"\0\0\xfe\xff"):
        return data.decode("utf-32", "replace")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return data.decode("utf-16", "replace")
    for first, name in (
        (1, "utf-16-le"),
        (0, "utf-16-be"),
    ):  # without a byte order mark: Latin letters have a zero byte
        zeros = data[first:256:2]
        if zeros and zeros.count(0) > len(zeros) / 2 and 0 not in data[1 - first : 256 : 2]:
            return data.decode(name, "replace")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _delimited(text: str, source: str) -> Table:
    skipped = 0
    found = _SEPARATOR_LINE.match(text)
    delimiter = found[1] if found else ""
    lines = text.splitlines(keepends=True)
    while skipped < len(lines) and (skipped < bool(found) or not lines[skipped].strip() or lines[skipped][0] == "#"):
        skipped += 1
    lines = lines[skipped:]
    if not lines:
        raise UserError(f"{source}: got no rows, expected one row per run")
    try:
        delimiter = delimiter or max(_DELIMITERS, key=lambda one: len(next(csv.reader([lines[0]], delimiter=one))))
        if delimiter not in lines[0] and len({len(line.split()) for line in lines[:2]} - {1}) == 1 < len(lines):
            lines, delimiter = ["\t".join(line.split()) + "\n" for line in lines], "\t"  # aligned with spaces
        return _parsed(io.StringIO("".join(lines), newline=""), delimiter, skipped, source)
    except csv.Error as error:
        raise UserError(f"{source}: not readable as CSV ({error})") from None


def _parsed(stream: io.StringIO, delimiter: str, skipped: int, source: str) -> Table:
    reader = csv.reader(stream, delimiter=delimiter, skipinitialspace=True)
    columns = tuple(name.strip() for name in next(reader))
    named = [name for name in columns if name]
    _check_size(source, stream.getvalue().count("\n"), len(columns))
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    for fields in reader:
        filled = [text for field in fields if (text := field.strip())]
        if not filled or filled == named or all(_RULE.fullmatch(text) for text in filled):
            continue  # blank, the header again, or the rule below it
        line = skipped + reader.line_num
        if any(field.strip() for field in fields[len(columns) :]):
            got = f"{source}: row {line}: got {len(fields)} fields, expected {len(columns)}"
            raise UserError(f"{got}; fix: put fields that contain {delimiter!r} in double quotes")
        padded = [*fields, *[""] * (len(columns) - len(fields))]
        rows.append({name: field.strip() for name, field in zip(columns, padded, strict=False)})
        numbers.append(line)
    comma = delimiter == ";" and _has_decimal_commas(value for row in rows for value in row.values())
    return Table(source, columns, rows, numbers, comma)


def _has_decimal_commas(values: Iterable[str | None]) -> bool:
    """Whether commas are decimal: some number has one, and none has a decimal point or two commas."""
    numeric = [value for value in values if value and re.fullmatch(r"[-+]?[\d.,]+(e[-+]?\d+)?", value, re.IGNORECASE)]
    points = any(value.count(".") == 1 and not re.search(r"\.\d{3}(,|$)", value) for value in numeric)
    return any("," in value for value in numeric) and not points and all(value.count(",") < 2 for value in numeric)


def _parquet_rows(file: Path, data: bytes) -> list[dict[str, Any]]:
    try:
        from pyarrow import ArrowException, BufferReader
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UserError(f"{file}: Parquet requires pyarrow; fix: `pip install 'isoflop[parquet]'`") from None
    try:
        opened = ParquetFile(BufferReader(data))
        _check_size(str(file), opened.metadata.num_rows, opened.metadata.num_columns)
        return list(opened.read().to_pylist())
    except (ArrowException, ValueError, OSError) as error:
        raise UserError(f"{file}: not readable as Parquet ({error})") from None


def _json_rows(text: str, file: Path) -> list[Any]:
    try:
        content = json.loads(text)
    except ValueError as whole:
        lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
        rows: list[Any] = []
        for number, line in lines:
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                where, found = (f"row {number}: ", error) if rows else ("", whole)
                raise UserError(f"{file}: {where}not readable as JSON ({found})") from None
        return rows
    return _records(content, str(file))


def _records(content: Any, source: str) -> list[Any]:
    """Rows of the layouts that trackers and pandas write: records, columns, split, or one list inside an object."""
    if isinstance(content, list):
        return content
    lists = {name: value for name, value in content.items() if isinstance(value, list)}
    if "columns" in lists and "data" in lists:
        return [dict(zip(map(str, content["columns"]), row, strict=False)) for row in content["data"]]
    of_rows = [value for value in lists.values() if value and all(isinstance(row, dict) for row in value)]
    if len(of_rows) == 1:
        return list(of_rows[0])
    if lists and len(lists) == len(content):
        return _transposed(lists, source)
    if content and all(isinstance(value, dict) for value in content.values()):
        if all(name.isdigit() for name in content):  # pandas, orient="index"
            return list(content.values())
        return _transposed({name: list(value.values()) for name, value in content.items()}, source)
    return [content]


def _transposed(columns: Mapping[str, list[Any]], source: str) -> list[dict[str, Any]]:
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{source}: got columns of different lengths {lengths}, expected one value per run")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _of_records(records: Iterable[Any], source: str) -> Table:
    rows = []
    for index, record in enumerate(records, 1):
        if not isinstance(record, Mapping):
            raise UserError(f"{source}: row {index}: got {type(record).__name__}, expected an object with named values")
        rows.append(_flat(record))
    columns = tuple(dict.fromkeys(name for row in rows for name in row))
    _check_size(source, len(rows), len(columns))
    return Table(source, columns, [{name: row.get(name) for name in columns} for row in rows],
                 list(range(1, len(rows) + 1)))  # fmt: skip


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _flat(record: Mapping[Any, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as paths; W&B's {"value": x} and MLflow's [{"key": k, "value": v}] as what they hold."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        name = f"{prefix}{key}"
        if isinstance(value, str) and value[:1] == "{":  # W&B's API gives the configuration as text
            value = _object(value)
        if isinstance(value, Mapping) and "value" in value and set(value) <= {"value", "desc"}:
            value = value["value"]
        if isinstance(value, list) and value and all(isinstance(one, Mapping) and "key" in one for one in value):
            value = {one["key"]: one.get("value") for one in value}
        flat |= _flat(value, f"{name}.") if isinstance(value, Mapping) else {name: value}
    return flat
