"""The scaling stage on tables of runs: the held-out width, intervals, doubts, refusals, what it reads and writes."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.scaling_fit import GRID, published
from isoflop.errors import UserError
from isoflop.params import load_params
from isoflop.scaling.analysis import Analysis, Scaling, analyse
from isoflop.scaling.fitting import LOSSES, fit
from isoflop.scaling.laws import L_ND, Floats
from isoflop.scaling.planning import Sizes, optimum
from isoflop.scaling.results import facts
from isoflop.scaling.runs import read_study
from isoflop.scaling.uncertainty import Residuals, bootstrap, noise, prediction_interval
from stages import scaling
from tests.conftest import ROOT

LAW = np.array([0.05, 20.0, 30.0, 0.5, 0.7])
WIDTHS = (8, 12, 16, 24, 32)
OUTPUTS = ("law.json", "scaling.json", "scaling.csv", "scaling.png", "held_out.png")


def size(width: int) -> int:
    return 70 * width**2 + 30 * width + 10


def loss_at(width: int, images: int) -> float:
    return float(L_ND.predict(LAW[None], np.array([[size(width)], [images]], np.float64))[0, 0])


def write_runs(
    folder: Path,
    widths: Iterable[int] = WIDTHS,
    fractions: Iterable[float] = (0.25, 0.5, 1.0),
    seeds: int = 2,
    spread: float = 0.02,
) -> Path:
    """A sweep's files of losses that follow LAW, with noise of ``spread``."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for width in widths:
        cost = 384.0 * size(width)
        rows = []
        for fraction in fractions:
            images = round(1220 * fraction)
            for seed in range(seeds):
                loss = loss_at(width, images) * float(np.exp(spread * rng.standard_normal()))
                rows.append({"fraction": fraction, "seed": seed, "unique_images": images, "epochs": 12,
                             "images_seen": 12 * images, "steps": 36, "flops": 12 * images * cost, "val_nll": loss,
                             "val_accuracy": 0.8, "train_loss": 0.5, "diverged": False})  # fmt: skip
        content = {"width": width, "family": "cnn", "parameters": size(width), "flops_per_image": cost, "runs": rows}
        (folder / f"width-{width}.json").write_text(json.dumps(content))
    return folder


