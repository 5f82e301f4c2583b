"""Training under the rounding of 8 bits: what it rounds, what it leaves as it was, and what it exports to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from isoflop.compression.fake_quantization import rounding
from isoflop.compression.qat import Qat, train_quantized
from isoflop.data.arrays import Split, TrainingData
from isoflop.data.normalization import normalize
from isoflop.models.model_files import Model, load_model
from isoflop.runtime.errors import UserError
from isoflop.training.lightning_module import DivergedError
from tests.exports import exported, optimized_kinds, quantized, trained
from tests.networks import FAMILIES, digits_split, no_views, recipe


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    folder = tmp_path_factory.mktemp("data")
    return digits_split(folder / "train", 0, 900), digits_split(folder / "val", 900, 1300)


def logits(model: Model, split: Split) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.net(normalize(torch.from_numpy(np.array(split.images)), model.input_spec)))


@pytest.mark.parametrize("family", FAMILIES)
def test_rounding_is_like_that_of_the_8_bit_graph_and_goes_away(data: tuple[Split, Split], family: str) -> None:
    train, val = data
    model = trained(train, family, width=16)
    exact, before = logits(model, val), {name: value.clone() for name, value in model.net.state_dict().items()}
    with rounding(model.net):
        logits(model, train)  # the ranges are those of the first batch
        rounded = logits(model, val)
        model.net.train()
        assert not any(layer.training for layer in model.net.modules() if isinstance(layer, nn.BatchNorm2d))
        model.net.eval()
    error = float((rounded - exact).pow(2).mean().sqrt() / exact.pow(2).mean().sqrt())
    assert 1e-4 < error < 0.1
    assert torch.equal(logits(model, val), exact)
    after = model.net.state_dict()
    assert set(after) == set(before) and all(torch.equal(after[name], before[name]) for name in before)


def test_rounded_weights_are_on_the_grid_of_the_folded_ones(data: tuple[Split, Split]) -> None:
    model = trained(data[0], "cnn", width=16)
    convolution = next(layer for layer in model.net.modules() if isinstance(layer, nn.Conv2d))
    norm = next(layer for layer in model.net.modules() if isinstance(layer, nn.BatchNorm2d))
    assert norm.running_var is not None
    scale = (norm.weight / (norm.running_var + norm.eps).sqrt()).detach().view(-1, 1, 1, 1)
    with rounding(model.net):
        folded = (convolution.weight * scale).detach()
    steps = folded / (folded.flatten(1).abs().amax(1).view(-1, 1, 1, 1) / 127)
    assert float((steps - steps.round()).abs().max()) < 1e-2 and len(set(steps.round().flatten().tolist())) > 50


def test_a_network_trained_so_is_fused_as_every_other(
    data: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    train, val = data
    model = trained(train, "cnn", width=16, steps=30)
    start = {name: value.clone() for name, value in model.net.state_dict().items()}
    plain = optimized_kinds(quantized(exported(model, tmp_path / "plain.onnx"), train))
    params = Qat(epochs=3, learning_rate=0.001, seed=0)
    out = {"folder": tmp_path / "qat", "metrics": tmp_path / "qat.json"}
    train_quantized(model, recipe(), params, TrainingData(train, no_views(train), val), **out)
    aware = load_model(tmp_path / "qat")
    changed = {name for name, value in aware.net.state_dict().items() if not torch.equal(value, start[name])}
    assert "head.weight" in changed and not any("running" in name for name in changed)
    assert optimized_kinds(quantized(exported(aware, tmp_path / "aware.onnx"), train)) == plain
    assert json.loads((tmp_path / "qat.json").read_text())["val_accuracy"] > 0.9


def test_a_rate_that_diverges_is_named(
    data: tuple[Split, Split], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = trained(data[0], "mlp", width=8, steps=5)
    out = {"folder": tmp_path / "qat", "metrics": tmp_path / "qat.json"}

    def diverges(*_: object, **__: object) -> None:
        raise DivergedError("params.yaml: recipe.learning_rate: the loss is not finite")

    monkeypatch.setattr("isoflop.training.fitting.fit", diverges)
    params = Qat(epochs=1, learning_rate=1.0, seed=0)
    with pytest.raises(UserError, match=r"qat\.learning_rate: got 1\.0, and the loss is not finite"):
        train_quantized(model, recipe(), params, TrainingData(data[0], no_views(data[0]), data[1]), **out)
    assert not (tmp_path / "qat").exists()
