"""Trained networks and their ONNX files, which the tests of what comes after training share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper

from isoflop.compression.quantization import Quantize, quantize
from isoflop.data.arrays import Split
from isoflop.data.normalization import normalize
from isoflop.inference.onnx_export import export
from isoflop.models.model_files import Model
from tests.networks import digits_architecture, fresh_net


def trained(train: Split, family: str = "cnn", width: int = 8, steps: int = 60) -> Model:
    """A network after a few steps on ``train``: its batch norms and its logits are not those of a fresh one."""
    torch.set_num_threads(1)  # for nets this small, threads of several test processes only get in each other's way
    net = fresh_net(family, width)
    images_NHWC, labels_N = torch.from_numpy(np.array(train.images)), torch.from_numpy(train.labels)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    for step in range(steps):
        batch = torch.arange(step * 64, step * 64 + 64) % len(labels_N)
        loss = torch.nn.functional.cross_entropy(net(normalize(images_NHWC[batch], train.input_spec)), labels_N[batch])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Model(net.eval(), digits_architecture(family, width), train.input_spec)


def exported(model: Model, file: Path, variant: str = "base") -> Path:
    export(model, variant, file, opset=20)
    return file


def optimized_kinds(file: Path) -> list[str]:
    """The kinds of nodes that ONNX Runtime makes of a graph: what was fused."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(file.with_suffix(".optimized.onnx"))
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node]


def quantize_params(**changes: Any) -> Quantize:
    values = {
        "activations": "static",
        "method": "percentile",
        "percentile": 99.99,
        "calibration_images": 64,
        "max_accuracy_drop": 1.0,
        "keep_last_layer_float": True,
        "portable": False,
    }
    return Quantize.model_validate(values | changes)


def quantized(source: Path, train: Split, **changes: Any) -> Path:
    target = source.with_name(f"{source.stem}-int8.onnx")
    scratch = {name: source.with_name(f"{source.stem}-{name}.json") for name in ("calibration", "metrics")}
    quantize(source, train, train, quantize_params(**changes), target=target, **scratch)
    for file in scratch.values():
        file.unlink()
    return target


def write_model(file: Path, classes: list[str], channels: int = 1, resize: str = "crop", **metadata: str) -> Path:
    """A model of 2x2 images that finds the brightest pixel: its logits are the pixels (of the first channel) / 32."""
    weights = np.zeros((4 * channels, 4), np.float32)
    weights[np.arange(4) * channels, np.arange(4)] = 1 / 32
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["floats"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 2, 2, channels])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in ("logits", "probabilities")
    ]
    initializer = helper.make_tensor("weights", TensorProto.FLOAT, weights.shape, weights.ravel())
    graph = helper.make_graph(nodes, "brightest", [images], outputs, [initializer])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    known = {"producer": "isoflop", "variant": "base", "architecture": "{}", "resize": resize}
    helper.set_model_props(model, {**known, "classes": json.dumps(classes), **metadata})
    onnx.save(model, file)
    return file
