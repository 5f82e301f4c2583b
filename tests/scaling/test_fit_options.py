"""Options of a fit: the form, E = 0, one exponent for all axes, runs held out by a condition, weights and trimming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import isoflop
from isoflop.cli import main as cli
from isoflop.runtime.errors import UserError
from isoflop.scaling.analysis import analyse
from isoflop.scaling.fitting.law_fitting import fit_law
from isoflop.scaling.fitting.objectives import OBJECTIVES, objective_of
from isoflop.scaling.fitting.one_form import fit, refit
from isoflop.scaling.fitting.options import forms_of, trimmed, with_gamma
from isoflop.scaling.forms import M4, AnyForm, Broken, Floats, Form, additive, form_from_json, form_to_json
from isoflop.scaling.tables.runs import Study
from isoflop.scaling.tables.user_tables import Columns, read_table
from tests.scaling_tables import simulated

TIED = Form((("parameters",), ("unique_samples",)), tied=True)
COLUMNS = Columns(parameters="N", samples="tokens", seed="seed", loss="L")


def _levels() -> Floats:
    sizes, samples = np.meshgrid(np.geomspace(1e4, 1e7, 5), np.geomspace(1e5, 1e8, 4))
    return np.stack([sizes.ravel(), samples.ravel()])


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_tied_exponents_are_recovered_and_reach_the_minimum_of_a_simplex_search(objective: str) -> None:
    from scipy.optimize import minimize

    law, levels = np.array([1.7, 400, 600, 0.33, 0.33]), _levels()
    losses = TIED.predict(law[None], levels)[0]
    values, _ = fit(TIED, levels, losses, OBJECTIVES[objective])
    np.testing.assert_allclose(values, law, rtol=1e-5)
    noisy = losses * np.exp(0.02 * np.random.default_rng(0).standard_normal(losses.size))
    values, reached = fit(TIED, levels, noisy, OBJECTIVES["mse"])

    def squares(point: Floats) -> float:
        table = np.array([[point[0], *np.exp(point[1:3]), point[3], point[3]]])
        return float(0.5 * (np.log(TIED.predict(table, levels)[0] / noisy) ** 2).sum())

    options = {"maxiter": 20_000, "maxfev": 20_000, "fatol": 1e-14, "xatol": 1e-10}
    best = minimize(squares, [1.7, 6, 6.4, 0.33], method="Nelder-Mead", options=options)
    assert values[3] == values[4] and reached <= best.fun * (1 + 1e-9)
    again = refit(TIED, levels, noisy[None], OBJECTIVES["mse"], law)[0]
    np.testing.assert_allclose(again, values, rtol=1e-4)
    assert TIED.free == 4 and TIED.label == "L(N, D) = E + A/N^α + B/D^α"
    assert form_from_json(json.loads(json.dumps(form_to_json(TIED)))) == TIED


def test_forms_are_chosen_by_name() -> None:
    two = read_table(simulated(), COLUMNS)
    assert forms_of(two) is None
    assert forms_of(two, "additive") == [additive("parameters", "unique_samples")]
    assert forms_of(two, "multiplicative") == [Form((("parameters", "unique_samples"),))]
    assert forms_of(two, fix=["E=0"], tie=True) == [
        Form((("parameters",), ("unique_samples",)), irreducible=False, tied=True),
        Form((("parameters", "unique_samples"),), irreducible=False, tied=True),
    ]
    one = read_table([row for row in simulated() if row["tokens"] == 1.6e5], COLUMNS)
    assert forms_of(one, "m4") == [M4("parameters")] and forms_of(one, "broken") == [Broken("parameters")]
    for options, message in (
        ({"form": "m4"}, "--form: got m4, which describes one axis"),
        ({"form": "cubic"}, "--form: got cubic, expected one of auto, additive"),
        ({"fix": ["gamma=1"]}, "--fix: got gamma=1, expected E=0 or alpha=VALUE, beta=VALUE up to 10"),
        ({"fix": ["E=1"]}, "--fix: got E=1, expected E=0"),
        ({"fix": ["alpha=1"], "tie": True}, "--fix: got alpha=1, expected E=0 with --tie"),
    ):
        with pytest.raises(UserError, match=message):
            forms_of(two, **options)


def test_an_exponent_can_be_fixed() -> None:
    study = read_table(simulated(0.0), COLUMNS)
    (form, _) = forms_of(study, fix=["alpha=0.4"]) or []
    assert isinstance(form, Form) and form.free == 4 and form.label == "L(N, D) = E + A/N^0.4 + B/D^β"
    law = analyse(study, 20, 0, "mse", forms=[form]).law
    assert law.values[3] == 0.4 and (law.replicates[:, 3] == 0.4).all() and np.ptp(law.replicates[:, 4]) > 0
    assert form_from_json(json.loads(json.dumps(form_to_json(form)))) == form


def test_a_searched_gamma_is_that_of_the_curve() -> None:
    rows = [{"D": size, "error": 5 + 300 * size**-0.41} for size in (25, 50, 100, 200, 400)]
    study, form = with_gamma(read_table(rows, Columns(samples="D", loss="error")), "search")
    assert dict(form.fixed) == {"unique_samples": 0.41} and form.free == 2
    _, fixed = with_gamma(study, "-0.5")
    assert dict(fixed.fixed) == {"unique_samples": 0.5}
    for wrong in ("0.5", "often", "-20"):
        with pytest.raises(UserError, match="--gamma: got"):
            with_gamma(study, wrong)
    with pytest.raises(UserError, match="expected a learning curve over --samples alone"):
        with_gamma(read_table(simulated(), COLUMNS), "search")


@pytest.mark.parametrize("form", [additive("parameters"), M4("parameters")])
def test_a_quantile_of_the_runs_lies_below_the_law(form: AnyForm) -> None:
    levels = np.geomspace(1e4, 1e8, 200)[None]
    clean = 0.5 + 40 * levels[0] ** -0.4
    losses = clean * np.exp(np.random.default_rng(0).exponential(0.1, 200))
    for name, low, high in (("huber:0.1", 0.05, 0.15), ("l1:0.5", 0.45, 0.55), ("l1:0.9", 0.85, 0.95)):
        values, _ = fit(form, levels, losses, objective_of(name))
        assert low < (losses < form.predict(values[None], levels)[0]).mean() < high
    for name in ("huber:0", "huber:1", "huber:few", "other:0.5"):
        with pytest.raises(UserError, match="objective: got"):
            objective_of(name)


def test_an_envelope_is_resampled_by_configurations() -> None:
    rng = np.random.default_rng(0)
    rows = [row | {"L": row["L"] * float(np.exp(rng.exponential(0.05)))} for row in simulated(0.0)]
    study = read_table(rows, COLUMNS)
    law = fit_law(study, 20, rng, "huber:0.2")
    assert law.resampling == "pairs" and (law.predict(_points(study)) > study.losses).mean() < 0.35
    with pytest.raises(UserError, match="--bootstrap: got wild, expected pairs or cluster for a quantile"):
        fit_law(study, 20, rng, "huber:0.2", resampling="wild")


def _points(study: Study) -> dict[str, Floats | float]:
    return {axis: study.column(axis) for axis in study.axes}


@pytest.mark.parametrize("condition", ["N>1e5", "parameters>100k", "test", "test=1"])
def test_runs_are_held_out_by_a_condition_or_a_column(condition: str) -> None:
    rows = [row | {"test": int(row["N"] > 1e5)} for row in simulated()]
    rows += [row | {"N": 2e4, "L": row["L"] * (2e4 / 1e4) ** -0.1} for row in rows if row["N"] == 1e4]
    study = read_table(rows, COLUMNS, hold_out=condition)
    held_out = analyse(study, 20, 0).held_out
    assert held_out is not None and held_out.name == f"12 runs ({condition})"
    assert {run.parameters for run in study.runs if held_out.includes(run)} == {1.6e5, 6.4e5}
    assert len(held_out.comparisons) == 6
    with pytest.raises(UserError, match="--hold-out: got N>1e9, which no run meets"):
        read_table(rows, COLUMNS, hold_out="N>1e9")


def test_outliers_are_trimmed_and_listed() -> None:
    rows: list[dict[str, Any]] = simulated()
    rows[5]["L"] *= 2
    study = trimmed(read_table(rows, COLUMNS), 6, "huber")
    assert study.excluded == {"outlier": 1} and study.dropped == ((6, "outlier"),) and len(study.runs) == 23


def test_a_run_of_small_weight_hardly_counts() -> None:
    rows = [row | {"weight": 1.0} for row in simulated(0.0)]
    rows[5] |= {"L": 2 * rows[5]["L"], "weight": 1e-9}
    columns = Columns(parameters="N", samples="tokens", seed="seed", loss="L", weight="weight")
    law = analyse(read_table(rows, columns), 20, 0, "mse").law
    assert law.values[3] == pytest.approx(0.45, rel=1e-3)
    rows[0]["weight"] = 0.0
    with pytest.raises(UserError, match=r"row 1: column weight: got 0.0, expected a positive weight"):
        read_table(rows, columns)


def test_a_fitted_law_predicts_plans_and_is_saved(tmp_path: Path) -> None:
    law = isoflop.scaling.fit(simulated(), parameters="N", samples="tokens", seed="seed", loss="L", bootstraps=40)
    found = law.predict({"N": [1e5, 1e12, None], "tokens": [1e5, 1e12, 1e5]})
    assert found.low[0] < found.predicted[0] < found.high[0] and np.isnan(found.predicted[2])
    assert found.trusted.tolist() == [True, False, False]
    answer = law.plan(parameters=1e5, samples=1e5)
    assert answer.predicted == pytest.approx(found.predicted[0]) and answer.trusted
    assert law.plan(flops=1e10).loss == pytest.approx(law.plan(loss=law.plan(flops=1e10).loss).loss, rel=1e-3)
    assert {one.kind for one in law.diagnostics} >= {"flops_assumed"}
    exponents = law.facts()["exponents"]["law"]
    assert exponents["a"]["low"] < 0.5 / 0.95 < exponents["a"]["high"]
    assert exponents["a"]["value"] + exponents["b"]["value"] == pytest.approx(1, abs=1e-4)
    law.save(tmp_path / "law.json")
    with pytest.raises(UserError, match="got no goal"):
        law.plan()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--quantile", "1.5"], "--quantile: got 1.5, expected a number between 0 and 1"),
        (["--quantile", "nan"], "--quantile: got nan, expected a number between 0 and 1"),
        (["--gamma", "search", "--tie"], "--gamma: got --form, --fix, --tie or --objective as well, expected none"),
    ],
)
def test_a_wrong_option_is_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    table = tmp_path / "runs.csv"
    table.write_text("n,loss\n100,3\n200,2.5\n400,2.1\n800,1.9\n")
    columns = ["--samples", "n", "--loss", "loss", "--out", str(tmp_path / "out")]
    assert cli.main(["fit", str(table), *columns, *options]) == 1
    assert capsys.readouterr().err.startswith(f"error: {said}") and not (tmp_path / "out").exists()
