"""Conversion of an ONNX classifier to FP16: half the bytes, and faster on hardware that computes in FP16."""

from __future__ import annotations

from pathlib import Path

from isoflop.compression.calibration import silence
from isoflop.inference.onnx_files import open_classifier, read_graph


def to_float16(source: Path, target: Path) -> None:
    """Write ``source`` with weights and layers in FP16; inputs and outputs keep their types.

    Weights beyond the range of FP16 are clipped to it; the stage ``compare`` measures the loss in accuracy.

    Raises:
        UserError: ``source`` is not a classifier that isoflop exported.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16

    open_classifier(source)
    graph = read_graph(source)
    with silence():
        halved = convert_float_to_float16(graph, keep_io_types=True, disable_shape_infer=False)
    del halved.metadata_props[:]
    halved.metadata_props.extend(graph.metadata_props)
    target.write_bytes(halved.SerializeToString(deterministic=True))
