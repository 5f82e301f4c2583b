"""The stem of a new resnet whitens the patches of the images, and is not trained; every head starts at 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from isoflop.data.arrays import Split
from isoflop.data.loading import all_images
from isoflop.data.normalization import normalize
from isoflop.models.initialization import initialized
from isoflop.training.fitting import fit
from tests.networks import FAMILIES, digits_architecture, digits_split, no_views, recipe


@pytest.fixture
def train(tmp_path: Path) -> Split:
    return digits_split(tmp_path / "train", 0, 600)


def test_the_stem_whitens_patches(train: Split) -> None:
    net = initialized(digits_architecture("resnet"), all_images(train, no_views(train)), 0)
    with torch.no_grad():
        outputs = net.get_submodule("stem")(normalize(torch.from_numpy(np.array(train.images)), train.input_spec))
    bias = net.get_parameter("stem.bias").detach()
    whitened = (outputs - bias[:, None, None]).transpose(0, 1).flatten(1).double()
    half = len(whitened) // 2
    torch.testing.assert_close(whitened[:half], -whitened[half:], atol=1e-5, rtol=0)
    moments = whitened[:half] @ whitened[:half].T / whitened.shape[1]
    torch.testing.assert_close(moments, torch.eye(half, dtype=torch.float64), atol=0.02, rtol=0)


def test_the_same_seed_gives_the_same_network_and_another_differs(train: Split) -> None:
    images = all_images(train, no_views(train))
    nets = [initialized(digits_architecture("resnet"), images, seed).state_dict() for seed in (1, 1, 2)]
    assert all(torch.equal(nets[0][name], nets[1][name]) for name in nets[0])
    assert not all(torch.equal(nets[0][name], nets[2][name]) for name in nets[0])
    assert torch.equal(nets[0]["stem.weight"], nets[2]["stem.weight"])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_head_starts_at_zero(train: Split, family: str) -> None:
    net = initialized(digits_architecture(family), all_images(train, no_views(train)), 0)
    with torch.no_grad():
        logits = net(normalize(torch.from_numpy(np.array(train.images)), train.input_spec))
    assert not logits.any()


@pytest.mark.parametrize("optimizer", ["muon", "adamw", "momentum"])
def test_training_leaves_the_stem_as_it_is(train: Split, optimizer: str) -> None:
    images = all_images(train, no_views(train))
    net = initialized(digits_architecture("resnet"), images, 0)
    before = net.get_parameter("stem.weight").clone()
    fit(net, images, train, recipe(optimizer=optimizer, epochs=1), width=16, seed=0)
    assert torch.equal(net.get_parameter("stem.weight"), before)
