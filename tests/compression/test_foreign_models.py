"""``isoflop compress``: models that others exported are quantized with a folder of images and measured."""

from __future__ import annotations

import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto
from PIL import Image
from torch import nn

from isoflop.cli import main as cli
from isoflop.compression.foreign_graphs import ready_graph, total_bytes
from isoflop.compression.foreign_inputs import PixelChoices, examine, read_images
from isoflop.compression.int8.static import nodes_to_quantize
from isoflop.data.images import decode, fit_to_square
from isoflop.inference.onnx_files import open_session, outputs_of
from isoflop.runtime.errors import UserError
from tests.exports import exported, trained
from tests.foreign import CLASSES, LINEAR, SIDE, classifier, node
from tests.networks import digits_split


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
    assert facts["audit"]["int8"]["int8_layers"] == 3 and facts["audit"]["int8"]["warnings"] == []
    assert facts["bytes"]["int8"] < facts["bytes"]["float"] and facts["latency"]["int8_ms"] > 0
    assert facts["within_max_accuracy_drop"] and 0 <= facts["changed_predictions"] < 10
    assert "3 of 3 in INT8" in shown and "speed-up" in shown
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
        (["n", 3, 8, 8], {"outputs": 4}, "got outputs y [1, 3, 8, 8], expected one [batch, classes] in float"),
        (["n", 3, "h", "w"], {}, "(--size sets the side if the model leaves it open)"),
        (["n", 5, 8, 8], {}, "expected squares with 1 or 3 channels"),
        (["n", 3, 8, 6], {}, "expected squares with 1 or 3 channels"),
        ([9999, 3, 8, 8], {}, "got a fixed batch size of 9999, expected 1 to 4096"),
        (["n", 3, 60000, 60000], {}, "got images of 60000 pixels, expected at most 4096"),
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


OPEN: list[Any] = [None] * 4
THREE: dict[str, list[Any] | None] = {"y": ["n", CLASSES], "f": ["n", 32]}


def half(keep_io_types: bool) -> ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    return convert_float_to_float16(classifier(LINEAR), keep_io_types=keep_io_types)  # type: ignore[no-any-return]


