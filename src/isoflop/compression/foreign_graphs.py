"""Turn a graph that ONNX Runtime runs into one that its quantizer takes: float32, sorted, opset 13 or later.

The inputs and outputs keep their names and types.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np

from isoflop.compression.calibration import silence
from isoflop.inference.onnx_files import read_graph, reason
from isoflop.runtime.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

_LEAST_OPSET = 13  # the first whose QuantizeLinear takes one scale per channel
_TARGET_OPSET = 17  # older graphs are converted to it
_MOST_BYTES = 1_900_000_000  # protobuf refuses messages of 2 GiB
_LOOPS = ("Loop", "Scan")
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")
_UNDER_ACTIVATION = {"FusedConv": "Conv", "FusedGemm": "Gemm"}  # of com.microsoft


def ready_graph(model: Path) -> ModelProto:
    """Return the graph of ``model``, ready for quantization: norms and constants folded, every node named once.

    Weights may lie in files next to the model.

    Raises:
        UserError: ONNX Runtime cannot run the file, or its quantizer cannot take it; the message gives the reason.
    """
    _check_files(model)
    graph = read_graph(model, is_checked=False)
    _refuse(graph, model)
    _split_fused(graph)
    _as_float32(graph)
    _sort(graph)
    graph = _preprocessed(_newer(graph, model), model)
    if branches := [node.op_type for node in graph.graph.node if node.op_type in (*_LOOPS, "If")]:
        raise UserError(f"{model}: got control flow ({branches[0]}), expected a graph without it")
    _name_nodes(graph)
    return graph


def total_bytes(model: Path) -> int:
    """Return the size of ``model`` and of the files with its weights."""
    return model.stat().st_size + sum(file.stat().st_size for file in _files_beside(model))


def _files_beside(model: Path) -> list[Path]:
    """Return the files that hold weights of ``model``.

    Raises:
        UserError: a file is not a plain file next to the model: an untrusted model must not choose what is read.
    """
    import onnx

    from isoflop.inference.prediction import tensors

    if not model.is_file():
        read_graph(model)  # raises the error
    try:
        graph = onnx.load(model, format="protobuf", load_external_data=False)
    except Exception as error:  # protobuf's exceptions have no narrower common base
        raise UserError(f"{model}: not a readable ONNX file ({reason(error)})") from None
    names = {
        entry.value
        for tensor in tensors(graph)
        if tensor.data_location == onnx.TensorProto.EXTERNAL
        for entry in tensor.external_data
        if entry.key == "location"
    }
    for name in names:
        file = model.parent / name
        parts = PurePosixPath(name).parts
        if ".." in parts or "\\" in name or PurePosixPath(name).is_absolute() or file.is_symlink():
            raise UserError(f"{model}: got weights in {name[:200]!r}, expected a file next to the model")
        if not file.is_file():
            raise UserError(f"{model}: weights file {name[:200]!r} not found; fix: copy it next to the model")
    return [model.parent / name for name in sorted(names)]


def _check_files(model: Path) -> None:
    if (size := total_bytes(model)) > _MOST_BYTES:
        raise UserError(f"{model}: got {size / 1e9:.1f} GB of weights, expected at most {_MOST_BYTES / 1e9:.1f} GB")


def _refuse(graph: ModelProto, model: Path) -> None:
    kinds = Counter(node.op_type for node in graph.graph.node)
    domains = {node.domain for node in graph.graph.node}
    if loops := [kind for kind in _LOOPS if kinds[kind]]:
        raise UserError(f"{model}: got control flow ({loops[0]}), expected a graph without it")
    if "com.microsoft.nchwc" in domains:
        raise UserError(
            f"{model}: got a graph that ONNX Runtime optimized for one processor (com.microsoft.nchwc), expected the "
            "file from before that; fix: compress the exported file"
        )
    if found := [kind for kind in _QUANTIZED if kinds[kind]]:
        raise UserError(f"{model}: got a graph that is quantized already ({found[0]}), expected one in float")


def _split_fused(graph: ModelProto) -> None:
    """Replace convolutions and products that ONNX Runtime fused with an activation by the two operators."""
    from onnx import helper

    nodes: list[NodeProto] = []
    for node in graph.graph.node:
        if node.op_type not in _UNDER_ACTIVATION or node.domain != "com.microsoft":
            nodes.append(node)
            continue
        attributes = {item.name: helper.get_attribute_value(item) for item in node.attribute}
        activation, params = _activation(attributes)
        (output,) = node.output
        inputs = list(node.input)
        before = f"{output}_before"
        nodes.append(helper.make_node(_UNDER_ACTIVATION[node.op_type], inputs[:3], [before], node.name, **attributes))
        if len(inputs) > 3 and inputs[3]:  # a FusedConv with a residual
            nodes.append(helper.make_node("Add", [before, inputs[3]], [f"{before}_sum"]))
            before = f"{before}_sum"
        nodes.append(helper.make_node(activation, [before], [output], None, None, None, None, **params))
    del graph.graph.node[:]
    graph.graph.node.extend(nodes)


def _activation(attributes: dict[str, Any]) -> tuple[str, dict[str, float]]:
    """Take the activation out of ``attributes``; return its operator and that operator's attributes."""
    kind = attributes.pop("activation", b"").decode() or "Identity"
    named = {key: attributes.pop(key) for key in list(attributes) if key.startswith("activation_")}
    values = list(named.pop("activation_params", []))
    values += [named[key] for key in ("activation_alpha", "activation_beta") if key in named]
    names = {"LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"), "Clip": ("min", "max")}.get(kind, ())
    return kind, dict(zip(names, values, strict=False))


