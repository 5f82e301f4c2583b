"""Ranges of a graph's activations on calibration inputs, by the methods of ONNX Runtime."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from isoflop.data.arrays import Images, Labels
from isoflop.inference.onnx_files import GraphIO
from isoflop.runtime.progress import tracked

if TYPE_CHECKING:
    from onnx import ModelProto

Method = Literal["minmax", "percentile", "entropy"]
Ranges = dict[str, tuple[float, float]]  # tensor name: (lowest, highest value)
Inputs = npt.NDArray[Any]  # uint8 or float32 [N, ...], ready for the graph

_BATCH = 32  # inputs whose activations are in memory at once
# ONNX Runtime's default, 128 bins for 128 levels, leaves no choice: its entropy is then minmax. The search is plain
# Python, quadratic in the bins: 2,048 bins take 10 times as long as 512 and gave no smaller error on any family.
_ENTROPY = {"num_bins": 512, "num_quantized_bins": 128, "symmetric": False}


def calibration_images(images_NHWC: Images, labels_N: Labels, count: int) -> Images:
    """At most ``count`` images uint8 [N, H, W, C] to calibrate on: the first of each class, the second of each, ..."""
    picked: Images = images_NHWC[in_turns(labels_N, count)]
    return picked


def in_turns(labels_N: Labels, count: int) -> npt.NDArray[np.int64]:
    """Indices of the first image of each class, the second of each, and so on, up to ``count``; in ascending order,
    the fastest to read from a memory map."""
    order = np.argsort(labels_N, kind="stable")
    starts = np.searchsorted(labels_N[order], labels_N[order])
    rank_N = np.empty(len(order), np.int64)  # of an image within its class
    rank_N[order] = np.arange(len(order)) - starts
    return np.sort(np.lexsort((labels_N, rank_N))[:count])


def activation_ranges(
    graph: ModelProto, nodes: Sequence[str], graph_io: GraphIO, inputs_N: Inputs, method: Method, percentile: float
) -> Ranges:
    """Ranges of the inputs and outputs of the named nodes, in constant memory.

    Args:
        percentile: share of the activations to cover, in percent; only the method ``percentile`` reads it.
    """
    from onnxruntime.quantization.calibrate import CalibrationMethod, create_calibrator

    calibrate_method, options = {
        "minmax": (CalibrationMethod.MinMax, {}),
        "percentile": (CalibrationMethod.Percentile, {"percentile": percentile, "symmetric": False}),
        "entropy": (CalibrationMethod.Entropy, _ENTROPY),
    }[method]
    kinds = sorted({node.op_type for node in graph.graph.node if node.name in set(nodes)})
    with tempfile.TemporaryDirectory() as scratch, silence():
        source = Path(scratch) / "float.onnx"
        source.write_bytes(graph.SerializeToString())
        calibrator = create_calibrator(
            source,
            kinds,
            augmented_model_path=str(Path(scratch) / "augmented.onnx"),
            calibrate_method=calibrate_method,
            extra_options=options,
        )
        calibrator.infer_session = _session(calibrator.augmented_model_path)
        batches = [batch for batch, _ in graph_io.batches(inputs_N, _BATCH)]
        for batch in tracked(batches, f"calibrating with {method}", "batches"):
            calibrator.collect_data(_Reader(graph_io.input_name, batch))
        found = calibrator.compute_data()
    ends = {name: data.range_value for name, data in found.items()}
    return {name: (float(np.min(low)), float(np.max(high))) for name, (low, high) in sorted(ends.items())}


def _session(file: str) -> Any:
    """A session on one thread, because several could add in another order on another machine; without fusion, because
    fused tensors could not be read."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])


class _Reader:
    """A reader of a single batch: ONNX Runtime's calibrator keeps the activations of all batches of one reader."""

    def __init__(self, input_name: str, batch_N: Inputs) -> None:
        self._batches: Iterator[dict[str, Any]] = iter([{input_name: batch_N}])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Discard what ONNX Runtime's quantizer prints."""
    with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
