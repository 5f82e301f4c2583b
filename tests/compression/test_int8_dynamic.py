"""Transformers in INT8: attention is fused, tokens that nobody reads are not computed, linear layers run in INT8."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from isoflop.compression.int8.dynamic import linear_layers, with_dynamic_ranges
from isoflop.compression.int8.fusion import fused
from isoflop.compression.quantization import quantize_graph
from isoflop.inference.onnx_files import GraphIO
from isoflop.runtime.errors import UserError
from tests.compression.test_int8_parts import model, normal, residual_block, run
from tests.exports import quantize_params

IO = GraphIO("x", "y", 8)
TOKENS, WIDTH, HEADS = 5, 16, 2


def transformer(mask: float | None = 0.0, pooled: bool = False) -> onnx.ModelProto:
    """Two blocks on x [batch, 5, 16], and a head on the third token or on the mean of all."""
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, Any] = {
        "split": np.array([0, TOKENS, HEADS, WIDTH // HEADS]), "join": np.array([0, TOKENS, WIDTH]),
        "root": np.float32((WIDTH // HEADS) ** -0.25), "one": np.ones(WIDTH, np.float32),
        "zero": np.zeros(WIDTH, np.float32), "third": np.array(2), "head": normal(WIDTH, 4, seed=9),
        "true": np.array(True), "some": np.float32(mask or 0), "none": np.float32(-np.inf),
        "tokens": np.array([TOKENS]), "heads": np.array([1]), "first": np.array([0]),
    }  # fmt: skip

    def add(kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def linear(source: str, name: str, out: int, wide: int = WIDTH) -> str:
        weights[name] = normal(wide, out, seed=len(weights)) / 4
        weights[f"{name}_bias"] = normal(out, seed=len(weights))
        return add("Add", [add("MatMul", [source, name], f"{name}_product"), f"{name}_bias"], f"{name}_out")

    add("Gather", [add("Shape", ["x"], "shape"), "first"], "batch")
    add("Expand", ["true", add("Concat", ["batch", "heads", "tokens", "tokens"], "square", axis=0)], "seen")
    add("Where", ["seen", "some", "none"], "mask")
    stream = "x"
    for block in "ab":
        norm = add("LayerNormalization", [stream, "one", "zero"], f"{block}norm", axis=-1)
        four = {}
        for key in "qkv":
            parts = add("Reshape", [linear(norm, block + key, WIDTH), "split"], f"{block}{key}_parts")
            four[key] = add("Transpose", [parts], f"{block}{key}_4", perm=[0, 2, 3, 1] if key == "k" else [0, 2, 1, 3])
        scaled = [add("Mul", [four[key], "root"], f"{four[key]}_scaled") for key in "qk"]
        scores = add("MatMul", scaled, f"{block}scores")
        scores = scores if mask is None else add("Add", [scores, "mask"], f"{block}masked")
        shares = add("Softmax", [scores], f"{block}shares", axis=-1)
        heads = add(
            "Transpose", [add("MatMul", [shares, four["v"]], f"{block}heads")], f"{block}back", perm=[0, 2, 1, 3]
        )
        joined = add("Reshape", [heads, "join"], f"{block}joined")
        stream = add("Add", [linear(joined, f"{block}o", WIDTH), stream], f"{block}sum")
        norm = add("LayerNormalization", [stream, "one", "zero"], f"{block}norm2", axis=-1)
        hidden = add("Gelu", [linear(norm, f"{block}wide", 32)], f"{block}gelu")
        stream = add("Add", [linear(hidden, f"{block}narrow", WIDTH, 32), stream], f"{block}sum2")
    norm = add("LayerNormalization", [stream, "one", "zero"], "last", axis=-1)
    weights["axis"] = np.array([1])
    if pooled:
        add("ReduceMean", [norm, "axis"], "pooled", keepdims=0)
    else:
        add("Gather", [norm, "third"], "pooled", axis=1)
    add("MatMul", ["pooled", "head"], "y")
    return model(nodes, weights, [TOKENS, WIDTH])


def kinds(graph: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in graph.graph.node]


@pytest.mark.parametrize(("mask", "pooled"), [(0.0, False), (None, False), (0.0, True), (1.5, False)])
def test_a_rewritten_transformer_has_the_same_outputs(mask: float | None, pooled: bool) -> None:
    graph, inputs = transformer(mask, pooled), normal(6, TOKENS, WIDTH)
    found = fused(graph, IO, inputs)
    assert found is not None
    attention = [node for node in found.graph.node if node.op_type == "MultiHeadAttention"]
    assert len(attention) == 2 and "Softmax" not in kinds(found)
    assert all((len(node.input) > 5) == (mask == 1.5) for node in attention)
    for batch in (1, 6):
        assert run(found, inputs[:batch]) == pytest.approx(run(graph, inputs[:batch]), abs=1e-4)
    by_token = [
        node for node in found.graph.node if node.op_type == "Gather" and node.attribute and node.attribute[0].i
    ]
    # the classifier's own, one for the last block's sum, and one for its queries or, with a mask, its attention
    assert len(by_token) == (0 if pooled else 3)


def test_a_mask_that_depends_on_the_input_stays() -> None:
    graph = transformer()
    where = next(node for node in graph.graph.node if node.op_type == "Where")
    seen = helper.make_node("Greater", ["x_max", "limit"], ["seen_by_value"])
    largest = helper.make_node("ReduceMax", ["x", "axes"], ["x_max"], keepdims=1)
    limit = onnx.numpy_helper.from_array(np.array(-100, np.float32), "limit")
    axes = onnx.numpy_helper.from_array(np.array([1, 2]), "axes")
    graph.graph.initializer.extend([limit, axes])
    unsqueeze = helper.make_node("Unsqueeze", ["seen_by_value", "axis"], ["seen_4"])
    place = list(graph.graph.node).index(where)
    for node in (unsqueeze, seen, largest):
        graph.graph.node.insert(place, node)
    where = next(node for node in graph.graph.node if node.op_type == "Where")
    where.input[0] = "seen_4"
    inputs = normal(4, TOKENS, WIDTH)
    found = fused(graph, IO, inputs)
    assert found is None or all(
        len(node.input) > 5 for node in found.graph.node if node.op_type == "MultiHeadAttention"
    )


def test_a_graph_without_attention_is_not_rewritten() -> None:
    assert fused(residual_block(), IO, normal(2, 7, 32)) is None


@pytest.mark.parametrize("portable", [False, True])
def test_linear_layers_run_in_int8_whatever_their_form(portable: bool) -> None:
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "a", "a_bias"], ["h"], name="turned", transB=1, transA=0),
        helper.make_node("Gelu", ["h"], ["g"]),
        helper.make_node("Gemm", ["g", "b"], ["i"], name="plain"),
        helper.make_node("Gemm", ["g", "b"], ["half"], name="scaled", alpha=0.5),
        helper.make_node("Add", ["i", "half"], ["j"]),
        helper.make_node("MatMul", ["j", "c"], ["y"], name="head"),
    ]
    weights = {"a": normal(32, 35), "a_bias": normal(32), "b": normal(32, 8, seed=1), "c": normal(8, 3, seed=2)}
    graph, inputs = model(nodes, weights, [5, 7]), normal(20, 5, 7)
    names = [node.name for node in linear_layers(graph, keep_last_float=False)]
    assert names == ["turned", "plain", "head"]
    assert [node.name for node in linear_layers(graph, keep_last_float=True)] == ["turned", "plain"]
    int8 = with_dynamic_ranges(graph, names, portable)
    assert kinds(int8).count("MatMulInteger") == 3 and kinds(int8).count("Gemm") == 1
    assert all(node.domain == "" for node in int8.graph.node)
    exact, found = run(graph, inputs), run(int8, inputs)
    assert 0 < np.sqrt(((found - exact) ** 2).mean() / (exact**2).mean()) < 0.03
    largest = max(int(np.abs(onnx.numpy_helper.to_array(item).astype(int)).max())
                  for item in int8.graph.initializer if item.data_type == onnx.TensorProto.INT8)  # fmt: skip
    assert largest == (63 if portable else 127)


def quantized(activations: str, **changes: Any) -> Any:
    graph, inputs = transformer(), normal(40, TOKENS, WIDTH)
    labels = run(graph, inputs).argmax(1)
    params = quantize_params(activations=activations, method="minmax", **changes)
    return graph, inputs, quantize_graph(graph, IO, inputs, inputs, labels, params, called="it")


def test_dynamic_activations_keep_the_predictions_and_are_described() -> None:
    graph, inputs, found = quantized("dynamic")
    assert (run(found.graph, inputs).argmax(1) == run(graph, inputs).argmax(1)).mean() > 0.9
    assert kinds(found.graph).count("MatMulInteger") == 12 and kinds(found.graph).count("MultiHeadAttention") == 2
    facts = found.facts()
    assert facts["activations"] == facts["method"] == "dynamic" and set(found.errors) == {"dynamic"}
    assert len(found.layers) == 12 and all(layer.int8 and layer.error > 0 for layer in found.layers)
    assert found.calibration(40)["ranges"] == {}


def test_auto_measures_both_kinds_of_a_transformer() -> None:
    _, _, found = quantized("auto")
    assert set(found.candidates_ms) == {"static", "dynamic"} and min(found.candidates_ms.values()) > 0
    fast = found.candidates_ms["dynamic"] < 0.95 * found.candidates_ms["static"]
    assert found.activations == ("dynamic" if fast else "static")


def test_dynamic_activations_need_a_linear_layer() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["y"], name="conv")]
    graph = model(nodes, {"w": normal(4, 3, 1, 1)}, [3, 1, 1], axes=4)
    inputs = normal(8, 3, 1, 1)
    params = quantize_params(activations="dynamic", keep_last_layer_float=False)
    with pytest.raises(UserError, match=r"no linear layer .*; fix: quantize.activations: static"):
        quantize_graph(graph, IO, inputs, inputs, np.zeros(8, np.int64), params, called="it")
