"""Distillation and pruning leave smaller networks that still know the digits, and say what they cost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from isoflop.compression.distillation import Distill, distill
from isoflop.compression.pruning import prune
from isoflop.data.arrays import Split, TrainingData
from isoflop.data.loading import all_images
from isoflop.evaluation.scores import predict_logits
from isoflop.inference.timing import measured_speedups
from isoflop.models.costs import count_macs, count_training_flops
from isoflop.models.families import build
from isoflop.models.model_files import Model, load_model
from isoflop.runtime.errors import UserError
from isoflop.training.fitting import Fitted, fit
from tests.networks import digits_architecture, digits_split, fresh_net, no_views, prune_params, recipe


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Split, Split]:
    monkeypatch.chdir(tmp_path)  # checkpoints go to the current folder
    return digits_split(tmp_path / "train", 0, 1200), digits_split(tmp_path / "val", 1200, 1500)


@pytest.fixture
def base(data: tuple[Split, Split]) -> Model:
    train, val = data
    net = fresh_net(width=32)
    fit(net, all_images(train, no_views(train)), val, recipe(epochs=4), width=32, seed=0)
    return Model(net, digits_architecture(width=32), train.input_spec)


def test_a_student_is_taught_and_compared_with_an_untaught_one(
    base: Model, data: tuple[Split, Split], tmp_path: Path
) -> None:
    train, val = data
    params = Distill(width_ratio=0.25, temperature=2.0, alpha=0.7, features=1.0, epochs=6, seed=0)
    distill(base, recipe(), params, of(train, val), folder=Path("student"), metrics=Path("distill.json"))
    facts = json.loads((tmp_path / "distill.json").read_text())
    student = load_model(tmp_path / "student")
    assert student.architecture.width == 8
    assert facts["parameters"] == sum(weight.numel() for weight in student.net.parameters())
    assert facts["val_accuracy"] > 0.85
    best = max("control", "distilled", key=lambda name: (facts[f"{name}_val_accuracy"], -facts[f"{name}_val_nll"]))
    assert facts["control_val_nll"] != facts["distilled_val_nll"] and facts["kept"] == best
    assert facts["val_accuracy"] == facts[f"{best}_val_accuracy"]
    one = count_training_flops(student.net, student.architecture)
    both = 2 * one + 2 * count_macs(base.net, base.architecture)  # untaught, and taught with the teacher's forward
    assert facts["training_flops"] == 6 * 1200 * both


def test_a_teacher_that_knows_no_more_than_the_student_is_not_listened_to(
    base: Model, data: tuple[Split, Split], tmp_path: Path
) -> None:
    train, val = data
    ignorant = replace(base, net=fresh_net(width=32).eval())
    params = Distill(width_ratio=0.25, temperature=2.0, alpha=0.7, features=0.0, epochs=2, seed=0)
    distill(ignorant, recipe(), params, of(train, val), folder=Path("student"), metrics=Path("d.json"))
    facts = json.loads((tmp_path / "d.json").read_text())
    assert facts["kept"] == "control" and "distilled_val_accuracy" not in facts
    assert facts["val_accuracy"] == facts["control_val_accuracy"] > facts["teacher_val_accuracy"]


@pytest.mark.parametrize(
    ("family", "width", "ratio", "said"),
    [
        ("cnn", 1, 0.5, r"distill\.width_ratio: found 0\.5, which makes width 1 of width 1, "),
        ("cnn", 8, 0.99, r"distill\.width_ratio: found 0\.99, which makes width 8 of width 8, "),
        ("vit", 24, 0.6, r"model\.heads: got 12, expected a divisor of 56 \(4 x 0\.6 of width 24\)"),
    ],
)
def test_a_student_that_cannot_be_is_refused(
    data: tuple[Split, Split], family: str, width: int, ratio: float, said: str
) -> None:
    train, val = data
    architecture = replace(digits_architecture(family, width), heads=12 if family == "vit" else 1)
    base = Model(build(architecture), architecture, train.input_spec)
    params = Distill(width_ratio=ratio, temperature=2.0, alpha=0.7, features=0.0, epochs=6, seed=0)
    with pytest.raises(UserError, match=said):
        distill(base, recipe(), params, of(train, val), folder=Path("s"), metrics=Path("m.json"))


def test_a_student_is_smaller_than_a_pruned_teacher(base: Model, data: tuple[Split, Split], tmp_path: Path) -> None:
    """Whose architecture says still how wide it was."""
    pruned_facts(base, data, ratio=0.5, epochs=1)
    train, val = data
    params = Distill(width_ratio=0.75, temperature=2.0, alpha=0.7, features=0.0, epochs=1, seed=0)
    out = {"folder": Path("student"), "metrics": Path("m.json")}
    with pytest.raises(UserError, match=r"which makes width 24 of width 32, [\d,]+ parameters where the teacher has"):
        distill(load_model(tmp_path / "pruned"), recipe(), params, of(train, val), **out)


def of(train: Split, val: Split) -> TrainingData:
    return TrainingData(train, no_views(train), val)


def pruned_facts(base: Model, data: tuple[Split, Split], **changes: Any) -> dict[str, Any]:
    train, val = data
    out = {"folder": Path("pruned"), "metrics": Path("prune.json")}
    prune(base, recipe(), prune_params(**changes), of(train, val), **out)
    return dict(json.loads(Path("prune.json").read_text()))


def test_a_pruned_network_is_smaller_and_recovers(base: Model, data: tuple[Split, Split], tmp_path: Path) -> None:
    facts = pruned_facts(base, data, ratio=0.5)
    best = max("tuned", "control", key=lambda name: (facts[f"{name}_val_accuracy"], -facts[f"{name}_val_nll"]))
    assert facts["val_accuracy"] > 0.9 and facts["kept"] == best
    assert facts["parameters_ratio"] < 0.4 and facts["macs_ratio"] < 0.4
    pruned = load_model(tmp_path / "pruned")
    channels = {weight.shape[0] for weight in pruned.net.parameters() if weight.ndim == 4}
    assert channels == {16, 32, 64}
    assert facts["channel_ratio"] == 0.5 and facts["val_accuracy_untuned"] < facts["tuned_val_accuracy"]
    assert 0.5 < facts["control_val_accuracy"] <= 1 and facts["control_val_nll"] != facts["tuned_val_nll"]
    assert list(facts["channels"].values()) == [[32, 16], [64, 32], [128, 64], [10, 10]]
    assert base.net.state_dict()["head.weight"].shape == (10, 128)  # the base is left as it was


def test_a_pruned_network_is_taught_by_what_it_was(base: Model, data: tuple[Split, Split], tmp_path: Path) -> None:
    alone = pruned_facts(base, data, ratio=0.5, epochs=2)
    shutil.rmtree(tmp_path / "pruned")
    taught = pruned_facts(base, data, ratio=0.5, epochs=2, alpha=0.9)
    assert alone["tuned_val_nll"] != taught["tuned_val_nll"] and taught["tuned_val_accuracy"] > 0.9
    assert alone["control_val_nll"] == taught["control_val_nll"]  # which has no teacher


def test_where_the_weights_were_worth_nothing_the_control_is_kept(
    base: Model, data: tuple[Split, Split], tmp_path: Path
) -> None:
    """A rate so low that pruning does not recover."""
    facts = pruned_facts(base, data, ratio=0.8, epochs=3, learning_rate_factor=1e-6)
    assert facts["kept"] == "control" and facts["val_accuracy"] == facts["control_val_accuracy"]
    logits = predict_logits(load_model(tmp_path / "pruned").net, data[1])
    assert (logits.argmax(1) == data[1].labels).mean() == pytest.approx(facts["control_val_accuracy"], abs=1e-6)


def test_pruning_that_removes_nothing_is_refused(base: Model, data: tuple[Split, Split]) -> None:
    """Before anything is trained, in however many steps."""
    with pytest.raises(UserError, match=r"prune\.round_to: found 128"):
        pruned_facts(base, data, ratio=0.3, round_to=128, steps=2)
    with pytest.raises(UserError, match=r"prune\.round_to: found 128"):
        pruned_facts(base, data, ratio=0.3, round_to=128)


def test_a_share_of_the_macs_is_reached_with_as_few_channels_gone_as_can_be(
    base: Model, data: tuple[Split, Split]
) -> None:
    facts = pruned_facts(base, data, macs_ratio=0.6, round_to=8, epochs=1)
    assert facts["macs_ratio"] <= 0.6
    channels = [left for _, left in facts["channels"].values()][:3]
    assert all(left % 8 == 0 for left in channels)
    with pytest.raises(UserError, match=r"prune\.macs_ratio: found 0\.001, expected at least 0\.\d+: so much"):
        pruned_facts(base, data, macs_ratio=0.001)


def test_steps_by_gradients_over_all_layers(base: Model, data: tuple[Split, Split]) -> None:
    """What goes is what matters least anywhere: not the same share of each layer."""
    facts = pruned_facts(base, data, ratio=0.5, importance="taylor", scope="global", steps=2, round_to=8)
    shares = {left / before for before, left in list(facts["channels"].values())[:3]}
    assert len(shares) > 1 and facts["val_accuracy"] > 0.9
    assert facts["epochs"] == 2  # of the last step


def test_a_measured_speed_up_is_reached_or_refused(
    base: Model, data: tuple[Split, Split], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Times as of a machine that takes as long as there are multiply-accumulates; one real measurement."""
    asked: list[float] = []

    def by_macs(of: Model, others: Sequence[Model]) -> list[float]:
        costs = [count_macs(model.net, model.architecture) for model in (of, *others)]
        asked.append(costs[0] / costs[1])
        return asked[-1:]

    (real,) = measured_speedups(base, [base])
    assert 0.1 < real < 10
    monkeypatch.setattr("isoflop.inference.timing.measured_speedups", by_macs)
    facts = pruned_facts(base, data, target_speedup=2.0, round_to=8, epochs=1)
    reached = min(speedup for speedup in asked if speedup >= 2)
    assert facts["macs_ratio"] == pytest.approx(1 / reached, rel=1e-4) and len(asked) < 8
    with pytest.raises(UserError, match=r"prune\.target_speedup: found 500, expected at most"):
        pruned_facts(base, data, target_speedup=500.0, epochs=1)


