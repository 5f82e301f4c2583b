"""INT8 graphs: ONNX Runtime runs them in integer kernels, predictions hardly change, the bytes are reproducible."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from pydantic import ValidationError

from isoflop.compression.calibration import calibration_images
from isoflop.compression.int8.static import nodes_to_quantize
from isoflop.compression.quantization import Quantize, Quantized, quantize, quantize_graph
from isoflop.data.arrays import InputSpec, Split
from isoflop.inference.onnx_export import export
from isoflop.inference.onnx_files import open_classifier, read_graph
from isoflop.runtime.errors import UserError
from tests.conftest import ROOT, run_command
from tests.exports import exported, optimized_kinds, quantize_params, quantized, trained
from tests.networks import digits_split


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return digits_split(tmp_path_factory.mktemp("data") / "train", 0, 900)


@pytest.fixture(scope="module")
def cnn(train: Split, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(trained(train, width=16), tmp_path_factory.mktemp("onnx") / "base.onnx")


def target_of(source: Path, tmp_path: Path) -> Path:
    copy = tmp_path / source.name
    copy.write_bytes(source.read_bytes())
    return copy


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "minmax"},
        {"method": "percentile"},
        {"method": "entropy"},
        {"method": "auto"},
        {"portable": True},
        {"keep_last_layer_float": False},
    ],
)
def test_every_way_keeps_the_predictions(cnn: Path, train: Split, tmp_path: Path, changes: dict[str, object]) -> None:
    float_NK = open_classifier(cnn).logits(train.images)
    int8_NK = open_classifier(quantized(target_of(cnn, tmp_path), train, **changes)).logits(train.images)
    assert (float_NK.argmax(1) == int8_NK.argmax(1)).mean() > 0.97
    assert not np.array_equal(float_NK, int8_NK)


@pytest.mark.parametrize(
    ("family", "integer", "count"),
    [("mlp", "QGemm", 2), ("cnn", "QLinearConv", 3), ("resnet", "QLinearConv", 7), ("vit", "QLinearMatMul", 12)],
)
def test_onnx_runtime_fuses_every_layer_but_the_last_into_integer_kernels(
    train: Split, tmp_path: Path, family: str, integer: str, count: int
) -> None:
    source = exported(trained(train, family, steps=10), tmp_path / "base.onnx")
    int8 = quantized(source, train, method="minmax")
    kinds = optimized_kinds(int8)
    assert kinds.count(integer) == count
    assert "Conv" not in kinds and "FusedGemm" not in kinds
    assert kinds.count("Gemm") == 1  # the last layer
    assert open_classifier(int8).session.get_outputs()[0].type == "tensor(float)"


@pytest.mark.parametrize("opset", [18, 23])
def test_other_opsets_are_fused_too(train: Split, tmp_path: Path, opset: int) -> None:
    export(trained(train, steps=2), "base", tmp_path / "base.onnx", opset)
    assert optimized_kinds(quantized(tmp_path / "base.onnx", train, method="minmax")).count("QLinearConv") == 3


def test_the_last_layer_is_quantized_if_asked(cnn: Path, train: Split, tmp_path: Path) -> None:
    int8 = quantized(target_of(cnn, tmp_path), train, keep_last_layer_float=False)
    kinds = optimized_kinds(int8)
    assert "QGemm" in kinds and "Gemm" not in kinds


def test_types_channels_and_the_float_front(cnn: Path, train: Split, tmp_path: Path) -> None:
    graph = read_graph(quantized(target_of(cnn, tmp_path), train))
    values = {item.name: onnx.numpy_helper.to_array(item) for item in graph.graph.initializer}
    weights = [value for value in values.values() if value.dtype == np.int8 and value.ndim == 4]
    assert len(weights) == 3 and max(abs(int(value.min())) for value in weights) >= 127
    first = next(node for node in graph.graph.node if node.op_type == "QuantizeLinear")
    assert values[first.input[2]].dtype == np.uint8 and values[first.input[1]].ndim == 0
    scales = [values[node.input[1]] for node in graph.graph.node if node.op_type == "DequantizeLinear"]
    assert sorted({scale.shape for scale in scales if scale.ndim}) == [(16,), (32,), (64,)]  # by output channel
    before = [node.op_type for node in graph.graph.node][: list(graph.graph.node).index(first)]
    assert "Cast" in before and "Mul" in before and "Add" in before


def test_portable_weights_have_seven_bits(cnn: Path, train: Split, tmp_path: Path) -> None:
    graph = read_graph(quantized(target_of(cnn, tmp_path), train, portable=True))
    arrays = [onnx.numpy_helper.to_array(item) for item in graph.graph.initializer]
    assert max(int(np.abs(array.astype(int)).max()) for array in arrays if array.dtype == np.int8) <= 64


def test_the_methods_differ_and_a_lower_percentile_clips_more(cnn: Path, train: Split, tmp_path: Path) -> None:
    ways: list[dict[str, object]] = [
        {"method": "minmax"},
        {"method": "percentile", "percentile": 99.9},
        {"method": "percentile", "percentile": 90.0},
        {"method": "entropy"},
    ]
    contents, errors = set(), []
    float_NK = open_classifier(cnn).logits(train.images)
    for way in ways:
        int8 = quantized(target_of(cnn, tmp_path), train, **way)
        contents.add(int8.read_bytes())
        errors.append(float(np.abs(open_classifier(int8).logits(train.images) - float_NK).mean()))
    assert len(contents) == len(ways)
    assert errors[2] > errors[1]


def test_metadata_and_checker(cnn: Path, train: Split, tmp_path: Path) -> None:
    before, after = read_graph(cnn), read_graph(quantized(target_of(cnn, tmp_path), train))
    assert [(item.key, item.value) for item in before.metadata_props] == [
        (item.key, item.value) for item in after.metadata_props
    ]


def test_the_same_bytes_in_another_process(cnn: Path, train: Split, tmp_path: Path) -> None:
    here = quantized(target_of(cnn, tmp_path), train)
    assert isinstance(train.images, np.memmap)
    code = (
        "import sys; from pathlib import Path; from isoflop.data.arrays import read_split;"
        "from isoflop.compression.quantization import quantize;"
        "from tests.exports import optimized_kinds, quantize_params;"
        "train, there = read_split(Path(sys.argv[2])), Path(sys.argv[3]);"
        "quantize(Path(sys.argv[1]), train, train, quantize_params(), target=there,"
        "calibration=there.with_suffix('.json'), metrics=there.with_suffix('.metrics'))"
    )
    arguments = (str(cnn), str(Path(str(train.images.filename)).parent), str(tmp_path / "there.onnx"))
    run_command(sys.executable, "-c", code, *arguments, cwd=ROOT, PYTHONHASHSEED="11")
    assert (tmp_path / "there.onnx").read_bytes() == here.read_bytes()


def test_no_torch_and_no_printing(cnn: Path, train: Split, tmp_path: Path) -> None:
    assert isinstance(train.images, np.memmap)
    code = (
        "import sys; from pathlib import Path; from isoflop.data.arrays import read_split;"
        "from isoflop.compression.quantization import Quantize, quantize;"
        "params = Quantize(activations='static', method='entropy', percentile=99.0,"
        "calibration_images=9, max_accuracy_drop=1.0, keep_last_layer_float=True, portable=False);"
        "train, there = read_split(Path(sys.argv[2])), Path(sys.argv[3]);"
        "quantize(Path(sys.argv[1]), train, train, params, target=there,"
        "calibration=there.with_suffix('.json'), metrics=there.with_suffix('.metrics'));"
        "assert 'torch' not in sys.modules"
    )
    arguments = (str(cnn), str(Path(str(train.images.filename)).parent), str(tmp_path / "x.onnx"))
    done = run_command(sys.executable, "-c", code, *arguments, cwd=tmp_path)
    assert done.stdout == done.stderr == ""
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json", "x.metrics", "x.onnx"]


def test_calibration_takes_turns_among_the_classes() -> None:
    labels_N = np.array([0] * 90 + [1] * 6 + [2] * 4)
    images_NHWC = np.arange(100, dtype=np.uint8).reshape(100, 1, 1, 1)
    chosen = calibration_images(images_NHWC, labels_N, 9).ravel().tolist()
    assert chosen == [0, 1, 2, 90, 91, 92, 96, 97, 98]
    assert np.bincount(labels_N[calibration_images(images_NHWC, labels_N, 20).ravel()]).tolist() == [10, 6, 4]
    assert len(calibration_images(images_NHWC, labels_N, 1000)) == 100


def test_only_layers_with_weights_and_what_lies_between_them(cnn: Path) -> None:
    graph = read_graph(cnn)
    kinds = {node.name: node.op_type for node in graph.graph.node}
    chosen = [kinds[name] for name in nodes_to_quantize(graph, keep_last_layer_float=True)]
    assert chosen == ["Conv", "Relu", "MaxPool", "Conv", "Relu", "MaxPool", "Conv", "Relu"]
    assert [kinds[name] for name in nodes_to_quantize(graph, keep_last_layer_float=False)][-1] == "Gemm"


def whole(cnn: Path, train: Split, **changes: object) -> Quantized:
    images, labels = np.array(train.images[:600]), np.array(train.labels[:600])
    graph_io, params = open_classifier(cnn).graph_io, quantize_params(**changes)
    return quantize_graph(read_graph(cnn), graph_io, images[:64], images, labels, params, called="it")


def test_auto_takes_the_method_with_the_least_error(cnn: Path, train: Split) -> None:
    found = whole(cnn, train, method="auto")
    assert set(found.errors) == {"minmax", "percentile", "entropy"}
    assert found.errors[found.method] == min(found.errors.values()) < max(found.errors.values())
    alone = whole(cnn, train, method=found.method)
    assert alone.graph.SerializeToString(deterministic=True) == found.graph.SerializeToString(deterministic=True)


def test_each_layer_by_itself_is_off_less_than_all_together(cnn: Path, train: Split) -> None:
    found = whole(cnn, train)
    assert [layer.kind for layer in found.layers] == ["Conv", "Conv", "Conv"]
    assert len({layer.name for layer in found.layers}) == 3
    assert all(0 < layer.error < 1.5 * found.errors["percentile"] for layer in found.layers)
    assert found.kept_within and all(layer.int8 for layer in found.layers)


def test_the_worst_layers_go_back_to_float_until_the_drop_is_allowed(cnn: Path, train: Split) -> None:
    """Percentile 60 clips so much that accuracy drops; with fewer INT8 layers it drops less."""
    rough = {"method": "percentile", "percentile": 60.0}
    everything = whole(cnn, train, **rough)
    lost = everything.float_accuracy - everything.accuracy
    assert lost > 0.02
    better = whole(cnn, train, **rough, max_accuracy_drop=0.4 * lost)
    floats = [layer for layer in better.layers if not layer.int8]
    assert floats and max(better.layers, key=lambda layer: layer.error) in floats
    if better.kept_within:
        assert better.float_accuracy - better.accuracy <= 0.4 * lost
    else:  # one INT8 layer is left
        assert len(floats) == len(better.layers) - 1
    facts = better.facts()
    assert facts["layers_in_float"] == len(floats) and facts["within_max_accuracy_drop"] == better.kept_within


def test_the_ranges_and_the_facts_are_written(cnn: Path, train: Split, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("target", "calibration", "metrics")}
    quantize(cnn, train, train, quantize_params(method="auto"), **files)
    calibration, metrics = (json.loads(files[name].read_text()) for name in ("calibration", "metrics"))
    assert calibration["images"] == 64 and calibration["method"] == metrics["method"]
    assert all(low <= high for low, high in calibration["ranges"].values()) and len(calibration["ranges"]) >= 8
    assert len(metrics["layers"]) == 3 and metrics["layers_in_float"] == 0


def test_no_images_or_others_are_refused(cnn: Path, train: Split, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("target", "calibration", "metrics")}
    empty = Split(train.images[:0], train.labels[:0], train.input_spec)
    with pytest.raises(UserError, match=r"got 0 training images of .* to calibrate"):
        quantize(cnn, empty, train, quantize_params(), **files)
    with pytest.raises(UserError, match=r"got 0 validation images of .* to evaluate"):
        quantize(cnn, train, empty, quantize_params(), **files)
    colours = Split(np.zeros((5, 8, 8, 3), np.uint8), np.zeros(5, np.int64), InputSpec(["a"], [0.0], [1.0], "crop"))
    with pytest.raises(UserError, match=r"got 5 training images of shape \[8, 8, 3\] .* one of shape \[8, 8, 1\]"):
        quantize(cnn, colours, train, quantize_params(), **files)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_onnx_is_refused(train: Split, tmp_path: Path) -> None:
    files = {name: tmp_path / name for name in ("target", "calibration", "metrics")}
    (tmp_path / "bad.onnx").write_text("no\n")
    with pytest.raises(UserError, match="not a readable ONNX file"):
        quantize(tmp_path / "bad.onnx", train, train, quantize_params(), **files)


@pytest.mark.parametrize(
    "values",
    [
        {"method": "kl"},
        {"percentile": 50.0},
        {"percentile": 101.0},
        {"calibration_images": 0},
        {"max_accuracy_drop": -0.01},
        {"portable": "yes"},
    ],
)
def test_a_wrong_section_is_refused(values: dict[str, object]) -> None:
    good = quantize_params().model_dump()
    with pytest.raises(ValidationError):
        Quantize.model_validate(good | values)
