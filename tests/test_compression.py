"""Distillation and pruning leave smaller networks that still know the digits, and say what they cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from isoflop.arrays import Split
from isoflop.distillation import Distill, distill
from isoflop.errors import UserError
from isoflop.loading import all_images
from isoflop.model_files import Model, load_model
from isoflop.models import build
from isoflop.pruning import Prune, prune
from isoflop.training import fit
from tests.networks import digits_architecture, digits_split, fresh_net, no_views, recipe


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Split, Split]:
    monkeypatch.chdir(tmp_path)  # checkpoints go to the current folder
    return digits_split(tmp_path / "train", 0, 1200), digits_split(tmp_path / "val", 1200, 1500)


@pytest.fixture
def base(data: tuple[Split, Split]) -> Model:
    train, val = data
    net = fresh_net(width=32)
    fit(net, all_images(train, no_views(train)), val, recipe(epochs=4), width=32, seed=0)
    return Model(net, digits_architecture(width=32), train.meaning)


def test_a_student_is_taught_and_compared_with_an_untaught_one(
    base: Model, data: tuple[Split, Split], tmp_path: Path
) -> None:
    train, val = data
    params = Distill(width_ratio=0.25, temperature=2.0, alpha=0.7, epochs=6, seed=0)
    distill(base, recipe(), params, train, no_views(train), val, folder=Path("student"), metrics=Path("distill.json"))
    facts = json.loads((tmp_path / "distill.json").read_text())
    student = load_model(tmp_path / "student")
    assert student.architecture.width == 8
    assert facts["parameters"] == sum(weight.numel() for weight in student.net.parameters())
    assert facts["val_accuracy"] > 0.85
    assert facts["control_val_accuracy"] != facts["val_accuracy"] or facts["control_val_nll"] != facts["val_nll"]


@pytest.mark.parametrize(
    ("family", "width", "ratio", "said"),
    [
        ("cnn", 1, 0.5, r"distill\.width_ratio: found 0\.5, which makes width 1 of the base's 1"),
        ("cnn", 8, 0.99, r"distill\.width_ratio: found 0\.99, which makes width 8 of the base's 8"),
        ("vit", 24, 0.6, r"model\.heads: found 12, expected a divisor of 56 \(4 x 0\.6 of train\.width 24\)"),
    ],
)
def test_a_student_that_cannot_be_is_refused(
    data: tuple[Split, Split], family: str, width: int, ratio: float, said: str
) -> None:
    train, val = data
    architecture = replace(digits_architecture(family, width), heads=12 if family == "vit" else 1)
    base = Model(build(architecture), architecture, train.meaning)
    params = Distill(width_ratio=ratio, temperature=2.0, alpha=0.7, epochs=6, seed=0)
    with pytest.raises(UserError, match=said):
        distill(base, recipe(), params, train, no_views(train), val, folder=Path("s"), metrics=Path("m.json"))


def test_a_pruned_network_is_smaller_and_recovers(base: Model, data: tuple[Split, Split], tmp_path: Path) -> None:
    train, val = data
    params = Prune(ratio=0.5, round_to=16, epochs=4, learning_rate_factor=0.5, seed=0)
    prune(base, recipe(), params, train, no_views(train), val, folder=Path("pruned"), metrics=Path("prune.json"))
    facts = json.loads((tmp_path / "prune.json").read_text())
    assert facts["val_accuracy"] > 0.9
    assert facts["parameters_ratio"] < 0.4 and facts["macs_ratio"] < 0.4
    pruned = load_model(tmp_path / "pruned")
    channels = {weight.shape[0] for weight in pruned.net.parameters() if weight.ndim == 4}
    assert channels == {16, 32, 64}


def test_pruning_that_removes_nothing_is_refused(base: Model, data: tuple[Split, Split]) -> None:
    train, val = data
    params = Prune(ratio=0.3, round_to=128, epochs=1, learning_rate_factor=0.5, seed=0)
    with pytest.raises(UserError, match=r"prune\.round_to: found 128"):
        prune(base, recipe(), params, train, no_views(train), val, folder=Path("p"), metrics=Path("m.json"))
