"""The TFLite file predicts like the network. Skipped without litert-torch, which is not a development dependency.

`pip install 'isoflop[tflite]'` in an environment of its own, see docs/tflite.md.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from isoflop.data.arrays import Split
from isoflop.inference.onnx_export import torch_logits
from isoflop.inference.tflite import tflite_logits, write_tflite
from isoflop.runtime.errors import UserError
from tests.exports import trained
from tests.networks import FAMILIES, digits_split

installed = pytest.mark.skipif(importlib.util.find_spec("litert_torch") is None, reason="litert-torch is not installed")
# pytest turns warnings into errors; warnings of JAX and TensorFlow are out of our control
pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return digits_split(tmp_path_factory.mktemp("data") / "train", 0, 300)


@installed
@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_what_torch_says(train: Split, tmp_path: Path, family: str) -> None:
    model = trained(train, family, steps=20)
    write_tflite(model, train.images, 1e-4, tmp_path / "a.tflite", tmp_path / "a.json")
    expected_NK = torch_logits(model, train.images[:50])
    np.testing.assert_allclose(tflite_logits(tmp_path / "a.tflite", train.images[:50]), expected_NK, atol=2e-4)
    facts = json.loads((tmp_path / "a.json").read_text())
    assert facts["images"] == 300 and facts["flips"] == 0 and facts["bytes"] == (tmp_path / "a.tflite").stat().st_size


@installed
def test_the_same_network_gives_the_same_bytes_and_another_is_told(
    train: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = trained(train, steps=20)
    for name in ("a", "b"):
        write_tflite(model, train.images, 1e-4, tmp_path / f"{name}.tflite", tmp_path / f"{name}.json")
    content = (tmp_path / "a.tflite").read_bytes()
    assert content == (tmp_path / "b.tflite").read_bytes() and str(tmp_path).encode() not in content
    monkeypatch.setattr("isoflop.inference.onnx_export.torch_logits", lambda *_: torch_logits(model, train.images) + 1)
    with pytest.raises(UserError, match=r"export\.tolerance: got logits from LiteRT that differ from torch's by "):
        write_tflite(model, train.images, 1e-4, tmp_path / "c.tflite", tmp_path / "c.json")
    assert not (tmp_path / "c.json").exists()


def test_without_the_package_it_is_one_clear_line(
    train: Split, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UserError, match=r"variants\.tflite: requires litert_torch .*fix: `pip install 'isoflop\[tflite\]'`"
    ):
        write_tflite(trained(train, steps=1), train.images, 1e-4, tmp_path / "a.tflite", tmp_path / "a.json")
    assert not list(tmp_path.iterdir())
