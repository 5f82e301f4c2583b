"""The scaling study's runs at a width: which are planned, how a budget of FLOPs is spent, and their table."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.data.arrays import Split, TrainingData
from isoflop.models.architecture import ModelParams
from isoflop.runtime.errors import UserError
from isoflop.scaling.tables.runs import image_sizes, read_study
from isoflop.training.sweep import Planned, SweepRuns, is_hopeless, planned_runs, sweep_width
from isoflop.training.sweep_sizes import add_image_sizes, resized
from tests.networks import digits_split, recipe

FLOPS = 384 * 5_000.0


def runs(**changes: Any) -> SweepRuns:
    return SweepRuns.model_validate(
        {"fractions": [1.0], "epochs": [1], "budgets": [], "seeds": [0], "image_sizes": []} | changes
    )


def test_every_fraction_length_and_seed_and_every_budget_is_planned_once() -> None:
    planned = list(planned_runs(runs(fractions=[1.0, 0.5], epochs=[4, 2], seeds=[1, 0]), 1000, 100, FLOPS))
    assert len(set(planned)) == len(planned) == 8
    assert planned[0] == Planned(0.5, 2, None, 0) and planned[-1] == Planned(1.0, 4, None, 1)
    budgets = [0.4 * 1000 * FLOPS, 10 * 1000 * FLOPS, 201 * 1000 * FLOPS]  # 0.4, 10 and 201 epochs
    bought = [run for run in planned_runs(runs(budgets=budgets), 1000, 100, FLOPS) if run.budget]
    assert [run.budget for run in bought] == [budgets[1]]
    with pytest.raises(UserError, match=r"sweep\.runs\.fractions: got 0\.05, which is 50 training images"):
        list(planned_runs(runs(fractions=[0.05]), 1000, 100, FLOPS))


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    folder = tmp_path_factory.mktemp("data")
    return digits_split(folder / "train", 0, 500), digits_split(folder / "val", 500, 700)


def swept(
    data: tuple[Split, Split], file: Path, width: int, infobatch: float, learning_rate: float = 0.02, **changes: Any
) -> dict[str, Any]:
    model = ModelParams(family="cnn", depth=2, heads=1, patch_size=2, dropout=0.0, activation=None, pretrained="none")
    train, val = data
    views = np.zeros((0, *train.images.shape), np.uint8)
    values = recipe(batch_size=50, infobatch=infobatch, max_minutes=0.0001, learning_rate=learning_rate)
    network = file.parent / f"network-{width}-{len(list(file.parent.iterdir()))}"
    sweep_width(model, values, runs(**changes), width, TrainingData(train, views, val), file=file, network=network)
    return dict(json.loads(file.read_text()))


@pytest.mark.parametrize("infobatch", [0.0, 0.5])
def test_a_budget_is_spent_and_the_study_reads_it(data: tuple[Split, Split], tmp_path: Path, infobatch: float) -> None:
    cost = swept(data, tmp_path / "cost.json", 8, infobatch)["flops_per_image"]
    budget = 5.5 * 500 * cost
    for width in (4, 6, 8):
        content = swept(data, tmp_path / f"width-{width}.json", width, infobatch, epochs=[4, 8], budgets=[budget])
        assert content["body_parameters"] < content["parameters"]
        short, long, bought = content["runs"]
        assert (short["images_seen"], long["images_seen"]) == (
            2000,
            4000,
        )  # recipe.max_minutes does not apply to the study
        assert short["flops"] == 2000 * content["flops_per_image"]
        assert bought["budget"] == budget
        batch = 50 * content["flops_per_image"]
        assert budget <= bought["flops"] < budget + 1.5 * batch
        assert bought["images_seen"] >= bought["flops"] / content["flops_per_image"] - 50
    study = read_study(tmp_path, [4, 6, 8])
    assert len(study.runs) + sum(study.excluded.values()) == 9 and study.all_samples == 500


def test_a_run_that_diverges_is_marked_and_no_better_than_chance_too(data: tuple[Split, Split], tmp_path: Path) -> None:
    for width in (4, 6, 8, 10):
        swept(data, tmp_path / f"width-{width}.json", width, 0.0, epochs=[8])
    file = tmp_path / "width-10.json"
    content = json.loads(file.read_text())
    lost = dict.fromkeys(("images_seen", "flops", "val_nll", "val_accuracy", "train_loss"))
    some = content["runs"][0]
    content["runs"] += [some | {"val_nll": 2.2, "train_loss": 2.2}, some | lost | {"diverged": True}]
    content["runs"].append(some | lost | {"not_started": True})
    file.write_text(json.dumps(content))
    study = read_study(tmp_path, [4, 6, 8, 10])
    assert study.excluded == {"diverged": 1, "undertrained": 1, "not started": 1} and len(study.runs) == 4


def test_a_run_is_not_started_if_a_larger_one_of_its_seed_learned_nothing(
    data: tuple[Split, Split], tmp_path: Path
) -> None:
    none, some = {"val_nll": 2.3, "train_loss": 2.3}, {"val_nll": 2.3, "train_loss": 0.5}
    finished = {Planned(0.5, 8, None, 0): none, Planned(1.0, 4, None, 1): some}
    for run, expected in (
        (Planned(0.25, 8, None, 0), True),
        (Planned(0.5, 4, None, 0), True),
        (Planned(1.0, 4, None, 0), False),  # more images
        (Planned(0.25, 16, None, 0), False),  # more epochs
        (Planned(0.25, 8, None, 1), False),  # overfitted runs say nothing
    ):
        assert is_hopeless(run, finished, np.log(10)) == expected, run
    content = swept(data, tmp_path / "width-4.json", 4, 0.0, epochs=[1], fractions=[0.2, 1.0], learning_rate=1e-6)
    assert [row.get("not_started", False) for row in content["runs"]] == [True, False]
    assert content["runs"][0]["unique_images"] == 100 and content["runs"][0]["val_nll"] is None


def test_the_runs_are_repeated_at_smaller_image_sizes(data: tuple[Split, Split], tmp_path: Path) -> None:
    train, val = data
    model = ModelParams(family="cnn", depth=2, heads=1, patch_size=2, dropout=0.0, activation=None, pretrained="none")
    views = np.stack([train.images, train.images[:, ::-1]])
    both = TrainingData(train, views, val)
    small = resized(both, 4)
    assert small.train.images.shape == (500, 4, 4, 1) and small.views.shape == (2, 500, 4, 4, 1)
    assert small.val.image_size == 4 and np.abs(small.train.images.mean() - train.images.mean()) < 4
    assert (small.views[0] == small.train.images).all()
    values, planned = recipe(batch_size=50), runs(epochs=[2], budgets=[1e9], image_sizes=[4])
    for width in (4, 6, 8):
        file = tmp_path / f"width-{width}.json"
        sweep_width(model, values, planned, width, both, file=file, network=tmp_path / f"width-{width}")
        whole = json.loads(file.read_text())
        add_image_sizes(model, values, planned, width, both, file)
        table = json.loads(file.read_text())
        assert table["image_size"] == 8 and {name: table[name] for name in whole} == whole
        (smaller,) = table["smaller"]
        assert smaller["image_size"] == 4 and smaller["flops_per_image"] < 0.5 * whole["flops_per_image"]
        assert [row["budget"] for row in smaller["runs"]] == [None] and smaller["runs"][0]["flops"]
    assert image_sizes(tmp_path, [4, 6, 8]) == [4, 8] and image_sizes(tmp_path, [4]) == [4, 8]
    read = {size: read_study(tmp_path, [4, 6, 8], size) for size in (4, 8)}
    assert read[8] == read_study(tmp_path, [4, 6, 8]) != read[4]
    with pytest.raises(UserError, match=r"width-4\.json: got no runs of 6 pixels"):
        read_study(tmp_path, [4, 6, 8], 6)


@pytest.mark.parametrize(
    ("family", "sizes", "message"),
    [("cnn", [16, 32], r"got 32, expected sizes below 32 \(prepare\.image_size\)$"),
     ("vit", [18], r"got 18, .* that are multiples of 4 \(model\.patch_size\)$"), ("vit", [16], "")],
)  # fmt: skip
def test_image_sizes_that_do_not_fit_are_named(family: str, sizes: list[int], message: str) -> None:
    params = {"prepare": {"image_size": 32}, "model": {"family": family, "patch_size": 4}}
    with pytest.raises(UserError, match=message) if message else nullcontext():
        runs(image_sizes=sizes).cross_check(params, Path("params.yaml"))
