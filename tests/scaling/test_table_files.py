"""Tables as they come: formats, encodings, separators, written numbers, unfinished runs, conditions and copies."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.runtime.errors import UserError
from isoflop.scaling.tables import files
from isoflop.scaling.tables.files import of_frame, read_file
from isoflop.scaling.tables.user_tables import Columns, read_table
from isoflop.scaling.tables.values import matching, number

ROWS = [(125e6, 2.5e9, 3.20), (350e6, 1e10, 2.80), (760e6, 2.5e9, 2.93), (1.3e9, 1e10, 2.61)]
COLUMNS = Columns(parameters="N", samples="D", loss="loss")
TEXT = "N,D,loss\n" + "".join(f"{size:.0f},{samples:.0f},{loss}\n" for size, samples, loss in ROWS)
RECORDS = [{"N": size, "D": samples, "loss": loss} for size, samples, loss in ROWS]
SPLIT = {"columns": ["N", "D", "loss"], "index": [0, 1, 2, 3], "data": [list(row) for row in ROWS]}
BY_COLUMN = {name: [row[name] for row in RECORDS] for name in ("N", "D", "loss")}
PANDAS = {name: {str(index): value for index, value in enumerate(values)} for name, values in BY_COLUMN.items()}
WANDB = [
    {"name": "run", "state": "finished", "config": {"N": {"desc": None, "value": row["N"]}, "D": row["D"]},
     "summary": {"loss": row["loss"]}} for row in RECORDS
]  # fmt: skip
MLFLOW = {
    "runs": [
        {"info": {"status": "FINISHED"}, "data": {"metrics": [{"key": "loss", "value": row["loss"]}],
         "params": [{"key": "N", "value": str(row["N"])}, {"key": "D", "value": str(row["D"])}]}} for row in RECORDS
    ]
}  # fmt: skip
GERMAN = "N;D;loss\n" + "".join(
    f"{size:.0f};{samples:.0f};{str(loss).replace('.', ',')}\n" for size, samples, loss in ROWS
)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("runs.csv", TEXT.encode()),
        ("runs.csv", TEXT.replace(",", ";").encode("utf-8-sig")),
        ("runs.tsv", TEXT.replace(",", "\t").encode("utf-16")),
        ("runs.txt", TEXT.replace(",", "\t").encode("utf-16-le")),
        ("runs.csv", ("# größe\n" + TEXT.replace(",", ", ")).encode("latin-1")),
        ("runs.csv", b"sep=;\r\n" + TEXT.replace(",", ";").replace("\n", "\r\n").encode()),
        ("runs.csv", GERMAN.encode()),
        ("runs.csv.gz", gzip.compress(TEXT.encode(), mtime=0)),
        ("runs.csv.bz2", bz2.compress(TEXT.encode())),
        ("runs.csv.xz", lzma.compress(TEXT.encode())),
        ("runs.csv", TEXT.encode("utf-32")),
        ("aligned.txt", TEXT.replace(",", "   ").encode()),
        (
            "runs.md",
            ("|" + TEXT.replace(",", "|").replace("\n", "|\n|", TEXT.count("\n") - 1))
            .replace("\n", "\n|---|:--:|---|\n", 1)
            .encode(),
        ),
        ("twice.csv", (TEXT + TEXT.splitlines()[0] + "\n").encode()),
        ("index.json", json.dumps(dict(enumerate(RECORDS))).encode()),
        ("wandb.jsonl", "\n".join(json.dumps(row | {"config": json.dumps(row["config"])}) for row in WANDB).encode()),
        ("cased.csv", TEXT.replace("loss", "Loss").encode()),
        ("runs.json", json.dumps(RECORDS).encode()),
        ("runs.json", json.dumps(SPLIT).encode()),
        ("runs.json", json.dumps(BY_COLUMN).encode()),
        ("runs.json", json.dumps(PANDAS).encode()),
        ("runs.jsonl.gz", gzip.compress("\n".join(map(json.dumps, RECORDS)).encode(), mtime=0)),
        ("wandb.json", json.dumps(WANDB).encode()),
        ("mlflow.json", json.dumps(MLFLOW).encode()),
    ],
)
def test_every_format_gives_the_same_runs(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    study = read_table(tmp_path / name, COLUMNS)
    assert [(run.parameters, run.unique_samples, run.loss) for run in study.runs] == ROWS


class Pandas:
    def to_dict(self, orient: str) -> list[dict[str, Any]]:
        return RECORDS if orient == "records" else []


class Polars:
    def to_dicts(self) -> list[dict[str, Any]]:
        return RECORDS


@pytest.mark.parametrize(
    "frame", [RECORDS, BY_COLUMN, {n: np.array(v) for n, v in BY_COLUMN.items()}, Pandas(), Polars()]
)
def test_data_frames_and_columns_are_tables(frame: Any) -> None:
    assert [run.loss for run in read_table(frame, COLUMNS).runs] == [row[2] for row in ROWS]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"PK\x03\x04zip", "got a workbook or zip archive, expected a table; fix: save it as CSV"),
        (b"\x1f\x8bnothing", "not readable as gzip"),
        (b'{"N": [1, 2], "loss": [1]}', "columns of different lengths"),
        (b"[1, 2]", "row 1: got int, expected an object with named values"),
        (b"N,D,loss\n125,000,000,1e9,3.2\n", "row 2: got 5 fields, expected 3; fix: put fields that contain ',' in"),
        (b"{broken", "not readable as JSON"),
        (b"N,loss,loss\n1,2,3\n", "got 2 columns loss (--loss), expected one"),
        (b"[" * 100_000, "not readable (maximum recursion depth"),
        (b'[{"a":' * 3000 + b"1" + b"}]" * 3000, "not readable (maximum recursion depth"),
        (b'"' + b"a" * 200_000, "not readable as CSV (field larger than field limit"),
        (b"," * 9_999 + b"\n" + b"1\n" * 9_999, "got 10,000 rows of 10,000 columns, expected at most"),
    ],
)
def test_what_is_no_table_is_a_one_line_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "runs.csv").write_bytes(content)
    with pytest.raises(UserError, match=r"runs\.csv") as caught:
        read_table(tmp_path / "runs.csv", COLUMNS)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(UserError, match="expected a data frame, columns or rows"):
        of_frame(7)
    with pytest.raises(UserError, match="not readable"):
        read_file(tmp_path / "none.csv")


def test_a_small_file_that_becomes_a_large_table_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_MOST_BYTES", 1 << 20)
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * (1 << 20), mtime=0))
    with pytest.raises(UserError, match="got more than 1 MiB"):
        read_file(tmp_path / "bomb.gz")
    parquet, pa = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    repeated = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000_000, np.int8)), pa.array([1.0]))
    parquet.write_table(pa.table({"N": repeated}), tmp_path / "bomb.parquet")
    with pytest.raises(UserError, match="got 20,000,000 rows of 1 columns"):
        read_file(tmp_path / "bomb.parquet")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("125M", 125e6), ("1.3B", 1.3e9), ("125,000,000", 125e6), ("125_000_000", 125e6), ("125 000 000", 125e6),
        ("2.5B tokens", 2.5e9), ("50k", 5e4), ("3.1 ZFLOPs", 3.1e21), ("1e21 FLOPs", 1e21), ("1.5 billion", 1.5e9),
        ("55.2%", 0.552), ("-3", -3), ("1,234.5", 1234.5), ("6.02E+23", 6.02e23), ("5.", 5.0), (7, 7.0),
        ("None", None), ("N/A", None), ("", None), (None, None), ("#DIV/0!", None), ("<NA>", None),
        ("\N{EM DASH}", None),
        ("OOM", None), ("~3.5e6", 3.5e6), ("3 × 10^8", 3e8), ("2.5*10^-3", 2.5e-3), ("6x10⁶", 6e6),
        ("2.31 ± 0.02", 2.31),
        ("2.31(2)", 2.31), ("2.31 +/- 0.02", 2.31),
    ],
)  # fmt: skip
def test_written_numbers(text: str | int | None, value: float | None) -> None:
    assert number(text) == (None if value is None else pytest.approx(value, rel=1e-12))


@pytest.mark.parametrize("text", ["many", "1.3X", "12,34", "3e", "--3", "1 2"])
def test_what_is_no_number(text: str) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        number(text)


def test_decimal_commas_and_nan() -> None:
    assert np.isnan(number("nan") or 0.0) and number("3,20", decimal_comma=True) == 3.2
    assert number("125.000.000", decimal_comma=True) == 125e6


def test_rows_without_a_value_and_unfinished_runs_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [*(f"{size:.0f},{samples:.0f},{loss},finished" for size, samples, loss in ROWS),
            "1e6,1e9,None,finished", "2e6,1e9,nan,finished", ",1e9,3.0,finished", "3e6,1e9,3.1,crashed",
            "3e6,1e9,3.1,running"]  # fmt: skip
    (tmp_path / "runs.csv").write_text("N,D,loss,State\n" + "\n".join(rows))
    study = read_table(tmp_path / "runs.csv", COLUMNS)
    assert study.excluded == {"without loss": 1, "diverged": 1, "without N": 1, "crashed": 1, "running": 1}
    assert study.dropped[0] == (6, "without loss") and len(study.runs) == 4


@pytest.mark.parametrize(
    ("condition", "kept"),
    [("N>350M", [2, 3]), ("N<=350000000", [0, 1]), ("N=125000000.0", [0]), ("N!=125M", [1, 2, 3]),
     ("N >= 760e6", [2, 3]), ("D==1e10", [1, 3]), ("loss<2.9", [1, 3])],
)  # fmt: skip
def test_conditions_compare_numbers_as_numbers(condition: str, kept: list[int]) -> None:
    rows = [{"N": f"{size / 1e6:.0f}M", "D": str(samples), "loss": loss} for size, samples, loss in ROWS]
    assert matching(of_frame(rows), [condition]) == kept


def test_a_condition_on_text_and_one_without_a_number() -> None:
    rows = [row | {"name": name} for row, name in zip(RECORDS, "aabb", strict=True)]
    with pytest.raises(UserError, match=r"--where: got 'N<many', expected a number after <"):
        read_table(rows, COLUMNS, ["N<many"])
    with pytest.raises(UserError, match="got levels 2 of parameters, 2 of unique samples in 2 runs"):
        read_table(rows, COLUMNS, ["name=a"])


def test_rows_exported_again_with_fewer_digits_are_copies(tmp_path: Path) -> None:
    rows = ["124635456,1e9,2.87431", "345355200,1e9,2.61532", "603188352,1e9,2.51021", "1005461760,1e9,2.4312"]
    again = ["1.246e8,1e9,2.874", "603188352,1e9,2.51021"]
    (tmp_path / "runs.csv").write_text("\n".join(["N,D,loss", *rows, *again]))
    study = read_table(tmp_path / "runs.csv", COLUMNS)
    assert study.excluded == {"copy of another row": 2} and study.dropped[0] == (6, "copy of another row")
    assert [run.parameters for run in study.runs] == [124635456, 345355200, 603188352, 1005461760]


def test_runs_within_two_percent_are_no_repeats() -> None:
    rows = [{"N": size, "D": 1e9, "loss": loss} for size, loss in [(1e6, 3.0), (1.01e6, 2.99), (4e6, 2.7), (8e6, 2.6)]]
    assert len(set(read_table(rows, COLUMNS).configurations.tolist())) == 4


def test_seeds_may_be_text() -> None:
    factors = {"a": 1.0, "b": 1.01}
    rows = [row | {"seed": seed, "loss": factors[seed] * row["loss"]} for row in RECORDS for seed in factors]
    study = read_table(rows, Columns(parameters="N", samples="D", seed="seed"))
    assert [run.seed for run in study.runs] == [0, 1] * 4 and len(set(study.configurations.tolist())) == 4
