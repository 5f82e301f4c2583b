"""Parts of INT8 quantization: entropy ranges equal ONNX Runtime's, and one run measures the error of every layer."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.calibrate import HistogramCollector

from isoflop.compression.calibration import silence
from isoflop.compression.int8.ranges import activation_ranges, least_divergence
from isoflop.compression.int8.sensitivity import layer_errors
from isoflop.compression.int8.static import nodes_to_quantize, with_ranges, without_layers
from isoflop.compression.int8.trial import fewest_floats
from isoflop.inference.onnx_files import GraphIO

IO = GraphIO("x", "y", 8)


def model(nodes: list[onnx.NodeProto], weights: dict[str, Any], shape: list[Any], axes: int = 2) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "it",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None] * axes)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    for index, node in enumerate(graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def normal(*shape: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(graph: onnx.ModelProto, inputs: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    found: np.ndarray[Any, Any] = session.run(None, {"x": inputs})[0]
    return found


def residual_block() -> onnx.ModelProto:
    """x + 0.01 * a layer, then a norm and two layers."""
    nodes = [
        helper.make_node("MatMul", ["x", "small"], ["branch"], name="small"),
        helper.make_node("Add", ["branch", "bias"], ["biased"]),
        helper.make_node("Add", ["biased", "x"], ["sum"]),
        helper.make_node("LayerNormalization", ["sum", "one"], ["norm"]),
        helper.make_node("MatMul", ["norm", "wide"], ["hidden"], name="wide"),
        helper.make_node("Relu", ["hidden"], ["relu"]),
        helper.make_node("MatMul", ["relu", "head"], ["y"], name="head"),
    ]
    weights = {
        "small": 0.01 * normal(32, 32), "bias": normal(32), "one": np.ones(32, np.float32),
        "wide": normal(32, 64, seed=1), "head": normal(64, 5, seed=2),
    }  # fmt: skip
    return model(nodes, weights, [7, 32], axes=3)


@pytest.mark.parametrize("kind", ["one side", "both sides", "few values"])
def test_the_entropy_range_is_that_of_onnx_runtime(kind: str) -> None:
    values = np.maximum(normal(20_000), 0) if kind == "one side" else normal(20_000) ** 3
    values = values[:30] if kind == "few values" else values
    farthest = float(np.abs(values).max())
    counts, edges = np.histogram(values, 512, (-farthest, farthest))
    first, last = least_divergence(counts)
    with silence():
        theirs = HistogramCollector("entropy", False, 512, 128, 99.99, None).get_entropy_threshold(
            (counts, edges.astype(np.float32), -np.float32(farthest), np.float32(farthest)), 128
        )
    assert [edges[first], edges[last]] == pytest.approx([float(end) for end in theirs], rel=1e-5)


def test_ranges_cover_what_the_method_states_and_skip_infinite_values() -> None:
    graph = model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("Add", ["h", "mask"], ["masked"], name="mask"),
            helper.make_node("Relu", ["masked"], ["y"], name="last"),
        ],
        {"w": np.eye(4, dtype=np.float32), "mask": np.array([0, 0, 0, -np.inf], np.float32)},
        [4],
    )
    inputs = normal(1000, 4)
    found = activation_ranges(graph, ["first", "mask"], IO, inputs, ["minmax", "percentile"], 90.0)
    assert found["minmax"]["x"] == pytest.approx((inputs.min(), inputs.max()))
    assert found["minmax"]["masked"] == pytest.approx((inputs[:, :3].min(), inputs[:, :3].max()))
    low, high = found["percentile"]["x"]
    assert low == pytest.approx(np.percentile(inputs, 5), abs=0.02)
    assert high == pytest.approx(np.percentile(inputs, 95), abs=0.02)
    assert set(found["minmax"]) == {"x", "h", "masked"}


def test_one_run_measures_the_error_of_every_layer() -> None:
    graph, inputs = residual_block(), normal(20, 7, 32)
    layers = [node for node in graph.graph.node if node.op_type == "MatMul"]
    names = [node.name for node in layers]
    ranges = activation_ranges(graph, names, IO, inputs, ["minmax"], 99.0)["minmax"]
    errors = layer_errors(graph, layers, ranges, IO, inputs, portable=False)
    assert list(errors) == names
    assert errors["small"] < errors["wide"] / 20  # relative to the sum that the branch enters
    rough = dict(ranges, norm=(-0.5, 0.5))
    assert layer_errors(graph, layers, rough, IO, inputs, portable=False)["wide"] > 10 * errors["wide"]
    seven_bits = layer_errors(graph, layers, ranges, IO, inputs, portable=True)
    assert seven_bits["head"] > errors["head"]
    only_head = with_ranges(graph, ranges, ["head"], portable=False)
    exact, rounded = run(graph, inputs), run(only_head, inputs)
    assert errors["head"] == pytest.approx(np.sqrt(((rounded - exact) ** 2).mean() / (exact**2).mean()), rel=1e-3)


def test_a_residual_sum_that_only_norms_read_stays_in_float() -> None:
    graph = residual_block()
    kept = without_layers(graph, nodes_to_quantize(graph, keep_last_layer_float=False), [])
    by_name = {node.name: node for node in graph.graph.node}
    assert [by_name[name].output[0] for name in kept] == ["branch", "biased", "hidden", "relu", "y"]


@pytest.mark.parametrize("needed", range(9))
def test_bisection_finds_the_fewest_layers_in_float(needed: int) -> None:
    tried: list[int] = []

    def measured(candidate: Any) -> float:
        tried.append(candidate)
        return 1.0 if candidate >= needed else 0.0

    found, count, reached = fewest_floats(lambda count: count, 9, measured, 0.5)  # type: ignore[arg-type, return-value]
    assert (found, count, reached) == (needed, needed, 1.0)
    assert len(tried) <= 5


def test_without_an_accurate_graph_a_single_layer_is_in_int8() -> None:
    assert fewest_floats(lambda count: count, 9, lambda _: 0.1, 0.5)[1:] == (8, 0.1)  # type: ignore[arg-type, return-value]


def test_relu6_is_part_of_the_convolution_and_the_head_writes_float_logits() -> None:
    """A Clip between two layers costs no operator, and a head in INT8 has different logits for different images."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="one", pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["a", "low", "high"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="two", group=8, pads=[1, 1, 1, 1]),
        helper.make_node("Clip", ["c", "low", "high"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w3", "bias"], ["y"], name="head"),
    ]
    weights = {
        "w1": normal(8, 3, 3, 3), "w2": normal(8, 1, 3, 3), "w3": normal(128, 10), "bias": normal(10),
        "low": np.float32(0), "high": np.float32(6),
    }  # fmt: skip
    graph, inputs = model(nodes, weights, [3, 4, 4]), normal(400, 3, 4, 4)
    chosen = without_layers(graph, nodes_to_quantize(graph, keep_last_layer_float=False), [])
    ranges = activation_ranges(graph, chosen, IO, inputs, ["minmax"], 99.0)["minmax"]
    int8 = with_ranges(graph, ranges, chosen, portable=False)
    assert "Clip" not in [node.op_type for node in int8.graph.node]
    assert int8.graph.node[-1].op_type == "Gemm"
    exact, found = run(graph, inputs), run(int8, inputs)
    assert np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()) < 0.05
    assert len(np.unique(found)) > 0.9 * found.size > 256
    assert nodes_to_quantize(graph, keep_last_layer_float=True) == [*chosen[:-1]]
