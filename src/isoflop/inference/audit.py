"""Audit an ONNX file: which operators ONNX Runtime runs after optimizing the graph, and which of them make it slow."""

from __future__ import annotations

import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.inference.onnx_files import read_graph, reason
from isoflop.runtime.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

_INT8_LAYERS = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "ConvInteger")
_FLOAT_LAYERS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
_ENDS = 2  # Transpose operators to enter and leave the layout of the INT8 kernels: unavoidable
_GLOBAL_POOLS = {"GlobalAveragePool", "ReduceMean", "Reshape", "Flatten", "Squeeze"}
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu")  # can be fused into the kernel of the layer before


@dataclass(frozen=True)
class Audit:
    """The operators that ONNX Runtime runs, and warnings about those that make it slow.

    ``int8_layers`` and ``float_layers`` count layers with weights. Products of two activations, as in attention, are
    not counted.
    """

    operators: dict[str, int]  # type → count
    int8_layers: int
    float_layers: int
    warnings: list[str]


def audit(file: Path) -> Audit:
    """Audit any ONNX file as optimized by ONNX Runtime on this machine for one thread.

    Raises:
        UserError: the file is missing or is not ONNX, or ONNX Runtime cannot run it.
    """
    written, optimized = read_graph(file, is_checked=False), _optimized(file)
    kinds = Counter(node.op_type for node in optimized.graph.node)
    weights = {item.name for item in optimized.graph.initializer}
    layers = [node for node in optimized.graph.node if _weight_of(node) in weights]
    int8 = sum(node.op_type in _INT8_LAYERS for node in layers)
    floats = [node for node in layers if node.op_type in _FLOAT_LAYERS]
    warnings = _warnings(Counter(node.op_type for node in written.graph.node), kinds, optimized, bool(int8))
    return Audit(dict(sorted(kinds.items())), int8, len(floats), warnings)


def _weight_of(node: NodeProto) -> str:
    """Return the name of a layer's second operand, its weight if constant.

    INT8 kernels have the scale and zero point of the first operand before it.
    """
    index = 3 if node.op_type.startswith("Q") else 1
    return node.input[index] if len(node.input) > index else ""


def _optimized(file: Path) -> ModelProto:
    import onnx
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    with tempfile.TemporaryDirectory() as scratch:
        options.optimized_model_filepath = str(Path(scratch) / "optimized.onnx")
        try:
            onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no narrower common base
            raise UserError(f"{file}: ONNX Runtime cannot run this file ({reason(error)})") from None
        # weights of the original that lie in another file are not next to this one
        return onnx.load(options.optimized_model_filepath, load_external_data=False)


def _warnings(written: Counter[str], kinds: Counter[str], optimized: ModelProto, is_int8: bool) -> list[str]:
    warnings = []
    added = kinds["Transpose"] - written["Transpose"]
    if added > _ENDS:
        warnings.append(f"{added} Transpose operators, added by ONNX Runtime, convert between memory layouts")
    if kinds["BatchNormalization"]:
        warnings.append(f"{kinds['BatchNormalization']} BatchNormalization operators are not folded into a convolution")
    unfused = [f"{kinds[kind]} {kind}" for kind in _ACTIVATIONS if kinds[kind]]
    if unfused:
        warnings.append(f"{', '.join(unfused)} operators are not fused with the layer before")
    islands = _float_islands(optimized) if is_int8 else []
    if islands:
        warnings.append(f"{', '.join(islands)} operators run in float between INT8 layers, with a conversion each way")
    floats = kinds["Conv"] + kinds["FusedConv"]
    if is_int8 and floats:
        warnings.append(f"{floats} Conv operators run in float")
    return warnings


def _float_islands(optimized: ModelProto) -> list[str]:
    """Return operator types, with counts, on a path from a DequantizeLinear to a QuantizeLinear."""
    nodes = list(optimized.graph.node)
    after: set[str] = set()  # float tensors computed from INT8 tensors
    for node in nodes:
        if node.op_type == "DequantizeLinear" or (
            node.op_type != "QuantizeLinear" and any(name in after for name in node.input)
        ):
            after.update(node.output)
    before: set[str] = set()  # float tensors from which INT8 tensors are computed
    for node in reversed(nodes):
        if node.op_type == "QuantizeLinear" or (
            node.op_type != "DequantizeLinear" and any(name in before for name in node.output)
        ):
            before.update(node.input)
    counts = Counter(
        node.op_type
        for node in nodes
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear")
        and any(name in after for name in node.output)
        and any(name in before for name in node.output)
    )
    if not set(counts) - _GLOBAL_POOLS:  # before the head only: few numbers are converted
        return []
    return [f"{count} {kind}" for kind, count in sorted(counts.items())]