def _as_float32(graph: ModelProto) -> None:
    """Turn a graph in float16 or bfloat16 into float32, with casts at inputs and outputs."""
    from onnx import TensorProto, helper

    halves = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
    inner = graph.graph
    if not any(tensor.data_type in halves for tensor in _constants(graph)):
        return
    for tensor in _constants(graph):
        if tensor.data_type in halves:
            _widen(tensor)
    for node in inner.node:
        for attribute in node.attribute:
            if attribute.name in ("to", "dtype") and attribute.i in halves:
                attribute.i = TensorProto.FLOAT
    del inner.value_info[:]
    weights = {item.name for item in inner.initializer}
    entries = [item for item in inner.input if item.name not in weights and item.type.tensor_type.elem_type in halves]
    for item in entries:
        for node in inner.node:
            node.input[:] = [f"{item.name}_float32" if name == item.name else name for name in node.input]
        cast = helper.make_node("Cast", [item.name], [f"{item.name}_float32"], to=TensorProto.FLOAT)
        inner.node.insert(0, cast)
    for item in inner.output:
        if (kind := item.type.tensor_type.elem_type) in halves:
            for node in inner.node:
                for names in (node.input, node.output):
                    names[:] = [f"{item.name}_float32" if name == item.name else name for name in names]
            inner.node.append(helper.make_node("Cast", [f"{item.name}_float32"], [item.name], to=kind))


def _constants(graph: ModelProto) -> Iterator[TensorProto]:
    yield from graph.graph.initializer
    for node in graph.graph.node:
        yield from (item.t for item in node.attribute if item.HasField("t"))


def _widen(tensor: TensorProto) -> None:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def _sort(graph: ModelProto) -> None:
    """Sort the nodes so that each follows those that it reads from; ONNX Runtime does not need the order."""
    nodes = list(graph.graph.node)
    made_by = {name: index for index, node in enumerate(nodes) for name in node.output}
    needs = {
        index: {made_by[name] for name in node.input if name in made_by} for index, node in enumerate(nodes)
    }  # by position
    if all(index > max(before, default=-1) for index, before in needs.items()):
        return
    try:
        ordered = [nodes[index] for index in TopologicalSorter(needs).static_order()]
    except CycleError:
        return  # ONNX Runtime refuses it in its own words
    del graph.graph.node[:]
    graph.graph.node.extend(ordered)


def _newer(graph: ModelProto, model: Path) -> ModelProto:
    from onnx import version_converter

    opset = next((item.version for item in graph.opset_import if item.domain in ("", "ai.onnx")), 0)
    if opset >= _LEAST_OPSET:
        return graph
    known = {item.name for item in graph.graph.input}
    if graph.ir_version < 4:  # the converter reads weights in the style of later files
        graph.ir_version = 4
        weights = known & {item.name for item in graph.graph.initializer}
        kept = [item for item in graph.graph.input if item.name not in weights]
        del graph.graph.input[:]
        graph.graph.input.extend(kept)
    try:
        return version_converter.convert_version(graph, _TARGET_OPSET)
    except Exception as error:  # the converter's exceptions have no narrower common base
        raise UserError(
            f"{model}: got opset {opset}, which cannot be converted to {_TARGET_OPSET} ({reason(error)}); fix: export "
            f"it again with opset {_LEAST_OPSET} or later"
        ) from None


def _preprocessed(graph: ModelProto, model: Path) -> ModelProto:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as scratch, silence():
        plain, ready = Path(scratch) / "plain.onnx", Path(scratch) / "ready.onnx"
        try:
            plain.write_bytes(graph.SerializeToString())
            quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        except Exception as error:  # the exceptions of ONNX Runtime have no other common base
            raise UserError(f"{model}: ONNX Runtime cannot prepare it for quantization ({reason(error)})") from None
        return read_graph(ready)


def _name_nodes(graph: ModelProto) -> None:
    taken: set[str] = set()
    for index, node in enumerate(graph.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{index}"
            while node.name in taken:
                node.name += "_"
        taken.add(node.name)
