"""``isoflop fit`` on anyone's table and ``isoflop plan``: what they say, write, and refuse in a line."""

from __future__ import annotations

import csv
import json
import math
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from benchmarks.scaling_coverage import coverage
from benchmarks.scaling_fit import GRID
from isoflop import cli
from isoflop.errors import UserError
from isoflop.scaling.analysis import analyse
from isoflop.scaling.diagnosis import diagnose
from isoflop.scaling.fitting import LOSSES, fit
from isoflop.scaling.forms import L_N, L_ND, Form, additive
from isoflop.scaling.laws import fit_law
from isoflop.scaling.results import facts
from isoflop.scaling.runs import Run, Study
from isoflop.scaling.tables import Columns, read_table
from isoflop.scaling.uncertainty import floor_interval
from tests.test_scaling import run_stage, write_runs

LAW = np.array([0.3, 40.0, 300.0, 0.45, 0.5])
WRITTEN = {"law.json", "scaling.json", "scaling.csv", "scaling.png", "held_out.png", "isoflop.png", "surface.png"}


def simulated(noise: float = 0.01, seed: int = 0, form: Form = L_ND) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for size in (1e4, 4e4, 1.6e5, 6.4e5):
        for samples in (1e4, 4e4, 1.6e5):
            loss = form.predict(LAW[None, : form.size], np.array([[size], [samples]]))[0, 0]
            rows += [
                {"N": size, "tokens": samples, "seed": one, "L": loss * math.exp(noise * rng.standard_normal())}
                for one in (0, 1)
            ]
    return rows


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
    shown = capsys.readouterr().out
    assert {file.name for file in out.iterdir()} == WRITTEN
    assert [file.name for file in out.parent.iterdir()] == ["out"]  # nothing of the making is left
    found = json.loads((out / "scaling.json").read_text())
    assert found["parameters"]["alpha"]["low"] <= 0.45 <= found["parameters"]["alpha"]["high"]
    assert "held out  6.4e+05 parameters" in shown and found["held_out"]["covered"]
    assert "twice the data would give" in shown and "flops_assumed" in [one["kind"] for one in found["diagnoses"]]
    for name in WRITTEN:
        if name.endswith(".png"):
            with Image.open(out / name) as picture:
                assert picture.size[0] >= 800
    assert cli.main(["fit", str(table), *COLUMNS, "--bootstraps", "60", "--out", str(out)]) == 1
    assert "expected an empty folder or a new one (or --force)" in capsys.readouterr().err
    again = ["--bootstraps", "60", "--out", str(out), "--force", "--json"]
    assert cli.main(["fit", str(table), *COLUMNS, *again]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_parquet_says_the_same_as_csv(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow.parquet import write_table

    rows = simulated()
    write_table(pyarrow.Table.from_pylist(rows), tmp_path / "runs.parquet")
    columns = Columns(parameters="N", samples="tokens", seed="seed", loss="L")
    assert read_table(tmp_path / "runs.parquet", columns) == read_table(write(tmp_path / "runs.csv", rows), columns)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"broken\.parquet: not readable as Parquet"):
        read_table(tmp_path / "broken.parquet", columns)


def test_runs_without_a_loss_and_no_better_than_chance_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = simulated()
    rows[0]["L"], rows[1]["L"], rows[2]["L"] = "", "nan", 95.0
    columns = Columns(parameters="N", samples="tokens", seed="seed", loss="L")
    study = read_table(write(tmp_path / "runs.csv", rows), columns, chance=100)
    assert study.left_out == {"diverged": 2, "undertrained": 1} and len(study.runs) == 21


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"N": "many"}, [], "row 2: column N: found 'many', expected a number"),
        ({"N": "0"}, [], "row 2: column N: found 0, expected a positive number"),
        ({"tokens": "-3"}, [], "row 2: column tokens: found -3, expected a positive number"),
        ({"L": "-0.1"}, [], "row 2: column L: found -0.1, expected a positive loss"),
        ({}, ["--accuracy", "acc"], "expected acc (--accuracy)"),
        ({}, ["--where", "depth=2"], "expected depth (--where depth=2)"),
        ({}, ["--where", "seed"], "--where: found 'seed', expected COLUMN=VALUE"),
        ({}, ["--where", "seed=7"], "found no rows where ['seed=7']"),
        ({}, ["--where", "N=10000.0"], "found the same"),
    ],
)
def test_bad_tables_get_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, str], options: list[str], message: str
) -> None:
    rows = simulated(noise=0.0)
    rows[0].update(change)
    if "same" in message:
        rows, message = [row | {"L": 0.7} for row in rows], "found the same loss 0.7 in all rows"
    table = write(tmp_path / "runs.csv", rows)
    assert cli.main(["fit", str(table), *COLUMNS, *options, "--out", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "found no rows"), ("N,tokens,seed,L\n", "found no rows"), ("N,tokens,seed,L\n1,1,0,0.5\n", "same loss")],
)
def test_tables_with_too_little_are_refused(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "runs.csv").write_text(content)
    with pytest.raises(UserError, match=message):
        read_table(tmp_path / "runs.csv", Columns(parameters="N", samples="tokens", seed="seed", loss="L"))
    two = write(tmp_path / "two.csv", [row for row in simulated() if row["N"] < 1e5 and row["tokens"] < 1e5])
    with pytest.raises(UserError, match=r"found 2 parameters, 2 unique samples among 8 runs, expected at"):
        read_table(two, Columns(parameters="N", samples="tokens", loss="L"))
    with pytest.raises(UserError, match=r"expected --parameters, --samples, --seen or --flops"):
        read_table(two, Columns(loss="L"))


