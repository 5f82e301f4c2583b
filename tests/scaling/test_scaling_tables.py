"""``isoflop fit`` on a user's table: output, files and one-line errors."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.scaling_fit import GRID
from isoflop.cli import main as cli
from isoflop.runtime.errors import UserError
from isoflop.scaling.analysis import analyse
from isoflop.scaling.fitting.objectives import OBJECTIVES
from isoflop.scaling.results import facts
from isoflop.scaling.tables.user_tables import Columns, read_table
from tests.scaling_tables import simulated

WRITTEN = {"law.json", "scaling.json", "scaling.csv", "scaling.png", "held_out.png", "isoflop.png", "surface.png"}


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    with file.open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return file


COLUMNS = ["--parameters", "N", "--samples", "tokens", "--seed", "seed", "--loss", "L"]


def test_fit_analyses_a_table_and_writes_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table, out = write(tmp_path / "runs.csv", simulated()), tmp_path / "new" / "out"
    assert cli.main(["fit", str(table), *COLUMNS, "--bootstraps", "60", "--out", str(out)]) == 0
    shown = " ".join(capsys.readouterr().out.split())  # lines are wrapped
    assert {file.name for file in out.iterdir()} == WRITTEN
    assert [file.name for file in out.parent.iterdir()] == ["out"]  # no temporary folder is left
    found = json.loads((out / "scaling.json").read_text())
    assert found["parameters"]["alpha"]["low"] <= 0.45 <= found["parameters"]["alpha"]["high"]
    assert "6.4e+05 parameters (held out)" in shown and found["held_out"]["covered"]
    assert "twice the data would give" in shown and "flops_assumed" in [one["kind"] for one in found["diagnostics"]]
    for name in WRITTEN:
        if name.endswith(".png"):
            with Image.open(out / name) as picture:
                assert picture.size[0] >= 800
    assert cli.main(["fit", str(table), *COLUMNS, "--bootstraps", "60", "--out", str(out)]) == 1
    assert "expected a new or empty one; fix: --force writes into it" in capsys.readouterr().err
    again = ["--bootstraps", "60", "--out", str(out), "--force", "--json"]
    assert cli.main(["fit", str(table), *COLUMNS, *again]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_parquet_gives_the_same_study_as_csv(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    rows = simulated()
    write_table(pyarrow.Table.from_pylist(rows), tmp_path / "runs.parquet")
    columns = Columns(parameters="N", samples="tokens", seed="seed", loss="L")
    assert read_table(tmp_path / "runs.parquet", columns) == read_table(write(tmp_path / "runs.csv", rows), columns)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"broken\.parquet: not readable as Parquet"):
        read_table(tmp_path / "broken.parquet", columns)


def test_diverged_and_undertrained_runs_are_excluded_and_counted(tmp_path: Path) -> None:
    rows = simulated()
    rows[0]["L"], rows[1]["L"], rows[2]["L"] = "", "nan", 95.0
    columns = Columns(parameters="N", samples="tokens", seed="seed", loss="L")
    study = read_table(write(tmp_path / "runs.csv", rows), columns, chance=100)
    assert study.excluded == {"without L": 1, "diverged": 1, "undertrained": 1} and len(study.runs) == 21


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"N": "many"}, [], "row 2: column N: got 'many', expected a number"),
        ({"N": "0"}, [], "row 2: column N: got 0, expected a positive number"),
        ({"tokens": "-3"}, [], "row 2: column tokens: got -3, expected a positive number"),
        ({"L": "-0.1"}, [], "row 2: column L: got -0.1, expected a positive loss"),
        ({}, ["--accuracy", "acc"], "expected acc (--accuracy)"),
        ({}, ["--where", "depth=2"], "expected depth (--where depth=2)"),
        ({}, ["--where", "seed"], "--where: got 'seed', expected COLUMN=VALUE"),
        ({}, ["--where", "seed=7"], "got no rows where ['seed=7']"),
        ({}, ["--where", "N=10000.0"], "got the same"),
    ],
)
def test_bad_tables_give_a_one_line_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], options: list[str], message: str
) -> None:
    rows = simulated(noise=0.0)
    rows[0].update(change)
    if "same" in message:
        rows, message = [row | {"L": 0.7} for row in rows], "got the same loss 0.7 in all rows"
    table = write(tmp_path / "runs.csv", rows)
    assert cli.main(["fit", str(table), *COLUMNS, *options, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "got no rows"), ("N,tokens,seed,L\n", "got no rows"), ("N,tokens,seed,L\n1,1,0,0.5\n", "same loss")],
)
def test_tables_with_too_few_levels_are_an_error(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "runs.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "runs.csv", Columns(parameters="N", samples="tokens", seed="seed", loss="L"))
    two = write(tmp_path / "two.csv", [row for row in simulated() if row["N"] < 1e5 and row["tokens"] < 1e5])
    with pytest.raises(UserError, match=r"got levels 2 of parameters, 2 of unique samples in 8 runs, expected at"):
        read_table(two, Columns(parameters="N", samples="tokens", loss="L"))
    with pytest.raises(UserError, match=r"expected --parameters, --samples, --seen or --flops"):
        read_table(two, Columns(loss="L"))


@pytest.mark.parametrize(("axis", "column"), [("unique_samples", "samples"), ("flops", "flops")])
def test_a_table_of_one_axis_gives_a_law_of_that_axis(tmp_path: Path, axis: str, column: str) -> None:
    levels = np.geomspace(1e3, 1e6, 8)
    rows = [{"x": level, "loss": 0.2 + 30 * level**-0.5} for level in levels]
    study = read_table(write(tmp_path / "runs.csv", rows), Columns(**{column: "x"}))
    assert study.axes == (axis,)
    found = facts(analyse(study, 20, 0))
    values = {name: known["value"] for name, known in found["parameters"].items()}
    assert values["E"] == pytest.approx(0.2, rel=1e-3)
    assert found["held_out"]["relative_error"] == pytest.approx(0, abs=1e-3)
    assert found["configurations"] == 8


def test_missing_samples_follow_from_the_flops(tmp_path: Path) -> None:
    rows = [{"N": size, "C": flops, "loss": 0.3 + 40 / size**0.45 + 900 / (flops / 6 / size) ** 0.5}
            for size in (1e4, 3e4, 1e5, 3e5, 1e6) for flops in (1e14, 1e15, 1e16)]  # fmt: skip
    study = read_table(write(tmp_path / "runs.csv", rows), Columns(parameters="N", flops="C"))
    assert study.axes == ("parameters", "unique_samples") and "the table has no samples" in study.assumed
    found = facts(analyse(study, 20, 0))
    assert found["configurations"] == 15 and found["parameters"]["E"]["value"] == pytest.approx(0.3, rel=1e-3)
    with pytest.raises(UserError, match="expected --parameters too, or --flops alone"):
        read_table(tmp_path / "runs.csv", Columns(samples="N", flops="C"))


@pytest.mark.skipif(not GRID.is_dir(), reason=f"no public study at ../shared/datasets/scaling/{GRID.name}")
def test_the_public_isoflop_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"parameters": "N", "samples": "D", "epochs": "epochs", "flops": "total_flops", "seed": "seed",
             "loss": "final_test_loss_avg_last5"}  # fmt: skip
    options = [part for name, column in names.items() for part in (f"--{name}", column)]
    out = tmp_path / "out"
    table = GRID / "fixed_compute_data.csv"
    assert cli.main(["fit", str(table), *options, "--bootstraps", "100", "--out", str(out)]) == 0
    (profile,) = json.loads((out / "scaling.json").read_text())["profiles"]
    for name in ("parameters_interval", "law_parameters_interval"):
        assert profile[name][0] < 5.1e5 and profile[name][1] > 2.9e5
    assert "IsoFLOP optimum" in capsys.readouterr().out


def test_every_objective_fits(tmp_path: Path) -> None:
    table = write(tmp_path / "runs.csv", simulated())
    study = read_table(table, Columns(parameters="N", samples="tokens", seed="seed", loss="L"))
    for objective in OBJECTIVES:
        assert analyse(study, 20, 0, objective).law.values[3] == pytest.approx(0.45, abs=0.1)


NO_EFFECT = (  # parameters, unique images, images seen and loss of a study with few noisy photos
    (20219, 85, 680, 0.908429), (20219, 85, 1360, 1.071545), (20219, 170, 1360, 0.787187),
    (20219, 170, 2720, 0.737822), (20219, 340, 2720, 0.846624), (20219, 340, 5440, 0.768266),
    (43563, 85, 680, 0.889925), (43563, 85, 1360, 0.851576), (43563, 170, 1360, 0.820884),
    (43563, 170, 2720, 0.838882), (43563, 340, 2720, 0.849), (43563, 340, 5440, 0.736228),
    (167163, 85, 680, 0.923011), (167163, 85, 1360, 0.925419), (167163, 170, 1360, 0.827432),
    (167163, 170, 2720, 0.879383), (167163, 340, 2720, 0.782651), (167163, 340, 5440, 0.748805),
    (75835, 85, 680, 0.944536), (75835, 85, 1360, 0.986919), (75835, 170, 1360, 0.834013),
    (75835, 170, 2720, 0.859558), (75835, 340, 2720, 0.763106), (75835, 340, 5440, 0.751846),
)  # fmt: skip


def test_runs_without_an_effect_of_size_or_data_have_a_flat_surface(tmp_path: Path) -> None:
    rows = [{"N": size, "D": images, "S": seen, "loss": loss} for size, images, seen, loss in NO_EFFECT]
    table, out = str(write(tmp_path / "runs.csv", rows)), str(tmp_path / "out")
    columns = ["--parameters", "N", "--samples", "D", "--seen", "S"]
    assert cli.main(["fit", table, *columns, "--bootstraps", "20", "--out", out]) == 0
    law = json.loads((tmp_path / "out" / "scaling.json").read_text())
    assert {found["kind"] for found in law["diagnostics"]} >= {"no_gain"} and (
        tmp_path / "out" / "surface.png"
    ).is_file()
