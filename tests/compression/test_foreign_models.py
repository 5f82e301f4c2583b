"""``isoflop compress``: models that others exported are quantized with a folder of images and measured."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from isoflop.cli import main as cli
from isoflop.inference.onnx_files import open_session
from tests.exports import exported, trained
from tests.networks import digits_split

SIDE = 24


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 images in two folders, of another size than the model takes, one broken image, and a text file."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for number in range(60):
        place = folder / ("a" if number % 2 else "b")
        place.mkdir(exist_ok=True)
        waves = np.sin(np.add.outer(np.arange(30) * rng.uniform(0.1, 1), np.arange(40) * rng.uniform(0.1, 1)))
        pixels = np.stack([waves * weight for weight in rng.uniform(0.2, 1, 3)], axis=2)
        Image.fromarray(np.uint8(127 + 127 * pixels)).save(place / f"{number:02}.png")
    (folder / "a" / "broken.png").write_bytes(b"none")
    (folder / "notes.txt").write_text("no image")
    return folder


def export_torch(file: Path, batch: bool = True, channels: int = 3) -> Path:
    """A network as other tools export it: channels first, float input, logits only."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(32, 7),
    )  # fmt: skip
    with torch.no_grad():
        net(torch.rand(64, channels, SIDE, SIDE))  # statistics for the norms
    net.eval()
    example = torch.rand(2 if batch else 1, channels, SIDE, SIDE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net, (example,), str(file), dynamo=True, external_data=False, verbose=False, input_names=["x"],
            dynamic_shapes=({0: torch.export.Dim("batch")},) if batch else None,
        )  # fmt: skip
    return file


def run(*arguments: object) -> int:
    return cli.main(["compress", *map(str, arguments)])


@pytest.mark.parametrize("batch", [True, False])
def test_a_model_of_others_is_quantized_and_measured(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], batch: bool
) -> None:
    model, out = export_torch(tmp_path / "theirs.onnx", batch), tmp_path / "out" / "small"
    how = ("--mean", 0.5, "--std", 0.25, "--max-changed", 1, "--out", out)
    assert run(model, "--calibration", photos, *how) == 0
    shown = capsys.readouterr().out
    assert {file.name for file in out.iterdir()} == {"model-int8.onnx", "calibration.json", "compress.json"}
    assert [file.name for file in out.parent.iterdir()] == ["small"]
    facts = json.loads((out / "compress.json").read_text())
    assert facts["images"] == {"calibrated_on": 30, "judged_on": 30, "unreadable": 1}
    assert facts["audit"]["int8"]["int8_layers"] == 2 and facts["audit"]["int8"]["warnings"] == []
    assert facts["bytes"]["int8"] < facts["bytes"]["float"] and facts["latency"]["int8_ms"] > 0
    assert facts["within_max_accuracy_drop"] and 0 <= facts["changed_predictions"] < 10
    assert "2 of 2 in INT8" in shown and "speed-up" in shown
    session = open_session(str(out / "model-int8.onnx"), threads=1)
    assert session.get_inputs()[0].shape[1:] == [3, SIDE, SIDE]
    assert run(model, "--calibration", photos, "--out", out) == 1
    assert "expected an empty or new one; fix: --force" in capsys.readouterr().err
    assert run(model, "--calibration", photos, *how, "--force", "--json") == 0
    assert json.loads(capsys.readouterr().out)["layers"] == facts["layers"]


def test_a_model_of_the_pipeline_takes_pixels_as_they_are(photos: Path, tmp_path: Path) -> None:
    train = digits_split(tmp_path / "train", 0, 300)
    ours = exported(trained(train, width=16), tmp_path / "ours.onnx")
    assert run(ours, "--calibration", photos, "--out", tmp_path / "small") == 0
    int8 = onnx.load(tmp_path / "small" / "model-int8.onnx")
    assert int8.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def no_classifier(file: Path, shape: list[Any], opset: int = 20, outputs: int = 2) -> Path:
    entry = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)
    leave = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["m", "k"] if outputs == 2 else shape)
    kind = "Flatten" if outputs == 2 else "Identity"
    graph = onnx.helper.make_graph([onnx.helper.make_node(kind, ["x"], ["y"])], "none", [entry], [leave])
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)]), file)
    return file


@pytest.mark.parametrize(
    ("shape", "changes", "said"),
    [
        (["n", 3, 8], {}, "expected one input of images"),
        (["n", 3, 8, 8], {"outputs": 4}, "expected one input of images"),
        (["n", 3, "h", "w"], {}, "(--size sets the side if the model leaves it open)"),
        (["n", 5, 8, 8], {}, "expected squares with 1 or 3 channels"),
        (["n", 3, 8, 6], {}, "expected squares with 1 or 3 channels"),
        ([4, 3, 8, 8], {}, "got a fixed batch size of 4, expected a dynamic batch or 1"),
        (["n", 3, 8, 8], {"opset": 11}, "got opset 11, expected 13 or later"),
        (["n", 3, 8, 8], {}, "got no layer to quantize"),
    ],
)
def test_what_cannot_be_compressed_gets_one_line(
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    shape: list[Any],
    changes: dict[str, Any],
    said: str,
) -> None:
    model = no_classifier(tmp_path / "theirs.onnx", shape, **changes)
    assert run(model, "--calibration", photos, "--out", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_other_mistakes_get_one_line(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, out = export_torch(tmp_path / "theirs.onnx"), ("--out", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    for folder, options, said in (
        (tmp_path / "absent", (), "not a folder, expected one with images"),
        (tmp_path / "empty", (), "got 0 readable images among 0 files"),
        (photos, ("--mean", 0.1, 0.2), "--mean: got 2 values, expected 1 or 3, one per channel"),
        (photos, ("--size", 12), "expected squares of 12 pixels"),
        (photos, ("--images", 10), "--images: got 10, expected at least 16"),
        (photos, ("--scale", 1e-40), "got logits that are not finite"),
    ):
        assert run(model, "--calibration", folder, *options, *out) == 1
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    assert run(model, "--calibration", photos, "--max-changed", 2, *out) == 2
    assert "--max-changed: got '2', expected a fraction from 0 to 1" in capsys.readouterr().err
    (tmp_path / "bad.onnx").write_text("no")
    assert run(tmp_path / "bad.onnx", "--calibration", photos, *out) == 1
    assert "not a readable ONNX file" in capsys.readouterr().err