def run_stage(runs: Path, folder: Path, widths: Iterable[int] = WIDTHS, bootstraps: int = 60) -> dict[str, Any]:
    """Run the stage's main; the metrics that it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    params = scaling.Params(scaling=Scaling(bootstraps=bootstraps, seed=0), widths=list(widths))
    law, metrics, points, picture, held_out = (folder / name for name in OUTPUTS)
    scaling.main(params, runs, law, metrics, points, picture, held_out)
    return dict(json.loads(metrics.read_text()))


def analysed(runs: Path, widths: Iterable[int] = WIDTHS) -> Analysis:
    return analyse(read_study(runs, list(widths)), bootstraps=60, seed=0)


def kinds(analysis: Analysis) -> set[str]:
    return {diagnosis.kind for diagnosis in analysis.diagnoses}


def edit(runs: Path, width: int, **changes: Any) -> None:
    """Change every run of a width."""
    file = runs / f"width-{width}.json"
    content = json.loads(file.read_text())
    for row in content["runs"]:
        row.update(changes)
    file.write_text(json.dumps(content))


def test_the_widest_width_is_predicted_by_a_law_that_never_saw_it(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs")
    metrics = run_stage(runs, tmp_path / "out")
    assert metrics["form"] == "L(N, D)" and metrics["runs"] == 30 and metrics["configurations"] == 15
    assert metrics["held_out_width"] == 32 and metrics["held_out_seeds"] == 2
    assert metrics["held_out_low"] < metrics["held_out_predicted"] < metrics["held_out_high"]
    assert metrics["held_out_covered"] is True
    assert metrics["held_out_predicted"] == pytest.approx(loss_at(32, 1220), rel=0.1)
    assert list(metrics["held_out_by_images"]) == ["305", "610", "1220"]
    for name in ("E", "A", "B", "alpha", "beta"):
        assert metrics[f"{name}_low"] <= metrics[name] <= metrics[f"{name}_high"]

    edit(runs, 32, val_nll=9.0)
    changed = run_stage(runs, tmp_path / "changed")
    assert changed["held_out_predicted"] == metrics["held_out_predicted"]
    assert changed["held_out_covered"] is False and changed["held_out_actual"] == 9.0
    assert changed["E"] != metrics["E"]  # the law of all runs did see it
    assert changed["trusted"] is False
    assert any(doubt["kind"] == "held_out_missed" and "9" in doubt["message"] for doubt in changed["diagnoses"])


def test_the_points_are_the_runs_with_the_held_out_prediction(tmp_path: Path) -> None:
    metrics = run_stage(write_runs(tmp_path / "runs"), tmp_path / "out")
    with (tmp_path / "out" / "scaling.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["parameters", "unique_images", "seed", "val_nll", "predicted", "held_out"]
    assert len(rows) == 30
    held_out = [row for row in rows if row["held_out"] == "true"]
    assert {row["parameters"] for row in held_out} == {str(size(32))}
    full = [row for row in held_out if row["unique_images"] == "1220"]
    assert {float(row["predicted"]) for row in full} == {metrics["held_out_predicted"]}
    assert np.mean([float(row["val_nll"]) for row in full]) == pytest.approx(metrics["held_out_actual"], rel=1e-5)


@pytest.mark.parametrize("fractions", [(0.25, 0.5, 1.0), (1.0,)])
def test_pictures_are_drawn_and_all_bytes_are_the_same_twice(tmp_path: Path, fractions: tuple[float, ...]) -> None:
    runs = write_runs(tmp_path / "runs", fractions=fractions)
    run_stage(runs, tmp_path / "one")
    run_stage(runs, tmp_path / "two")
    for name in OUTPUTS:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    for name in ("scaling.png", "held_out.png"):
        with Image.open(tmp_path / "one" / name) as picture:
            assert picture.size == (800, 550) and len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_only_the_widths_that_params_names_are_read(tmp_path: Path) -> None:
    few = write_runs(tmp_path / "few", WIDTHS[:4])
    many = write_runs(tmp_path / "many")
    (many / "width-64.json").write_text("not even JSON")
    assert run_stage(many, tmp_path / "one", WIDTHS[:4]) == run_stage(few, tmp_path / "two", WIDTHS[:4])
    with pytest.raises(UserError, match=r"width-48\.json: not found, but sweep\.widths names it"):
        read_study(many, [8, 12, 16, 48])


def test_runs_that_diverged_are_counted_and_left_out(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs")
    edit(runs, 16, val_nll=None, diverged=True)
    metrics = run_stage(runs, tmp_path / "out")
    assert (metrics["diverged"], metrics["runs"]) == (6, 24)
    message = "6 runs diverged and were left out; 24 remain"
    assert {"kind": "diverged", "message": message} in metrics["diagnoses"]
    edit(runs, 16, val_nll=float("inf"), diverged=False)
    assert run_stage(runs, tmp_path / "infinite") == metrics
    edit(runs, 12, val_nll=None, diverged=True)
    edit(runs, 8, val_nll=None, diverged=True)
    with pytest.raises(UserError, match=r"sweep\.widths: found runs of 2 widths \[24, 32\] to fit \(18 of 30 runs"):
        read_study(runs, WIDTHS)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "found something else"),
        ("[]", "found something else"),
        ('{"width": 8}', "found no 'runs'"),
        ('{"width": 8, "runs": [{"fraction": 1.0}]}', "found no 'val_nll'"),
    ],
)
def test_files_that_are_no_runs_are_refused(tmp_path: Path, content: str, message: str) -> None:
    runs = write_runs(tmp_path / "runs")
    (runs / "width-8.json").write_text(content)
    with pytest.raises(UserError, match=rf"width-8\.json: {message}"):
        read_study(runs, WIDTHS)


def test_too_few_widths_are_refused_before_anything_runs(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    assert "widths: [8, 12, 16, 24, 32]" in text
    (tmp_path / "params.yaml").write_text(text.replace("widths: [8, 12, 16, 24, 32]", "widths: [8, 8, 12]"))
    with pytest.raises(UserError, match=r"sweep\.widths: found \[8, 8, 12\] \(list\), expected at least 3 different"):
        load_params(scaling.Params, tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("widths", "fractions", "seeds", "doubts"),
    [
        ((4, 8, 12), (0.5, 1.0), 1, {"few_widths", "few_fractions", "single_seed", "no_held_out"}),
        ((4, 8, 12), (1.0,), 1, {"single_fraction", "single_seed", "no_noise_estimate", "no_held_out"}),
        ((4, 8, 12, 16), (1.0,), 1, {"single_fraction", "single_seed", "held_out_unchecked"}),
        ((4, 8, 12, 16), (0.5, 1.0), 2, {"few_fractions"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("spread", [0.0, 0.3])
def test_thin_studies_get_a_law_and_their_doubts(
    tmp_path: Path, widths: tuple[int, ...], fractions: tuple[float, ...], seeds: int, doubts: set[str], spread: float
) -> None:
    runs = write_runs(tmp_path / "runs", widths, fractions, seeds, spread)
    metrics = run_stage(runs, tmp_path / "out", widths)
    assert doubts <= {diagnosis["kind"] for diagnosis in metrics["diagnoses"]}
    assert metrics["trusted"] is False or doubts == {"few_fractions"}
    assert all(metrics[name] is not None for name in ("E", "A", "alpha"))
    assert (metrics["beta"] is None) == (len(fractions) == 1)
    assert ("no_noise_estimate" in doubts) == (metrics["alpha_low"] is None)
    assert "NaN" not in (tmp_path / "out" / "law.json").read_text()


def test_a_law_without_a_floor_and_one_that_does_not_fit_are_doubted(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", spread=0.003)
    assert "lack_of_fit" not in kinds(analysed(runs))
    for index, width in enumerate(WIDTHS):
        file = runs / f"width-{width}.json"
        content = json.loads(file.read_text())
        for row in content["runs"]:
            row["val_nll"] *= 1.1 if (index + round(4 * row["fraction"])) % 2 else 1.0
        file.write_text(json.dumps(content))
    assert "lack_of_fit" in kinds(analysed(runs))
    for width in WIDTHS:  # loss falls ever faster with size: no floor in sight
        edit(runs, width, val_nll=float(np.exp(-2e-5 * size(width))))
    doubted = analysed(runs)
    assert {"floor_at_zero", "no_gain"} <= kinds(doubted) and not doubted.trusted


def test_the_optimum_is_the_least_loss_along_the_budget(tmp_path: Path) -> None:
    study = read_study(write_runs(tmp_path / "runs", spread=0.0), WIDTHS)
    sizes = Sizes.of(study)
    best = optimum(LAW, LAW[None], sizes, epochs=12, flops=1e11, study=study)
    ladder = np.geomspace(1e2, 1e7, 200_001)
    losses = L_ND.predict(LAW[None], np.stack([ladder, 1e11 / (12 * sizes.cost * ladder**sizes.growth)]))[0]
    assert best.parameters == pytest.approx(ladder[losses.argmin()], rel=1e-3)
    assert best.val_nll == pytest.approx(losses.min(), rel=1e-9)
    assert best.parameters is not None and best.width is not None and best.unique_images is not None
    assert sizes.parameters(best.width) == pytest.approx(best.parameters)
    assert 12 * best.unique_images * 384 * best.parameters == pytest.approx(1e11, rel=1e-6)
    assert best.place == ("inside" if best.unique_images <= 1220 else "extrapolated")
    assert optimum(LAW, LAW[None], sizes, 12, 1e14, study).place == "extrapolated"
    no_data_term = LAW * [1, 1, 0, 1, 1]
    assert optimum(no_data_term, LAW[None], sizes, 12, 1e11, study).place == "unbounded"


def test_width_and_parameters_are_an_exact_quadratic(tmp_path: Path) -> None:
    sizes = Sizes.of(read_study(write_runs(tmp_path / "runs"), WIDTHS))
    for width in (1, 10, 256, 4096):
        assert round(sizes.parameters(width)) == size(width)
        assert sizes.width(size(width)) == pytest.approx(width)


@pytest.mark.parametrize(("seeds", "spread", "misfit"), [(1, 0.02, 0.0), (2, 0.02, 0.02)])
def test_prediction_intervals_cover(seeds: int, spread: float, misfit: float) -> None:
    """95 % intervals for a new run at four times the largest size, over 40 studies of 4 x 3 configurations."""
    parameters, images = np.meshgrid(np.geomspace(2e3, 3e5, 4), [12_500.0, 25_000.0, 50_000.0])
    levels = np.repeat(np.stack([parameters.ravel(), images.ravel()]), seeds, axis=1)
    configurations = np.repeat(np.arange(12), seeds)
    law, new = np.array([0.3, 40.0, 12.0, 0.45, 0.42]), np.array([[1.2e6], [5e4]])
    truth, expected = L_ND.predict(law[None], levels)[0], L_ND.predict(law[None], new)[0, 0]
    rng, covered, studies = np.random.default_rng(0), 0, 40
    for _ in range(studies):
        losses = truth * np.exp(
            misfit * rng.standard_normal(12)[configurations] + spread * rng.standard_normal(len(truth))
        )
        values, _ = fit(L_ND, levels, losses, LOSSES["huber"])
        replicates = bootstrap(L_ND, levels, losses, configurations, LOSSES["huber"], values, 60, rng)
        residuals = np.log(losses / L_ND.predict(values[None], levels)[0])
        about = noise(Residuals.of(residuals, configurations), L_ND.size)
        bounds = prediction_interval(L_ND.predict(replicates, new)[:, 0], about.spread(1), about.freedom)
        assert bounds is not None
        came = expected * np.exp(np.hypot(misfit, spread) * rng.standard_normal())
        covered += bounds[0] <= came <= bounds[1]
    assert covered / studies >= 0.85  # 0.90 is the aim; two standard errors of 40 studies lie below it


@pytest.mark.skipif(not GRID.is_dir(), reason="no public study at ../shared/datasets/scaling/cifar10_cnn_grid")
def test_the_public_study_misses_its_widest_width_and_says_so(tmp_path: Path) -> None:
    levels, losses = published()
    rows = zip(*levels.tolist(), losses.tolist(), strict=True)
    blocks: dict[int, list[dict[str, Any]]] = {}
    for parameters, images, loss in rows:
        row = {"fraction": images / 50_000, "seed": 0, "unique_images": int(images), "epochs": 50,
               "flops": 300 * parameters * images, "val_nll": loss, "diverged": False}  # fmt: skip
        blocks.setdefault(int(parameters), []).append(row)
    widths = dict(zip((8, 16, 32, 64, 128), sorted(blocks), strict=True))
    for width, parameters in widths.items():
        content = {
            "width": width,
            "parameters": parameters,
            "flops_per_image": 6 * parameters,
            "runs": blocks[parameters],
        }
        (tmp_path / f"width-{width}.json").write_text(json.dumps(content))
    found = facts(analysed(tmp_path, widths))
    assert found["held_out_actual"] == pytest.approx(0.250181)
    assert 0.2 < found["held_out_relative_error"] < 0.4
    assert found["held_out_covered"] or not found["trusted"]
    assert {"floor_at_zero", "single_seed"} <= {doubt["kind"] for doubt in found["diagnoses"]}


def exponents(values: Floats) -> tuple[float, float]:
    return float(values[3]), float(values[4])


def test_known_exponents_come_back_from_noisy_runs(tmp_path: Path) -> None:
    runs = write_runs(tmp_path / "runs", (8, 12, 16, 24, 32, 64, 128), (0.0625, 0.125, 0.25, 0.5, 1.0), 3, 0.003)
    law = analysed(runs, (8, 12, 16, 24, 32, 64, 128)).law
    assert exponents(law.values) == pytest.approx((0.5, 0.7), abs=0.05)