def test_a_layer_of_any_width_is_rounded(base: Model, data: tuple[Split, Split]) -> None:
    """Of 32 channels 60 % leave 12, which is no multiple of 16: 16 stay, and not all."""
    facts = pruned_facts(base, data, ratio=0.6, epochs=1)
    assert [left for _, left in facts["channels"].values()][:3] == [16, 16, 48]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, "found none of ratio, macs_ratio, target_speedup, expected one"),
        ({"ratio": 0.5, "macs_ratio": 0.5}, "found ratio, macs_ratio of ratio"),
        ({"ratio": 0.5, "steps": 5, "epochs": 4}, "found 5 steps and 4 epochs"),
        ({"ratio": 1.0}, "less than 1"),
        ({"target_speedup": 0.5}, "greater than 1"),
        ({"macs_ratio": 0.5, "scope": "global", "steps": 2}, "found scope global with macs_ratio"),
    ],
)
def test_a_pruning_that_cannot_be_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        prune_params(**changes)


@pytest.mark.parametrize("stage", ["prune", "distill"])
def test_what_was_trained_before_a_kill_is_not_trained_again(
    base: Model, data: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    """Killed in its second training; the end is that of an undisturbed run."""
    train, val = data
    student = Distill(width_ratio=0.25, temperature=2.0, alpha=0.7, features=0.0, epochs=2, seed=0)
    seen: list[int] = []  # images that each training took, of those that ended
    killed_in = 0

    def counted(*arguments: Any, **options: Any) -> Fitted:
        if len(seen) + 1 == killed_in:
            raise KeyboardInterrupt
        fitted = fit(*arguments, **options)
        seen.append(fitted.timed_images)
        return fitted

    def run(name: str) -> bytes:
        out = {"folder": tmp_path / name, "metrics": tmp_path / f"{name}.json"}
        if stage == "prune":
            params = prune_params(ratio=0.5, steps=2)
            prune(base, recipe(), params, of(train, val), **out)
        else:
            distill(base, recipe(), student, of(train, val), **out)
        return (tmp_path / name / "weights.safetensors").read_bytes() + (tmp_path / f"{name}.json").read_bytes()

    monkeypatch.setattr("isoflop.training.fitting.fit", counted)
    whole, trainings = run("whole"), len(seen)
    assert min(seen) > 0 and trainings > 1
    seen.clear()
    killed_in = 2
    with pytest.raises(KeyboardInterrupt):
        run("killed")
    first, killed_in = seen.pop(), 0
    assert first > 0 and run("again") == whole
    assert seen[0] == 0 and min(seen[1:]) > 0 and len(seen) == trainings
    assert not list(tmp_path.glob(".isoflop/resume/*"))
