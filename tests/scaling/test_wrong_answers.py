"""Tables that are easily answered wrongly: other metrics and units, no gain, checkpoints, laws without an optimum."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.cli import main as cli
from isoflop.scaling.analysis import Analysis, analyse
from isoflop.scaling.forms import Form
from isoflop.scaling.results import facts
from isoflop.scaling.tables.metrics import Metric
from isoflop.scaling.tables.user_tables import Columns, read_table

ACCURACIES = {1e4: 41.0, 3e4: 55.2, 1e5: 64.9, 3e5: 72.0, 1e6: 77.6, 3e6: 81.3}
PERPLEXITIES = {124635456: 11.961319, 345355200: 8.976614, 603188352: 7.984185, 1005461760: 7.171037}
BY_SIZE_AND_DATA = {(125, 2.5): 3.20, (125, 10): 3.02, (350, 2.5): 3.01, (350, 10): 2.80, (760, 2.5): 2.93,
                    (760, 10): 2.69, (1300, 2.5): 2.87, (1300, 10): 2.61}  # fmt: skip
FALLING = {1901696: 0.5505, 4327872: 0.5102, 13964160: 0.5032, 35924480: 0.4796, 91638528: 0.4900}


def of_sizes(losses: dict[Any, float], loss_is: Metric | None = None, name: str = "loss") -> Analysis:
    rows = [{"N": size, name: loss} for size, loss in losses.items()]
    return analyse(read_table(rows, Columns(parameters="N", loss=name), loss_is=loss_is), 20, 0)


def messages(analysis: Analysis) -> dict[str, str]:
    return {one.kind: one.message for one in analysis.diagnostics}


def test_a_metric_that_rises_is_no_loss() -> None:
    wrong = of_sizes(ACCURACIES, name="acc")
    assert "fix: --loss-is accuracy" in messages(wrong)["metric_rises"] and wrong.next_run is None
    found = of_sizes(ACCURACIES, "accuracy", "acc")
    assert "metric_rises" not in messages(found) and found.study.metric_scale == 100
    assert found.law.predict({"parameters": 1e6})[0] == pytest.approx(100 - 77.6, rel=0.02)
    fractions = of_sizes({size: accuracy / 100 for size, accuracy in ACCURACIES.items()}, "accuracy")
    assert fractions.law.predict({"parameters": 1e6})[0] == pytest.approx(0.224, rel=0.02)


def test_a_perplexity_is_noticed_and_its_logarithm_fitted() -> None:
    assert "fix: --loss-is perplexity" in messages(of_sizes(PERPLEXITIES, name="val_ppl"))["metric_unclear"]
    found = of_sizes(PERPLEXITIES, "perplexity", "val_ppl")
    assert "metric_unclear" not in messages(found)
    assert found.law.predict({"parameters": 603188352})[0] == pytest.approx(np.log(7.984185), rel=0.01)


def test_a_loss_that_falls_over_five_sizes_is_a_gain() -> None:
    assert "no_gain" not in messages(of_sizes(FALLING))
    rising = {size: 0.5 + 1e-3 * place for place, size in enumerate(FALLING)}
    assert "no_gain" in messages(of_sizes(rising))


@pytest.mark.parametrize(
    ("factor", "flops", "unit"),
    [(1, 1.0, "parameters are in millions (1e6) and samples in billions (1e9)"), (1e6, 1e-9, "FLOPs are in GFLOPs")],
)
def test_flops_in_other_units_name_the_likely_unit(factor: float, flops: float, unit: str) -> None:
    rows = [
        {
            "N": size * factor,
            "D": data * factor * (1e3 if factor > 1 else 1),
            "C": 6 * size * data * 1e15 * flops,
            "loss": loss,
        }
        for (size, data), loss in BY_SIZE_AND_DATA.items()
    ]
    study = read_table(rows, Columns(parameters="N", samples="D", flops="C"))
    assert unit in messages(analyse(study, 20, 0))["units_disagree"]
    assumed = read_table(rows, Columns(parameters="N", samples="D"))
    assert "units_disagree" not in messages(analyse(assumed, 20, 0))


def _checkpoints() -> list[dict[str, float]]:
    """Runs of 6 sizes with 20 checkpoints each: any window of FLOPs holds several sizes."""
    sizes = np.geomspace(1e7, 1e9, 6)
    steps = np.linspace(1e9, 2e10, 20)
    return [
        {"N": size, "D": seen, "loss": 1.7 + 400 / size**0.34 + 410 / seen**0.28} for size in sizes for seen in steps
    ]


def test_checkpoints_are_no_isoflop_budgets() -> None:
    columns = Columns(parameters="N", samples="D")
    assert analyse(read_table(_checkpoints(), columns), 20, 0).profiles == []
    shared = [{"N": size, "D": budget / (6 * size), "loss": 1.7 + 400 / size**0.34 + 410 / (budget / 6 / size) ** 0.28}
              for budget in (1e19, 4e19) for size in np.geomspace(1e8, 2e9, 7)]  # fmt: skip
    assert [round(one.flops / 1e19) for one in analyse(read_table(shared, columns), 20, 0).profiles] == [1, 4]


@pytest.mark.parametrize(("axis", "other"), [("parameters", "unique_samples"), ("samples", "parameters")])
def test_advice_names_only_what_the_study_varies(axis: str, other: str) -> None:
    rows = [{"x": level, "loss": 0.2 + 30 * level**-0.5 * (1 + 0.01 * (-1) ** place)}
            for place, level in enumerate(np.geomspace(1e3, 1e6, 8))]  # fmt: skip
    found = facts(analyse(read_table(rows, Columns(**{axis: "x"})), 20, 0))["next_run"]
    assert found[other] is None and found["flops"] is None
    stated = found["parameters" if axis == "parameters" else "unique_samples"]
    assert 1e3 <= stated <= 4.001e6


def test_a_multiplicative_law_states_why_it_has_no_best_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    form, law, rng = (
        Form((("parameters", "unique_samples"),)),
        np.array([0.3, 400.0, 0.35, 0.2]),
        np.random.default_rng(0),
    )
    with (tmp_path / "runs.csv").open("w") as stream:
        rows = csv.writer(stream)
        rows.writerow(["N", "D", "loss"])
        for size in np.geomspace(1e4, 1e6, 5):
            for data in np.geomspace(1e4, 1e6, 5):
                loss = form.predict(law[None], np.array([[size], [data]]))[0, 0]
                rows.writerow([size, data, loss * np.exp(0.002 * rng.standard_normal())])
    arguments = ["--parameters", "N", "--samples", "D", "--bootstraps", "20", "--out", str(tmp_path / "out")]
    assert cli.main(["fit", str(tmp_path / "runs.csv"), *arguments]) == 0
    shown = capsys.readouterr()
    assert shown.err == ""
    text = " ".join(shown.out.split())
    assert "ever lower loss for larger models, so more samples never pay off" in text
    assert "would locate an optimum" in text
    assert json.loads((tmp_path / "out" / "scaling.json").read_text())["exponents"]["law"] is None
    assert (tmp_path / "out" / "isoflop.png").stat().st_size > 20_000  # the curves of the law, not a sentence


def test_predictions_hold_the_columns_of_the_points_in_the_unit_of_the_metric(tmp_path: Path) -> None:
    (tmp_path / "runs.csv").write_text("size,acc\n" + "".join(f"{size},{acc}\n" for size, acc in ACCURACIES.items()))
    (tmp_path / "points.csv").write_text("name;size;trusted\nbig;2M;old\nnone;;old\n")
    out = tmp_path / "out"
    arguments = ["--parameters", "size", "--loss", "acc", "--loss-is", "accuracy", "--bootstraps", "40"]
    predict = ["--predict", str(tmp_path / "points.csv"), "--out", str(out)]
    assert cli.main(["fit", str(tmp_path / "runs.csv"), *arguments, *predict]) == 0
    with (out / "predictions.csv").open() as stream:
        big, none = csv.DictReader(stream)
    assert list(big) == ["name", "size", "predicted", "low", "high", "trusted"]
    assert 77.6 < float(big["low"]) < float(big["predicted"]) < float(big["high"]) < 81.9
    assert big["trusted"] == "true" and (none["predicted"], none["trusted"]) == ("", "false")


def test_points_without_a_column_fail_before_the_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "runs.csv").write_text("size,acc\n" + "".join(f"{size},{acc}\n" for size, acc in ACCURACIES.items()))
    (tmp_path / "points.csv").write_text("width\n8\n")
    out = tmp_path / "out"
    arguments = ["--parameters", "size", "--loss", "acc", "--predict", str(tmp_path / "points.csv"), "--out", str(out)]
    assert cli.main(["fit", str(tmp_path / "runs.csv"), *arguments]) == 1
    assert "points.csv: got columns width; expected size (--parameters)" in capsys.readouterr().err
    assert not out.exists()
