"""Fine-tuning of pretrained weights: the head alone first, rates by layer, frozen norms; what does not apply."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from isoflop.data.arrays import TrainingData
from isoflop.data.loading import all_images
from isoflop.models.architecture import ModelParams
from isoflop.runtime.errors import UserError
from isoflop.scaling.tables.runs import read_study
from isoflop.scaling.without_law import lack
from isoflop.training.fitting import fit
from isoflop.training.recipe import Train
from isoflop.training.sweep import SweepRuns, sweep_width
from isoflop.training.transfer import HEAD_ALONE, Tuning, rate_factors, tuned_optimizer, tuning
from tests.conftest import ROOT
from tests.networks import digits_split, fresh_net, no_views, recipe


def section(**changes: Any) -> dict[str, Any]:
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    return dict(content["train"] | changes)


@pytest.mark.parametrize(("freezes", "head"), [(True, 0.5), (False, 0.5), (True, 0.0)])
def test_the_head_is_trained_alone_and_norms_are_kept(tmp_path: Path, freezes: bool, head: float) -> None:
    """With a schedule that ends within the first part, only the head has moved."""
    train = digits_split(tmp_path / "train", 0, 200)
    images, net = all_images(train, no_views(train)), fresh_net("efficientnet_lite", 4)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    how = Tuning(head, 0.1, freezes)
    fit(net, images, train, recipe(epochs=2, batch_size=50), width=4, seed=0, tuning=how, progress=False,
        images_budget=400)  # fmt: skip
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert {"head.weight", "features.0.weight", "features.20.bias"} <= moved
    assert bool({name for name in moved if "running" in name}) != freezes
    assert all(weight.requires_grad for weight in net.parameters())
    alone = fresh_net("efficientnet_lite", 4)
    fit(alone, images, train, recipe(epochs=2, batch_size=50), width=4, seed=0, progress=False,
        tuning=Tuning(0.99, 0.1, False))  # fmt: skip
    moved = {name for name, value in alone.state_dict().items() if not torch.equal(value, before[name])}
    assert moved == {"head.weight", "head.bias"}


def test_rates_grow_from_the_first_layer_to_the_last() -> None:
    net, how = fresh_net("efficientnet_lite", 4), Tuning(0.25, 0.1, True)
    optimizer, heads = tuned_optimizer(net, recipe(learning_rate=0.01), how)
    rates = {id(weight): group["lr"] for group in optimizer.param_groups for weight in group["params"]}
    convolutions = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d)]
    by_layer = [rates[id(layer.weight)] for layer in convolutions]
    assert by_layer == sorted(by_layer) and len(set(by_layer)) > 5
    assert by_layer[0] == pytest.approx(0.001) and by_layer[-1] == pytest.approx(0.01)
    assert rates[id(net.get_submodule("head").weight)] == pytest.approx(0.01)
    assert len(rates) == len([*net.parameters()])
    decays = {group["weight_decay"] for group in optimizer.param_groups if all(w.ndim < 2 for w in group["params"])}
    assert decays == {0.0}
    body, head = (
        rate_factors(recipe(warmup_fraction=0.0), how, [flag], lambda step: step / 100)[0] for flag in (False, True)
    )
    assert heads.count(True) == 2 and (body(10), head(0)) == (0.0, HEAD_ALONE)
    assert (body(25), head(25)) == (1.0, 1.0) and body(100) == pytest.approx(0) and body(60) == pytest.approx(head(60))


@pytest.mark.parametrize(("batch", "parts", "freezes"), [(16, 1, True), (64, 1, False), (64, 4, True)])
def test_norms_are_frozen_at_small_batches(batch: int, parts: int, freezes: bool) -> None:
    train = Train.model_validate(section(accumulate_grad_batches=parts))
    assert tuning(train, batch).freezes_norms == freezes


def test_the_study_of_a_pretrained_network_is_skipped_with_a_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train = digits_split(tmp_path / "train", 0, 200)
    content = yaml.safe_load((ROOT / "params.yaml").read_text())
    shape = content["model"] | {"family": "efficientnet_lite", "pretrained": "package:efficientnet-lite0"}
    runs = SweepRuns.model_validate(content["sweep"]["runs"])
    data = TrainingData(train, np.zeros((0, *train.images.shape), np.uint8), train)
    for width in (8, 16):
        paths = {"file": tmp_path / f"width-{width}.json", "network": tmp_path / f"network-{width}"}
        sweep_width(ModelParams.model_validate(shape), recipe(), runs, width, data, **paths)
        assert not list(paths["network"].iterdir())
    assert "width 8: skipped, because the width of model.pretrained" in capsys.readouterr().out
    missing = lack(read_study(tmp_path, [8, 16]), [8, 16])
    assert missing is not None
    assert "it is skipped with model.pretrained" in missing.reason and missing.command is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.family": "cnn"}, "model.family: got cnn, expected efficientnet_lite with model.pretrained package:"),
        ({"recipe.optimizer": "muon"}, "recipe.optimizer: got muon, which rescales the weights, expected adamw"),
        ({"train.width": 64}, "train.width: got 64, expected 32, that of model.pretrained package:"),
        ({"train.privacy.epsilon": 3.0}, "train.privacy.epsilon: got a budget, expected null"),
        ({"prepare.channels": 1}, "prepare.channels: got 1, expected 3, which model.pretrained package:"),
        (
            {"model.family": "pretrained", "model.pretrained": "hub:tiny/net@main"},
            r"variants.prune: got pruned, expected {} with model.family pretrained",
        ),
        ({"model.family": "pretrained", "model.pretrained": "none"}, "model.pretrained: got none with model.family"),
        ({"model.family": "cnn", "model.pretrained": "none"}, "prepare.normalization: got pretrained with model.pretr"),
        (
            {"model.pretrained": "hub:tiny/net"},
            "model.pretrained: got 'hub:tiny/net' .string., expected none, ",
        ),
    ],
)
def test_sections_that_do_not_apply_are_refused_by_name(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    from isoflop.project.checking import check, stage_schemas

    params = yaml.safe_load((ROOT / "presets" / "images.yaml").read_text())
    params["data"].update(source="digits")
    values = {
        "model.family": "efficientnet_lite", "model.pretrained": "package:efficientnet-lite0",
        "prepare.normalization": "pretrained", "recipe.optimizer": "adamw", "recipe.learning_rate": 0.001,
    } | changes  # fmt: skip
    for dotted, value in values.items():
        *sections, key = dotted.split(".")
        place = params
        for name in sections:
            place = place[name]
        place[key] = value
    file = tmp_path / "params.yaml"
    file.write_text(json.dumps(params))
    with pytest.raises(UserError, match=message):
        check(stage_schemas(ROOT).values(), file)