@pytest.mark.parametrize(("axis", "column"), [("unique_samples", "samples"), ("flops", "flops")])
def test_a_table_of_one_axis_gives_its_own_law(tmp_path: Path, axis: str, column: str) -> None:
    levels = np.geomspace(1e3, 1e6, 8)
    rows = [{"x": level, "loss": 0.2 + 30 * level**-0.5} for level in levels]
    study = read_table(write(tmp_path / "runs.csv", rows), Columns(**{column: "x"}))
    assert study.axes == (axis,)
    found = facts(analyse(study, 20, 0))
    values = {name: known["value"] for name, known in found["parameters"].items()}
    assert values["E"] == pytest.approx(0.2, rel=1e-3)
    assert found["held_out"]["relative_error"] == pytest.approx(0, abs=1e-3)
    assert found["configurations"] == 8


@settings(max_examples=15, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from([1e3, 1e4, 1e5, 1e6]), st.sampled_from([1e2, 1e4, 1e6]), st.floats(1e-3, 1e3)),
        min_size=3,
        max_size=16,
    )
)
def test_no_table_gives_nan(points: list[tuple[float, float, float]]) -> None:
    runs = tuple(Run(size, data, data, 6 * size * data, 0, loss) for size, data, loss in points)
    study = Study(runs, all_samples=1e6)
    if len(study.sizes) < 3:
        return
    found = facts(analyse(study, 20, 0))
    assert "NaN" not in json.dumps(found) and "Infinity" not in json.dumps(found)
    assert all(known["value"] is not None for known in found["parameters"].values())


