"""Rewrites of a transformer's float graph that change no output and that ONNX Runtime's kernels run faster.

Attention becomes one MultiHeadAttention (domain com.microsoft), by the patterns of onnxscript. Masks that are zero
everywhere go. What the last block computes for tokens that nobody reads is not computed: a classifier that takes the
class token needs the last block's queries, sums and MLP for that token only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from isoflop.compression.int8.ranges import Inputs, Probe
from isoflop.inference.onnx_files import GraphIO

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_ATTENTION = "MultiHeadAttention"
_MASK = 5  # position of the mask among the inputs of MultiHeadAttention
_TOKENS = 1  # axis of the tokens
_BY_TOKEN = ("Add", "Sub", "Mul", "Div", "Gelu", "Relu", "Sigmoid", "Tanh", "Erf", "MatMul", "LayerNormalization")


def fused(graph: ModelProto, graph_io: GraphIO, inputs_N: Inputs) -> ModelProto | None:
    """The rewritten graph with the same metadata, or None if it has no attention that the patterns find.

    Args:
        inputs_N: at least two inputs, on which the masks are computed.
    """
    found = _with_attention(graph)
    if not any(node.op_type == _ATTENTION for node in found.graph.node):
        return None
    _drop_zero_masks(found, graph_io, inputs_N)
    _drop_unread_tokens(found)
    _drop_unread_nodes(found)
    del found.graph.value_info[:]  # shapes of tokens that are no longer computed
    for index, node in enumerate(found.graph.node):
        node.name = f"{node.op_type}_{index}"
    del found.metadata_props[:]
    found.metadata_props.extend(graph.metadata_props)
    return found


def _with_attention(graph: ModelProto) -> ModelProto:
    import onnx_ir
    from onnx_ir.passes import common
    from onnxscript.optimizer import optimize
    from onnxscript.rewriter.ort_fusions import erfgelu, mha, mha_scale, sdpa, shape_optimization

    model = onnx_ir.from_proto(graph)
    common.ShapeInferencePass()(model)
    optimize(model)
    shape_optimization.rules.apply_to_model(model)
    optimize(model)
    erfgelu.fuse_erfgelu(model)
    common.CommonSubexpressionEliminationPass()(model)
    sdpa.fuse_sdpa(model, apply_shape_inference=True)
    for fuse in (mha.fuse_mha1, mha.fuse_mha2, mha_scale.fuse_mha_scale):
        fuse(model)
    optimize(model)  # inlines what remains of intermediate functions
    common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    common.ShapeInferencePass()(model)
    return onnx_ir.to_proto(model)


def _drop_zero_masks(graph: ModelProto, graph_io: GraphIO, inputs_N: Inputs) -> None:
    """Remove masks that are computed from shapes only and that are zero for the inputs."""
    masked = [node for node in graph.graph.node if node.op_type == _ATTENTION and len(node.input) > _MASK]
    masks = sorted({node.input[_MASK] for node in masked if _from_shapes(graph, node.input[_MASK])})
    probe = Probe(graph, masks, graph_io)
    parts = [inputs_N] if graph_io.is_fixed else [inputs_N[:1], inputs_N[:2]]
    values = [batch for part in parts for batch in probe.batches(part, "reading masks")] if masks else []
    zero = {name for name in masks if not any(batch[name].any() for batch in values)}
    for node in masked:
        if node.input[_MASK] in zero:
            del node.input[_MASK:]


def _from_shapes(graph: ModelProto, tensor: str) -> bool:
    """Return whether a tensor depends on the graph's input through its shape only."""
    made_by = {name: node for node in graph.graph.node for name in node.output}
    entries = {item.name for item in graph.graph.input} - {item.name for item in graph.graph.initializer}
    waiting, seen = [tensor], set[str]()
    while waiting:
        name = waiting.pop()
        if name in entries:
            return False
        node = made_by.get(name)
        if name not in seen and node is not None and node.op_type not in ("Shape", "Size"):
            waiting += list(node.input)
        seen.add(name)
    return True


def _drop_unread_tokens(graph: ModelProto) -> None:
    """Compute only the token that the classifier takes, as far up as nothing else reads the others."""
    from onnx import numpy_helper

    constants = {item.name: item for item in graph.graph.initializer}
    ranks = {item.name: len(item.type.tensor_type.shape.dim) for item in graph.graph.value_info}
    takes = [node for node in graph.graph.node if _takes_a_token(node, constants, ranks)]
    if len(takes) != 1:
        return
    index = int(numpy_helper.to_array(constants[takes[0].input[1]]).reshape(()))
    reduced = _computed_by_token(graph, takes[0], ranks)
    if not reduced:
        return
    constants[takes[0].input[1]].CopyFrom(numpy_helper.from_array(np.array(0, np.int64), takes[0].input[1]))
    _cut(graph, reduced, index, constants, ranks)


def _takes_a_token(node: NodeProto, constants: dict[str, object], ranks: dict[str, int]) -> bool:
    axis = next((item.i for item in node.attribute if item.name == "axis"), 0)
    return node.op_type == "Gather" and axis == _TOKENS and node.input[1] in constants and ranks.get(node.input[0]) == 3


def _computed_by_token(graph: ModelProto, take: NodeProto, ranks: dict[str, int]) -> set[str]:
    """Outputs of the nodes that compute each token by itself and whose results only ``take`` reads in the end."""
    outputs = {item.name for item in graph.graph.output}
    only: set[str] = {str(take.input[0])}  # tensors whose readers all need one token
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    reduced: set[str] = set()
    for node in reversed(graph.graph.node):
        name = node.output[0] if len(node.output) == 1 else ""
        attends = node.op_type == _ATTENTION and len(node.input) <= _MASK
        if name in outputs or ranks.get(name) != 3 or not (node.op_type in _BY_TOKEN or attends):
            continue
        if all(reader is take or _reads_by_token(reader, name, reduced) for reader in readers.get(name, [])):
            reduced.add(name)
    return reduced if only <= reduced else set()


def _reads_by_token(reader: NodeProto, name: str, reduced: set[str]) -> bool:
    if reader.output[0] not in reduced:
        return False
    places = [index for index, other in enumerate(reader.input) if other == name]
    return reader.op_type not in (_ATTENTION, "MatMul", "LayerNormalization") or places == [0]


def _cut(graph: ModelProto, reduced: set[str], index: int, constants: dict[str, object], ranks: dict[str, int]) -> None:
    """Give the nodes that compute ``reduced`` one token of what they read."""
    from onnx import helper, numpy_helper

    place = "token/index"
    graph.graph.initializer.append(numpy_helper.from_array(np.array([index], np.int64), place))
    nodes: list[NodeProto] = []
    cut: set[str] = set()
    for node in graph.graph.node:
        if node.output[0] in reduced:
            read = node.input[:1] if node.op_type in (_ATTENTION, "MatMul", "LayerNormalization") else node.input
            for position, name in enumerate(read):
                if name in reduced or name in constants or ranks.get(name) != 3:
                    continue
                if name not in cut:
                    cut.add(name)
                    nodes.append(helper.make_node("Gather", [name, place], [f"{name}/token"], axis=_TOKENS))
                node.input[position] = f"{name}/token"
        nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.graph.node[:]
    graph.graph.node.extend(copies)


def _drop_unread_nodes(graph: ModelProto) -> None:
    read = {item.name for item in graph.graph.output}
    kept = []
    for node in reversed(graph.graph.node):
        if any(name in read for name in node.output):
            read.update(node.input)
            kept.append(type(node).FromString(node.SerializeToString()))
    del graph.graph.node[:]
    graph.graph.node.extend(reversed(kept))