def fused() -> ModelProto:
    """As ONNX Runtime saves it with its extended optimizations."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    with tempfile.TemporaryDirectory() as scratch:
        options.optimized_model_filepath = f"{scratch}/fused.onnx"
        onnxruntime.InferenceSession(classifier(LINEAR).SerializeToString(), options)
        model = onnx.load(options.optimized_model_filepath)
    assert "FusedConv" in {item.op_type for item in model.graph.node}
    return model


def unsorted() -> ModelProto:
    model = classifier(LINEAR)
    nodes = list(model.graph.node)[::-1]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


KINDS: dict[str, tuple[Callable[[], ModelProto], PixelChoices, dict[str, Any]]] = {
    "plain": (lambda: classifier(LINEAR), PixelChoices(), {"batch": None, "answer": "class"}),
    "a fixed batch": (
        lambda: classifier(LINEAR, shape=[4, 3, SIDE, SIDE], outputs={"y": [4, CLASSES]}), PixelChoices(),
        {"batch": 4}),
    "all axes open": (
        lambda: classifier(LINEAR, shape=OPEN, outputs={"y": None}), PixelChoices(size=SIDE, channels=3),
        {"batch": None, "channels_last": False}),
    "opset 9": (lambda: classifier(LINEAR, opset=9, ir_version=3), PixelChoices(), {}),
    "opset 11": (lambda: classifier(LINEAR, opset=11, ir_version=6), PixelChoices(), {}),
    "scores of four axes": (
        lambda: classifier([node("Conv", "g w4", "y")], outputs={"y": ["n", CLASSES, 1, 1]}), PixelChoices(), {}),
    "a baked batch": (
        lambda: classifier([node("Reshape", "g one", "f"), LINEAR[1]], extra={"one": np.array([1, -1])}),
        PixelChoices(), {"batch": 1}),
    "one probability": (
        lambda: classifier([LINEAR[0], node("Gemm", "f w5", "z", transB=1), node("Sigmoid", "z", "y")],
                           outputs={"y": ["n", 1]}),
        PixelChoices(), {"answer": "above half", "is_probability": True, "classes": ["0", "1"]}),
    "one logit": (
        lambda: classifier([LINEAR[0], node("Gemm", "f w5", "y", transB=1)], outputs={"y": ["n", 1]}),
        PixelChoices(classes=["no", "yes"]), {"answer": "above zero", "classes": ["no", "yes"]}),
    "labels": (
        lambda: classifier([LINEAR[0], node("Gemm", "f w3 b3", "z", transB=1), node("Sigmoid", "z", "y")]),
        PixelChoices(), {"answer": "labels above half"}),
    "several outputs": (
        lambda: classifier(LINEAR, outputs=THREE), PixelChoices(output="y"), {"output_name": "y"}),
    "float16": (lambda: half(True), PixelChoices(), {"dtype": "float32"}),
    "float16 at its ends": (lambda: half(False), PixelChoices(), {"dtype": "float16"}),
    "fused by ONNX Runtime": (fused, PixelChoices(), {}),
    "unsorted": (unsorted, PixelChoices(), {}),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_what_onnx_runtime_runs_is_understood(kind: str, photos: Path, tmp_path: Path) -> None:
    """The prepared graph gives the scores of the file, for the input that was found."""
    make, choices, expected = KINDS[kind]
    file = tmp_path / "theirs.onnx"
    onnx.save(make(), file)
    graph = ready_graph(file)
    found = examine(graph, file, choices)
    images_N, _ = read_images(photos, found.io, 16)
    found = found.fitted(graph, images_N)
    io = found.io.model_dump()
    assert {key: io[key] for key in expected} == expected and io["size"] == SIDE and io["channels"] == 3
    assert len(nodes_to_quantize(graph, True)) >= 2
    count = io["batch"] or 2
    session = open_session(str(file), threads=1)
    inputs = found.io.inputs(images_N[:count])
    (scores,) = session.run([io["output_name"]], {"x": inputs})
    ready = outputs_of(graph, found.graph_io, found.io.inputs(images_N[:7]))
    np.testing.assert_allclose(ready[:count], scores.reshape(count, -1), rtol=0.02, atol=0.02)
    assert len(ready) == 7


def test_weights_in_a_file_beside_are_read_only_from_the_models_folder(photos: Path, tmp_path: Path) -> None:
    file = tmp_path / "theirs.onnx"
    onnx.save(classifier(LINEAR), file, save_as_external_data=True, location="theirs.bin", size_threshold=0)
    assert total_bytes(file) > 20_000 > file.stat().st_size and len(ready_graph(file).graph.initializer) >= 6
    (tmp_path / "theirs.bin").rename(tmp_path / "secret")
    with pytest.raises(UserError, match=r"weights file 'theirs\.bin' not found; fix: copy it next to the model"):
        ready_graph(file)
    (tmp_path / "theirs.bin").symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="expected a file next to the model"):
        ready_graph(file)
    for name in ("../secret", "/etc/passwd", "..\\secret"):
        graph = onnx.load(file, load_external_data=False)
        for tensor in graph.graph.initializer:
            for entry in tensor.external_data:
                entry.value = name if entry.key == "location" else entry.value
        file.write_bytes(graph.SerializeToString())
        with pytest.raises(UserError, match="expected a file next to the model"):
            ready_graph(file)


def looping() -> ModelProto:
    kinds = {"i": TensorProto.INT64, "go": TensorProto.BOOL}
    inside = [onnx.helper.make_tensor_value_info(name, kind, []) for name, kind in kinds.items()]
    value = onnx.helper.make_tensor_value_info("v", TensorProto.FLOAT, None)
    outs = [onnx.helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            onnx.helper.make_tensor_value_info("u", TensorProto.FLOAT, None)]  # fmt: skip
    body = onnx.helper.make_graph(
        [node("Identity", "go", "go_on"), node("Identity", "v", "u")], "b", [*inside, value], outs
    )
    tail = [node("Loop", "most true g", "k", body=body), node("Flatten", "k", "f"), LINEAR[1]]
    return classifier(tail, extra={"most": np.array(2**62), "true": np.array(True)})


def blocked() -> ModelProto:
    model = classifier(LINEAR)
    model.graph.node[0].domain = "com.microsoft.nchwc"
    model.opset_import.append(onnx.helper.make_opsetid("com.microsoft.nchwc", 1))
    return model


@pytest.mark.parametrize(
    ("make", "choices", "said"),
    [
        (looping, PixelChoices(), r"got control flow \(Loop\), expected a graph without it"),
        (blocked, PixelChoices(), "optimized for one processor .* fix: compress the exported file"),
        (lambda: classifier(LINEAR, outputs=THREE), PixelChoices(), "fix: --output NAME chooses the scores"),
        (lambda: classifier(LINEAR), PixelChoices(output="z"), r"--output: got 'z', expected an output .* y \[1, 4\]"),
        (lambda: classifier(LINEAR), PixelChoices(classes=["a"]), "--classes: got 1 names, expected 4"),
        (
            lambda: classifier(LINEAR, shape=OPEN),
            PixelChoices(size=SIDE),
            r"fix: --channels 3 \(color\) or --channels 1",
        ),
        (lambda: classifier(LINEAR), PixelChoices(channels=1), "--channels sets the number"),
    ],
)
def test_what_cannot_be_understood_gets_its_reason(
    photos: Path, tmp_path: Path, make: Callable[[], ModelProto], choices: PixelChoices, said: str
) -> None:
    file = tmp_path / "theirs.onnx"
    file.write_bytes(make().SerializeToString())
    with pytest.raises(UserError, match=said):
        graph = ready_graph(file)
        found = examine(graph, file, choices)
        found.fitted(graph, read_images(photos, found.io, 16)[0])


def test_changed_predictions_are_those_of_the_threshold_and_predict_takes_the_file(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One probability: argmax of a single column would be 0 for every image. Channels in the order blue, green, red."""
    tail = [LINEAR[0], node("Gemm", "f w5", "z", transB=1), node("Sub", "z middle", "m"), node("Sigmoid", "m", "y")]
    model, out = tmp_path / "theirs.onnx", tmp_path / "small"
    (tmp_path / "classes.txt").write_text("bad\ngood\n")
    images = [
        fit_to_square(decode(file.read_bytes(), "x"), SIDE, 3, "crop") for file in sorted(photos.rglob("[0-9]*.png"))
    ]
    inputs = (np.stack(images)[..., ::-1].astype(np.float32) / 255).transpose(0, 3, 1, 2)

    def scores(file: Path) -> Any:
        return open_session(str(file), threads=1).run(["y"], {"x": inputs})[0][:, 0]

    middle = np.zeros(1, np.float32)
    for _ in range(2):  # the second time with half of the images on each side
        onnx.save(classifier(tail, outputs={"y": ["n", 1]}, extra={"middle": middle}), model)
        middle = np.array([np.median(np.log(scores(model) / (1 - scores(model))))], np.float32)
    names = ("--classes", tmp_path / "classes.txt", "--bgr", "--max-changed", 1, "--json")
    assert run(model, "--calibration", photos, "--out", out, *names) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["input"]["answer"] == "above half" and facts["input"]["bgr"] and facts["warnings"] == []
    before, after = scores(model) > 0.5, scores(out / "model-int8.onnx") > 0.5
    assert facts["changed_predictions"] == facts["flips"] == int((before != after)[1::2].sum())
    assert [layer["words"] for layer in facts["layers"]] == [
        "3×3 convolution 1, 3 to 16 channels", "3×3 convolution 2, 16 to 32 channels",
        "linear layer 1, 32 to 1 features",
    ]  # fmt: skip
    first = sorted(photos.rglob("[0-9]*.png"))[0]
    assert cli.main(["predict", str(out / "model-int8.onnx"), str(first), "--json", "--top", "2"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    told = {entry["class"]: entry["probability"] for entry in found["top"]}
    assert told["good"] == pytest.approx(float(scores(out / "model-int8.onnx")[0]), abs=1e-5)
    assert told["good"] + told["bad"] == pytest.approx(1, abs=1e-5)
