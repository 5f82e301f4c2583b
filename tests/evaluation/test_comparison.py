"""The comparison of ONNX files on real images with the networks that they were exported from."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from isoflop.data.arrays import InputSpec, Split, SplitWriter
from isoflop.evaluation.comparison import compare
from isoflop.evaluation.scores import accuracy, mean_nll
from isoflop.inference.onnx_export import torch_logits
from isoflop.models.model_files import Model, save_model
from isoflop.runtime.errors import UserError
from tests.exports import exported, quantized, trained
from tests.networks import digits_split


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compared")


@pytest.fixture(scope="module")
def test(folder: Path) -> Split:
    return digits_split(folder / "test", 1200, 1500)


@pytest.fixture(scope="module")
def base(folder: Path, test: Split) -> Model:
    train = digits_split(folder / "train", 0, 900)
    digits_split(folder / "val", 900, 1200)
    (folder / "models").mkdir()
    (folder / "onnx").mkdir()
    model = trained(train)
    for name, each in (("base", model), ("distilled", trained(train, "mlp", width=4))):
        save_model(each, folder / "models" / name)
        quantized(exported(each, folder / "onnx" / f"{name}.onnx", name), train)
    return model


def compared(folder: Path, *names: str) -> dict[str, dict[str, Any]]:
    models = [folder / "models" / name for name in ("base", "distilled")]
    return compare(folder / "val", folder / "test", models, [folder / "onnx" / f"{name}.onnx" for name in names])[0]


def test_a_block_for_each_file_in_their_order(folder: Path, base: Model, test: Split) -> None:
    blocks = compared(folder, "base", "distilled", "base-int8", "distilled-int8")
    assert list(blocks) == ["base", "distilled", "base-int8", "distilled-int8"]
    facts, int8 = blocks["base"], blocks["base-int8"]
    logits_NK = torch_logits(base, test.images)
    assert facts["accuracy"] == round(float((logits_NK.argmax(1) == test.labels).mean()), 6)
    assert facts["nll"] == pytest.approx(mean_nll(logits_NK, test.labels), abs=1e-4)
    assert "against_base" not in facts and 0 < facts["ece"] < 1
    change = int8["against_base"]
    assert change["gained"] - change["lost"] == round(300 * (int8["accuracy"] - facts["accuracy"]))
    assert change["low"] <= change["difference"] <= change["high"] and 0 <= change["p_value"] <= 1
    assert all(shift < 0 for shift in change["worst_classes"].values()) and len(change["worst_classes"]) <= 5
    assert facts["agreement"] == 1.0 and facts["max_logit_difference"] < 1e-3
    assert 0.9 < int8["agreement"] <= 1.0 and int8["max_logit_difference"] > facts["max_logit_difference"]
    assert facts["parameters"] == int8["parameters"] == sum(weight.numel() for weight in base.net.parameters())
    assert facts["macs"] == int8["macs"] == 64 * 9 * 8 + 16 * 9 * 8 * 16 + 4 * 9 * 16 * 32 + 32 * 10
    assert blocks["distilled-int8"]["parameters"] == blocks["distilled"]["parameters"] != facts["parameters"]
    content = (folder / "onnx" / "base-int8.onnx").read_bytes()
    assert int8["bytes"] == len(content) and int8["gzip_bytes"] == len(gzip.compress(content, 9, mtime=0))


def test_val_is_measured_apart_from_test(folder: Path, base: Model) -> None:
    there = compared(folder, "base")["base"]
    swapped = compare(folder / "test", folder / "val", [folder / "models" / "base"], [folder / "onnx" / "base.onnx"])[0]
    assert (there["val_accuracy"], there["val_nll"]) == (swapped["base"]["accuracy"], swapped["base"]["nll"])
    assert there["val_nll"] != there["nll"]


def test_the_same_facts_every_time(folder: Path, base: Model) -> None:
    assert compared(folder, "base", "base-int8") == compared(folder, "base", "base-int8")


def test_accuracy_and_nll() -> None:
    logits_NK = np.array([[2, 0, 0], [0, 900, 0], [1, 1, 1]], np.float32)
    labels_N = np.array([0, 0, 0])
    assert accuracy(logits_NK, labels_N) == pytest.approx(2 / 3)
    expected = (np.log(np.exp(2) + 2) - 2 + 900 + np.log(3)) / 3
    assert mean_nll(logits_NK, labels_N) == pytest.approx(expected)


def test_a_file_of_no_given_model_is_refused(folder: Path, base: Model) -> None:
    with pytest.raises(UserError, match=r"distilled\.onnx: got variant 'distilled' .*, expected one of base$"):
        compare(folder / "val", folder / "test", [folder / "models" / "base"], [folder / "onnx" / "distilled.onnx"])


def test_a_file_of_other_data_is_refused(folder: Path, base: Model, tmp_path: Path) -> None:
    for name in ("val", "test"):
        with SplitWriter(tmp_path / name, (8, 8, 1)) as writer:
            writer.append(np.zeros((3, 8, 8, 1), np.uint8), np.zeros(3, np.int64))
            writer.finish(InputSpec(["cat", "dog"], [0.0], [1.0], "crop"))
    message = r"base\.onnx: got a model for 8x8 images with 1 channels and 10 classes, expected one for .* 2 classes"
    with pytest.raises(UserError, match=message):
        compare(tmp_path / "val", tmp_path / "test", [folder / "models" / "base"], [folder / "onnx" / "base.onnx"])


def test_an_empty_split_and_a_broken_file_are_refused(folder: Path, base: Model, tmp_path: Path) -> None:
    digits_split(tmp_path / "none", 0, 0)
    models, onnx = [folder / "models" / "base"], [folder / "onnx" / "base.onnx"]
    with pytest.raises(UserError, match="compare: got no val images"):
        compare(tmp_path / "none", folder / "test", models, onnx)
    (tmp_path / "bad.onnx").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"bad\.onnx: not a readable ONNX file"):
        compare(folder / "val", folder / "test", models, [tmp_path / "bad.onnx"])
    with pytest.raises(UserError, match="not a readable model"):
        compare(folder / "val", folder / "test", [tmp_path / "none"], onnx)
