"""Every family is quadratic in the width, and is saved and loaded unchanged, pruned or not; costs are counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from isoflop.compression.channel_removal import channel_remover
from isoflop.data.arrays import InputSpec
from isoflop.models.architecture import ModelParams, architecture
from isoflop.models.costs import count_body_parameters, count_macs, count_parameters, count_training_flops
from isoflop.models.families import build
from isoflop.models.model_files import Model, load_model, save_model
from isoflop.runtime.errors import UserError
from tests.networks import FAMILIES, digits_architecture, digits_split, fresh_net

MEANING = InputSpec([str(digit) for digit in range(10)], [0.3], [0.37], "crop")


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_a_quadratic_in_the_width(family: str) -> None:
    widths = np.array([4, 8, 12, 16, 40])
    counts = np.array([count_parameters(fresh_net(family, int(width))) for width in widths])
    fitted = np.polynomial.Polynomial.fit(widths[:3], counts[:3], 2)
    np.testing.assert_allclose(fitted(widths), counts, rtol=1e-9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_comes_back_from_disk_as_it_was(family: str, tmp_path: Path) -> None:
    net = fresh_net(family).eval()
    for name in ("one", "two"):
        save_model(Model(net, digits_architecture(family), MEANING), tmp_path / name)
    model = load_model(tmp_path / "one")
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(model.net(images), net(images))
    assert (model.architecture, model.input_spec) == (digits_architecture(family), MEANING)
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_activation_is_the_asked_one(family: str, tmp_path: Path) -> None:
    kinds = {"relu": torch.nn.ReLU, "gelu": torch.nn.GELU, "silu": torch.nn.SiLU, "relu6": torch.nn.ReLU6}
    usual = {"resnet": "gelu", "vit": "gelu", "efficientnet_lite": "relu6"}.get(family, "relu")
    for asked in (None, "relu", "gelu", "silu"):
        built = replace(digits_architecture(family), activation=asked)
        save_model(Model(build(built), built, MEANING), tmp_path / str(asked))
        found = {type(module) for module in load_model(tmp_path / str(asked)).net.modules()} & set(kinds.values())
        assert found == {kinds[asked or usual]}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_model_is_smaller_and_comes_back_from_disk(family: str, tmp_path: Path) -> None:
    built = digits_architecture(family, 32)
    net = build(built)
    before = count_parameters(net), count_macs(net, built)
    channel_remover(net, built, 0.5, importance="l2", scope="layer", round_to=16)(None)
    net.eval()
    assert count_parameters(net) < 0.75 * before[0] and count_macs(net, built) < 0.75 * before[1]
    save_model(Model(net, built, MEANING), tmp_path / "pruned")
    images = torch.randn(3, 1, 8, 8)
    torch.testing.assert_close(load_model(tmp_path / "pruned").net(images), net(images))


def test_costs_of_a_network_that_can_be_counted_by_hand() -> None:
    built = digits_architecture("mlp", 2)  # 64 -> 16 -> 16 -> 10
    net = build(built)
    assert count_parameters(net) == 64 * 16 + 16 + 16 * 16 + 16 + 16 * 10 + 10
    assert count_body_parameters(net) == 64 * 16 + 16 + 16 * 16 + 16
    macs = 64 * 16 + 16 * 16 + 16 * 10
    assert count_macs(net, built) == macs
    # backward: the gradients of weights and inputs, without that of the images
    assert count_training_flops(net, built) == 2 * (3 * macs - 64 * 16)


def test_attention_is_counted() -> None:
    built = digits_architecture("vit", 8)
    tokens, size = 16, 32
    linear = tokens * (4 * size + 2 * (4 * size * size + 8 * size * size)) + size * 10
    assert count_macs(build(built), built) == linear + 2 * 2 * tokens * tokens * size


def test_counting_leaves_the_network_as_it_was() -> None:
    net = fresh_net()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    count_training_flops(net, digits_architecture())
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert net.training and all(weight.grad is None for weight in net.parameters())


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("model.json", b"{}", "not a readable model"),
        ("weights.safetensors", b"", "not a readable model"),
        ("weights.safetensors", b"\x80\x04pickle", "not a readable model"),
        ("weights.safetensors", None, "No such file"),
    ],
)
def test_a_damaged_model_is_one_clear_line(tmp_path: Path, file: str, content: bytes | None, message: str) -> None:
    folder = tmp_path / "model"
    save_model(Model(fresh_net(), digits_architecture(), MEANING), folder)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        load_model(folder)
    assert "\n" not in str(error.value)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    built = replace(digits_architecture(), depth=2)
    save_model(Model(fresh_net(), built, MEANING), tmp_path / "model")
    with pytest.raises(UserError, match="not a readable model"):
        load_model(tmp_path / "model")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 3}, "model.patch_size: got 3, expected a divisor of the image size 8"),
        ({"heads": 5}, "model.heads: got 5, expected a divisor of 64"),
    ],
)
def test_a_vit_that_does_not_fit_is_refused(tmp_path: Path, changes: dict[str, int], message: str) -> None:
    values = {
        "family": "vit",
        "depth": 2,
        "heads": 4,
        "patch_size": 2,
        "dropout": 0.0,
        "activation": None,
        "pretrained": "none",
    } | changes
    with pytest.raises(UserError, match=message):
        architecture(ModelParams.model_validate(values), 16, digits_split(tmp_path / "train", 0, 50))