@settings(max_examples=10, deadline=None)
@given(st.randoms(use_true_random=False), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_order_and_units_change_no_prediction(random: Any, size_unit: float, data_unit: float) -> None:
    rows = simulated(noise=0.02)
    shuffled = list(rows)
    random.shuffle(shuffled)

    def law(table: list[dict[str, Any]], per_size: float, per_sample: float) -> float:
        runs = [Run(row["N"] * per_size, (data := row["tokens"] * per_sample), data, 1.0, row["seed"], row["L"])
                for row in table]  # fmt: skip
        fitted = fit_law(Study(tuple(runs)), 20, np.random.default_rng(0), "mse")
        return float(fitted.predict({"parameters": 2e6 * per_size, "unique_samples": 3e5 * per_sample})[0])

    assert law(shuffled, size_unit, data_unit) == pytest.approx(law(rows, 1.0, 1.0), rel=1e-4)


def test_flops_stand_for_the_samples_that_a_table_lacks(tmp_path: Path) -> None:
    rows = [{"N": size, "C": flops, "loss": 0.3 + 40 / size**0.45 + 900 / (flops / 6 / size) ** 0.5}
            for size in (1e4, 3e4, 1e5, 3e5, 1e6) for flops in (1e14, 1e15, 1e16)]  # fmt: skip
    study = read_table(write(tmp_path / "runs.csv", rows), Columns(parameters="N", flops="C"))
    assert study.axes == ("parameters", "unique_samples") and "no samples in the table" in study.assumed
    found = facts(analyse(study, 20, 0))
    assert found["configurations"] == 15 and found["parameters"]["E"]["value"] == pytest.approx(0.3, rel=1e-3)
    with pytest.raises(UserError, match="expected --parameters too, or --flops alone"):
        read_table(tmp_path / "runs.csv", Columns(samples="N", flops="C"))


@pytest.mark.parametrize("noise", [0.001, 0.03])
def test_the_interval_of_the_floor_holds_it_at_any_noise(noise: float) -> None:
    """Also where the best run lies below E, and where the noise is far smaller than E."""
    sizes = np.repeat(np.geomspace(1e3, 1e7, 9), 3)
    hits = []
    for seed in range(20):
        losses = (0.5 + 30 / sizes**0.7) * np.exp(noise * np.random.default_rng(seed).standard_normal(len(sizes)))
        values, _ = fit(L_N, sizes[None], losses, LOSSES["huber"])
        bounds = floor_interval(L_N, sizes[None], losses, np.repeat(np.arange(9), 3), values)
        assert bounds is not None and bounds[1] - bounds[0] > 0.5 * noise * 0.5 / 3
        hits.append(bounds[0] <= 0.5 <= bounds[1])
    assert np.mean(hits) >= 0.8


def test_repeats_of_one_configuration_make_no_lack_of_fit() -> None:
    counts = np.array([24, 2, 2, 2] + 12 * [1])
    doubted = 0
    for seed in range(12):
        rng = np.random.default_rng(seed)
        grid = [(size, data) for size in (1e4, 4e4, 1.6e5, 6.4e5) for data in (1e4, 4e4, 1.6e5, 6.4e5)]
        runs = [
            Run(size, data, data, 6 * size * data, seed,
                float(L_ND.predict(LAW[None], np.array([[size], [data]]))[0, 0] * np.exp(0.02 * rng.standard_normal())))
            for (size, data), count in zip(grid, counts, strict=True) for seed in range(count)
        ]  # fmt: skip
        study = Study(tuple(runs), all_samples=6.4e5)
        law = fit_law(study, 20, rng)
        doubted += "lack_of_fit" in {doubt.kind for doubt in diagnose(study, law, None)}
    assert doubted <= 1


def test_the_form_that_made_the_runs_is_chosen() -> None:
    multiplicative = Form((("parameters", "unique_samples"),))
    for form in (L_ND, multiplicative):
        law = LAW if form == L_ND else np.array([0.3, 400.0, 0.3, 0.3])
        runs: list[Run] = []
        for row in simulated(0.0):
            loss = float(form.predict(law[None], np.array([[row["N"]], [row["tokens"]]]))[0, 0])
            noisy = loss * math.exp(0.01 * np.random.default_rng(len(runs)).standard_normal())
            runs.append(Run(row["N"], row["tokens"], row["tokens"], 1.0, row["seed"], noisy))
        fitted = fit_law(Study(tuple(runs)), 20, np.random.default_rng(0))
        assert fitted.form == form and sum(one.weight for one in fitted.fits) == pytest.approx(1)


@pytest.mark.parametrize(("fresh", "verdict"), [(0.0, "longer"), (900.0, "data")])
def test_new_data_are_told_from_more_passes_over_the_same(fresh: float, verdict: str) -> None:
    form = additive("parameters", "unique_samples", "seen_samples")
    law, rng = np.array([0.1, 20.0, fresh, 900.0, 0.6, 0.7, 0.6]), np.random.default_rng(0)
    runs = []
    for size, data, passes, seed in product((1e4, 4e4, 1.6e5, 6.4e5), (1e4, 2e4, 4e4), (1, 2, 4), (0, 1)):
        loss = float(form.predict(law[None], np.array([[size], [data], [data * passes]]))[0, 0])
        noisy = loss * math.exp(0.01 * rng.standard_normal())
        runs.append(Run(size, data, data * passes, 6 * size * data * passes, seed, noisy))
    found = facts(analyse(Study(tuple(runs), all_samples=4e4), 60, 0))["data_question"]
    assert found["verdict"] == verdict
    gains = {name: found[name]["gain"] for name in ("twice_data", "twice_epochs", "twice_width")}
    assert gains["twice_data"] >= gains["twice_epochs"] > gains["twice_width"] > 0
    assert (found["twice_data"]["flops_factor"], found["twice_epochs"]["flops_factor"]) == (2, 2)


@pytest.mark.parametrize("design", ["3x3", "4x4", "isoflop"])
def test_intervals_cover(design: str) -> None:
    """A small version of benchmarks/scaling_coverage.py: 95 % intervals of 30 studies miss at most 6 times each (the
    chance of more, at a coverage of 93 %, is 0.5 %)."""
    for quantity, (share, count) in coverage(design, 0.02, studies=30, bootstraps=60).items():
        if count:
            assert share >= 1 - 6 / count, quantity


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose law is known and whose models were timed."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "dvc.yaml").touch()
    run_stage(write_runs(folder / "runs", spread=0.005), folder / "models")
    (folder / "metrics").mkdir()
    timed = {
        "conditions": {"headline": "cell"},
        "base": {"cell": {"p50_ms": 0.4}},
        "distilled": {"cell": {"p50_ms": 0.1}},
    }
    (folder / "metrics" / "latency.json").write_text(json.dumps(timed))
    sizes = {"base": {"parameters": 40_000}, "distilled": {"parameters": 10_000}}
    (folder / "metrics" / "variants.json").write_text(json.dumps(sizes))
    return folder


def planned(project: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert cli.main(["plan", *arguments, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_plan_answers_from_either_end(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    best = planned(project, capsys, "--flops", "1e11")
    assert best["loss_interval"][0] < best["loss"] < best["loss_interval"][1]
    assert best["parameters_interval"][0] < best["parameters"] < best["parameters_interval"][1]
    by_loss = planned(project, capsys, "--loss", str(best["loss"]))
    assert by_loss["flops"] == pytest.approx(1e11, rel=0.02)
    by_size = planned(project, capsys, "--parameters", str(best["parameters"]))
    assert by_size["loss"] == pytest.approx(best["loss"], rel=0.01)
    assert planned(project, capsys, "--latency-ms", "0.2")["parameters"] == pytest.approx(20_000, rel=0.02)
    assert cli.main(["plan", "--flops", "1e11"]) == 0
    shown = capsys.readouterr().out
    assert "best (1e11 FLOPs): width" in shown and "that of a new run" in shown


def test_plan_refuses_what_the_law_cannot_answer(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(project)
    assert cli.main(["plan", "--loss", "1e-6"]) == 1
    assert "which no budget reaches by the law L(N, D)" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        cli.main(["plan", "--flops", "-3"])
    assert "argument --flops: found '-3', expected a positive number" in capsys.readouterr().err
    (tmp_path / "dvc.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["plan", "--flops", "1e11"]) == 1
    assert "law.json: not a readable law" in capsys.readouterr().err


@pytest.mark.skipif(not GRID.is_dir(), reason=f"no public study at ../shared/datasets/scaling/{GRID.name}")
def test_the_public_iso_flop_budget(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {"parameters": "N", "samples": "D", "epochs": "epochs", "flops": "total_flops", "seed": "seed",
             "loss": "final_test_loss_avg_last5"}  # fmt: skip
    options = [part for name, column in names.items() for part in (f"--{name}", column)]
    out = tmp_path / "out"
    table = GRID / "fixed_compute_data.csv"
    assert cli.main(["fit", str(table), *options, "--bootstraps", "100", "--out", str(out)]) == 0
    (profile,) = json.loads((out / "scaling.json").read_text())["profiles"]
    for name in ("parameters_interval", "law_parameters_interval"):
        assert profile[name][0] < 5.1e5 and profile[name][1] > 2.9e5
    assert "N* " in capsys.readouterr().out


def test_every_objective_is_on_offer(tmp_path: Path) -> None:
    table = write(tmp_path / "runs.csv", simulated())
    study = read_table(table, Columns(parameters="N", samples="tokens", seed="seed", loss="L"))
    for objective in LOSSES:
        assert analyse(study, 20, 0, objective).law.values[3] == pytest.approx(0.45, abs=0.1)


def test_plan_says_when_the_law_weighs_nothing_against_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dvc.yaml").touch()
    run_stage(write_runs(tmp_path / "runs", fractions=(1.0,), spread=0.005), tmp_path / "models")
    monkeypatch.chdir(tmp_path)
    for asked in ("--flops", "--loss", "--parameters"):
        assert cli.main(["plan", asked, "0.5"]) == 1
        assert "no budget has a best size by the law L(N) = E + A/N^α" in capsys.readouterr().err
