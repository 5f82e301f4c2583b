"""Zeros stay zero through training and export: the compressed file is smaller, and nothing else is."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from isoflop.compression.method import make_variant
from isoflop.compression.sparsity import Sparsify, mask, sparsify
from isoflop.data.arrays import Split, TrainingData
from isoflop.data.loading import all_images
from isoflop.models.model_files import Model, load_model
from isoflop.training.fitting import fit
from tests.exports import exported
from tests.networks import digits_architecture, digits_split, fresh_net, no_views, recipe


def params(**changes: Any) -> Sparsify:
    values = {"pattern": "magnitude", "ratio": 0.75, "epochs": 2, "learning_rate": 0.003, "seed": 0}
    return Sparsify.model_validate(values | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Split, Split]:
    folder = tmp_path_factory.mktemp("data")
    return digits_split(folder / "train", 0, 1200), digits_split(folder / "val", 1200, 1500)


@pytest.mark.parametrize(
    ("family", "pattern", "share"), [("cnn", "magnitude", 0.75), ("cnn", "2:4", 0.5), ("vit", "2:4", 0.5)]
)
def test_zeros_stay(data: tuple[Split, Split], tmp_path: Path, family: str, pattern: str, share: float) -> None:
    train, val = data
    net = fresh_net(family, width=16)
    fit(net, all_images(train, no_views(train)), val, recipe(epochs=8), width=16, seed=0)
    base = Model(net, digits_architecture(family, 16), train.input_spec)
    out = {"folder": tmp_path / "sparse", "metrics": tmp_path / "sparse.json"}
    make_variant(sparsify, base, recipe(), params(pattern=pattern), TrainingData(train, no_views(train), val), **out)
    facts = json.loads((tmp_path / "sparse.json").read_text())
    sparse = load_model(tmp_path / "sparse")
    layers = [module for name, module in sparse.net.named_modules() if hasattr(module, "weight") and name != "head"
              and isinstance(module, torch.nn.Conv2d | torch.nn.Linear)]  # fmt: skip
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    assert zeros == facts["zeros"] and facts["zeros_ratio"] == pytest.approx(share, abs=0.02)
    assert not (sparse.net.get_submodule("head").weight == 0).any()  # type: ignore[union-attr]
    assert facts["val_accuracy"] > 0.75 and facts["val_accuracy"] >= facts["val_accuracy_untuned"]
    assert not any((weight == 0).float().mean() > 0.4 for weight in net.parameters() if weight.ndim > 1), "the base"
    dense, thin = (exported(model, tmp_path / "model.onnx").read_bytes() for model in (base, sparse))
    assert len(thin) == pytest.approx(len(dense), rel=0.01)
    assert len(gzip.compress(thin)) < (1 - share / 2) * len(gzip.compress(dense))


def test_two_of_four_along_the_inputs() -> None:
    weight = torch.tensor([[1.0, -4, 2, 3, 9, 8], [0, 0, 0, 0, 1, 1]]).view(2, 6, 1, 1)
    kept = mask(weight, params(pattern="2:4")).view(2, 6)
    assert kept.tolist() == [[0, 1, 0, 1, 1, 1], [0, 0, 1, 1, 1, 1]]  # what is left over of six stays
    weight = torch.randn(3, 8, 3, 3)
    kept = mask(weight, params(pattern="2:4"))
    assert kept.shape == weight.shape and (kept.view(3, 2, 4, 9).sum(2) == 2).all()


def test_the_smallest_go() -> None:
    weight = torch.tensor([[3.0, -1], [0.5, -2]])
    assert mask(weight, params(ratio=0.5)).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("changes", [{"pattern": "1:4"}, {"ratio": 1.0}, {"ratio": 0.0}, {"epochs": 0}])
def test_a_sparsity_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        params(**changes)
