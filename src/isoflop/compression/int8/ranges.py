"""Ranges of a graph's activations on calibration inputs, for all methods in two passes: extremes, then histograms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from isoflop.inference.onnx_files import GraphIO
from isoflop.runtime.progress import tracked

if TYPE_CHECKING:
    from onnx import ModelProto

Method = Literal["minmax", "percentile", "entropy"]
Ranges = dict[str, tuple[float, float]]  # tensor name: (lowest, highest value)
Inputs = npt.NDArray[Any]  # uint8 or float32 [N, ...], ready for the graph
Counts = npt.NDArray[np.int64]

_BATCH = 8  # inputs whose activations are in memory at once
_BINS = 2048
_MOST = 1 << 20  # values of a tensor in the histogram of a batch, evenly spaced
# ONNX Runtime's default, 128 bins for 128 levels, leaves no choice: its entropy is then minmax. The search is quadratic
# in the bins: 2,048 bins took 10 times as long as 512 and gave no smaller error on any family.
_ENTROPY_BINS, _LEVELS = 512, 128
_SMOOTHING = 1e-4  # of a bin without samples, as in ONNX Runtime


def activation_ranges(
    graph: ModelProto,
    nodes: Sequence[str],
    graph_io: GraphIO,
    inputs_N: Inputs,
    methods: Sequence[Method],
    percentile: float,
) -> dict[Method, Ranges]:
    """Ranges of the inputs and outputs of the named nodes by each method, in memory that is independent of N.

    ``entropy`` minimizes the Kullback-Leibler divergence between the activations and their INT8 values (Migacz 2017,
    "8-bit Inference with TensorRT") over ranges around the center, as ONNX Runtime's calibrator does.

    Args:
        percentile: share of the activations to cover, in percent; only the method ``percentile`` reads it.
    """
    tensors = _activations(graph, nodes)
    probe = Probe(graph, tensors, graph_io)
    extremes: Ranges = {}
    for values in probe.batches(inputs_N, "calibrating, extremes"):
        for name, value in values.items():
            finite = value if np.isfinite(value).all() else value[np.isfinite(value)]  # a mask of attention is infinite
            low, high = extremes.get(name, (0.0, 0.0))
            extremes[name] = (min(low, float(finite.min(initial=0.0))), max(high, float(finite.max(initial=0.0))))
    if list(methods) == ["minmax"]:
        return {"minmax": extremes}
    counts = {name: np.zeros(_BINS, np.int64) for name in extremes}
    for values in probe.batches(inputs_N, "calibrating, histograms"):
        for name, value in values.items():
            farthest = max(np.abs(extremes[name]))
            some = value.ravel()[:: 1 + value.size // _MOST]
            counts[name] += np.histogram(some, _BINS, (-farthest, farthest))[0]
    return {
        method: {name: _range(method, counts[name], *extremes[name], percentile) for name in extremes}
        for method in methods
    }


class Probe:
    """Runs a graph and returns the values of chosen tensors."""

    def __init__(self, graph: ModelProto, tensors: Sequence[str], graph_io: GraphIO) -> None:
        from onnx import TensorProto, helper

        copy = type(graph)()
        copy.CopyFrom(graph)
        known = {item.name for item in graph.graph.output}
        self._entry = graph_io.input_name if graph_io.input_name in tensors else None
        self._names = [name for name in tensors if name != self._entry]
        copy.graph.output.extend(
            helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in self._names if name not in known
        )
        self._session = _session(copy.SerializeToString())
        self._graph_io = graph_io

    def batches(self, inputs_N: Inputs, label: str) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
        """Yield the values of the tensors by name, batch after batch; a fixed batch repeats its last input."""
        for batch, _ in tracked(list(self._graph_io.batches(inputs_N, _BATCH)), label, "batches"):
            values = dict(
                zip(self._names, self._session.run(self._names, {self._graph_io.input_name: batch}), strict=True)
            )
            yield values | ({self._entry: batch} if self._entry else {})


def _activations(graph: ModelProto, nodes: Sequence[str]) -> list[str]:
    """Names of the tensors that the named nodes read and write, without constants."""
    chosen, constants = set(nodes), {item.name for item in graph.graph.initializer}
    constants |= {name for node in graph.graph.node if node.op_type == "Constant" for name in node.output}
    found = [name for node in graph.graph.node if node.name in chosen for name in (*node.input, *node.output) if name]
    return sorted(set(found) - constants)


def _range(method: Method, counts: Counts, low: float, high: float, percentile: float) -> tuple[float, float]:
    """A range between the extremes ``low`` and ``high``; the bins are symmetric around 0."""
    farthest = max(abs(low), abs(high))
    if method == "minmax" or not farthest:
        return low, high
    if method == "percentile":
        shares = np.cumsum(counts) / counts.sum()
        cut = (100 - percentile) / 200  # on each side
        first, last = np.searchsorted(shares, [cut, 1 - cut])
    else:
        counts = counts.reshape(_ENTROPY_BINS, -1).sum(1)
        first, last = least_divergence(counts)
    edges = np.linspace(-farthest, farthest, len(counts) + 1)
    return max(low, float(edges[first])), min(high, float(edges[last]))


def least_divergence(counts: Counts) -> tuple[int, int]:
    """First and last bin edge of the range whose INT8 values have the smallest Kullback-Leibler divergence."""
    center, half = len(counts) // 2, _LEVELS // 2
    best, chosen = np.inf, (0, len(counts))
    for reach in range(half, center + 1):
        first, last = center - reach, min(center + reach + 1, len(counts))
        divergence = _divergence(counts, first, last)
        if divergence < best:
            best, chosen = divergence, (first, last)
    return chosen


def _divergence(counts: Counts, first: int, last: int) -> float:
    from scipy.special import rel_entr

    inside = counts[first:last]
    full = inside.copy()
    full[0] += counts[:first].sum()
    full[-1] += counts[last:].sum()
    merged = len(inside) // _LEVELS
    starts = np.arange(_LEVELS) * merged
    filled = np.add.reduceat((full[: merged * _LEVELS] != 0).astype(np.int64), starts)
    levels = np.add.reduceat(inside, starts)  # the last level takes the rest
    spread = np.where(filled > 0, levels // np.maximum(filled, 1), 0)
    quantized = np.zeros(len(inside), np.int64)
    quantized[: merged * _LEVELS] = np.repeat(spread, merged)
    if not full.any() or not quantized.any():
        return float(np.inf)
    p, q = _smooth(full), _smooth(quantized)
    return float(rel_entr(p / p.sum(), q / q.sum()).sum())


def _smooth(counts: Counts) -> npt.NDArray[np.float64]:
    empty = counts == 0
    taken = _SMOOTHING * empty.sum() / max(1, (~empty).sum())
    return np.where(empty, _SMOOTHING, counts - taken)


def _session(content: bytes) -> Any:
    """A session on one thread, because several could add in another order on another machine; without fusion, because
    fused kernels round differently on another machine."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
