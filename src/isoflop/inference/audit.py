"""What ONNX Runtime makes of a graph on this processor: which operators run, and what keeps it from running fast."""

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

_INT8_LAYERS = ("QLinearConv", "QLinearMatMul", "QGemm", "MatMulIntegerToFloat", "ConvInteger")
_FLOAT_LAYERS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
_ENDS = 2  # Transpose that the way into the layout of the 8-bit kernels and out of it takes
_ACTIVATIONS = ("Relu", "Clip", "LeakyRelu")  # that a kernel of the layer before could have taken in


@dataclass(frozen=True)
class Audit:
    """The operators that ONNX Runtime runs, by kind, and what is wrong with them.

    ``int8_layers`` and ``float_layers`` have weights of their own; products of two activations, as in attention, count
    as neither.
    """

    operators: dict[str, int]
    int8_layers: int
    float_layers: int
    warnings: list[str]


def audit(file: Path) -> Audit:
    """Open an ONNX file, ours or not, as for a run on one thread, and read the graph that ONNX Runtime made of it.

    Raises:
        UserError: the file is missing or is not ONNX, or ONNX Runtime cannot run it.
    """
    written, made = read_graph(file), _optimized(file)
    kinds = Counter(node.op_type for node in made.graph.node)
    weights = {item.name for item in made.graph.initializer}
    layers = [node for node in made.graph.node if _weight_of(node) in weights]
    int8 = sum(node.op_type in _INT8_LAYERS for node in layers)
    floats = [node for node in layers if node.op_type in _FLOAT_LAYERS]
    warnings = _warnings(Counter(node.op_type for node in written.graph.node), kinds, made, bool(int8))
    return Audit(dict(sorted(kinds.items())), int8, len(floats), warnings)


def _weight_of(node: NodeProto) -> str:
    """Name of the second factor, which is a weight where it is a constant; of 8-bit kernels it comes after the first's
    scale and zero point."""
    place = 3 if node.op_type.startswith("Q") else 1
    return node.input[place] if len(node.input) > place else ""


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
        except Exception as error:  # its exceptions have no common base but this
            raise UserError(f"{file}: ONNX Runtime cannot run it ({reason(error)})") from None
        return onnx.load(options.optimized_model_filepath)


def _warnings(written: Counter[str], kinds: Counter[str], made: ModelProto, is_int8: bool) -> list[str]:
    found = []
    stray = kinds["Transpose"] - written["Transpose"]
    if stray > _ENDS:
        found.append(f"{stray} Transpose move data between layouts that the graph as written does not have")
    if kinds["BatchNormalization"]:
        found.append(f"{kinds['BatchNormalization']} BatchNormalization run by themselves, not within a convolution")
    alone = [f"{kinds[kind]} {kind}" for kind in _ACTIVATIONS if kinds[kind]]
    if alone:
        found.append(f"{', '.join(alone)} run by themselves, not within the layer before")
    islands = _float_islands(made) if is_int8 else []
    if islands:
        found.append(f"between 8-bit layers {', '.join(islands)} run in float, with a conversion each way")
    floats = kinds["Conv"] + kinds["FusedConv"]
    if is_int8 and floats:
        found.append(f"{floats} Conv run in float")
    return found


def _float_islands(made: ModelProto) -> list[str]:
    """Kinds of nodes, with counts, that lie on a way from a DequantizeLinear to a QuantizeLinear."""
    nodes = list(made.graph.node)
    after: set[str] = set()  # tensors in float that 8-bit ones led to
    for node in nodes:
        if node.op_type == "DequantizeLinear" or (
            node.op_type != "QuantizeLinear" and any(name in after for name in node.input)
        ):
            after.update(node.output)
    before: set[str] = set()  # tensors in float that lead to 8-bit ones
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
    return [f"{count} {kind}" for kind, count in sorted(counts.items())]
