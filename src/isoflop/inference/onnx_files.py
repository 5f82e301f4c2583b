"""Open classifiers from ONNX files, with session options for repeatable timings, and read their metadata.

Input ``images`` uint8 [batch, H, W, C], raw pixels; outputs ``logits`` and ``probabilities``, float32 [batch, K]; the
batch is dynamic or 1. The metadata has what else a client needs: ``classes`` (JSON), ``resize``, ``variant``,
``architecture`` (JSON), ``weights``, the digest of the trained network that was exported, and, where params.yaml
sets it, ``sample_range`` (JSON): the 16-bit, 32-bit or float samples that become pixels 0 and 255.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from isoflop.data.arrays import Resize
from isoflop.runtime.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
PRODUCER = "isoflop"

Floats = npt.NDArray[np.float32]

_BATCH = 256  # images


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class GraphIO:
    """Names of a graph's input and of its output of logits [N, K], and how many inputs it takes at once."""

    input_name: str
    output_name: str
    batch: int


@dataclass(frozen=True)
class OnnxClassifier:
    """An open ONNX Runtime session of a file that isoflop exported, with the file's metadata."""

    file: Path
    session: Any  # onnxruntime.InferenceSession
    variant: str
    classes: list[str]
    resize: Resize
    image_size: int
    channels: int
    batch: int | None  # the fixed batch size; None: any
    sample_range: list[float] | None = None  # 16-bit or float samples that become pixels 0 and 255; None: by a rule

    @property
    def graph_io(self) -> GraphIO:
        return GraphIO(INPUT, LOGITS, self.batch or _BATCH)

    def logits(self, images_NHWC: npt.NDArray[np.uint8]) -> Floats:
        """Compute logits float32 [N, K] for images uint8 [N, H, W, C], in batches."""
        return self._output(LOGITS, images_NHWC)

    def probabilities(self, images_NHWC: npt.NDArray[np.uint8]) -> Floats:
        """Compute probabilities float32 [N, K] for images uint8 [N, H, W, C], in batches."""
        return self._output(PROBABILITIES, images_NHWC)

    def _output(self, name: str, images_NHWC: npt.NDArray[np.uint8]) -> Floats:
        size = self.graph_io.batch
        batches = [np.ascontiguousarray(images_NHWC[at : at + size]) for at in range(0, len(images_NHWC), size)]
        outputs = [self.session.run([name], {INPUT: batch})[0] for batch in batches]
        return np.concatenate(outputs) if outputs else np.zeros((0, len(self.classes)), np.float32)


def open_classifier(file: Path, threads: int = 1, content: bytes | None = None) -> OnnxClassifier:
    """Open an ONNX file in ONNX Runtime on the CPU.

    Args:
        content: the content of the file, if it was already read (and checked); then the file is not read again.

    Raises:
        UserError: the file is missing, is not ONNX, is corrupt, or is not a classifier that isoflop exported.
    """
    if content is None:
        _check_is_file(file)
    try:
        session = open_session(str(file) if content is None else content, threads)
    except Exception as error:  # ONNX Runtime's exceptions have no narrower common base
        raise UserError(f"{file}: not a readable ONNX file ({reason(error)})") from None
    try:
        return _described(session, file)
    except UnicodeDecodeError as error:  # raised on access if a name in the file, even of an axis, is not UTF-8
        raise UserError(f"{file}: not a readable ONNX file ({reason(error)})") from None


def open_session(model: str | bytes, threads: int) -> Any:
    """Open an InferenceSession from a file's path or from its bytes, on the CPU.

    Waiting threads do not spin: on a busy machine, spinning raised a latency from 2.4 ms to 9.7 ms.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.load_model_format", "ONNX")  # or it guesses from the first bytes
    options.log_severity_level = 4  # fatal: warnings are not for users, and errors are also raised
    # with a fallback, it would retry with the same provider and print that to stdout
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"], enable_fallback=0)


def outputs_of(graph: ModelProto, graph_io: GraphIO, inputs_N: npt.NDArray[Any]) -> Floats:
    """Compute logits [N, K] of a graph in memory for inputs [N, ...].

    One thread: with several, the order of float additions could differ between machines.
    """
    session = open_session(graph.SerializeToString(), threads=1)
    size = graph_io.batch
    batches = [np.ascontiguousarray(inputs_N[start : start + size]) for start in range(0, len(inputs_N), size)]
    outputs = [session.run([graph_io.output_name], {graph_io.input_name: batch})[0] for batch in batches]
    joined: Floats = np.concatenate(outputs)
    return joined


def read_graph(file: Path) -> ModelProto:
    """Read the graph of an ONNX file, for editing.

    Raises:
        UserError: the file is missing, is not ONNX, or is corrupt.
    """
    import onnx

    _check_is_file(file)
    try:
        graph = onnx.load(file)
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # protobuf, the checker and shape inference have no narrower common base
        raise UserError(f"{file}: not a readable ONNX file ({reason(error)})") from None
    return graph


def _check_is_file(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"{file}: {'a folder' if file.is_dir() else 'not found'}; expected an ONNX file")


def _described(session: Any, file: Path) -> OnnxClassifier:
    metadata = session.get_modelmeta().custom_metadata_map
    inputs = {item.name: item for item in session.get_inputs()}
    outputs = {item.name: item for item in session.get_outputs()}
    lacking = [name for name in ("classes", "resize", "variant") if name not in metadata]
    if lacking or metadata.get("producer") != PRODUCER:
        missing = ", ".join(lacking) or "producer"
        raise UserError(f"{file}: got no metadata {missing}, expected a file that isoflop exported")
    if list(inputs) != [INPUT] or inputs[INPUT].type != "tensor(uint8)" or list(outputs) != [LOGITS, PROBABILITIES]:
        raise UserError(
            f"{file}: got inputs {', '.join(inputs)} and outputs {', '.join(outputs)}, "
            f"expected uint8 {INPUT} and {LOGITS}, {PROBABILITIES}"
        )
    batch, height, width, channels = (*inputs[INPUT].shape, *(None,) * 4)[:4]
    if not (isinstance(height, int) and height == width and channels in (1, 3) and (batch == 1 or type(batch) is str)):
        raise UserError(
            f"{file}: got {INPUT} of shape {inputs[INPUT].shape}, expected [batch or 1, size, size, 1 or 3]"
        )
    resize = next((known for known in get_args(Resize) if known == metadata["resize"]), None)
    if resize is None:
        expected = ", ".join(get_args(Resize))
        raise UserError(f"{file}: metadata resize: got {metadata['resize']!r}, expected one of {expected}")
    classes = _classes(metadata["classes"], outputs[LOGITS].shape, file)
    takes = batch if isinstance(batch, int) else None
    scale = _sample_range(metadata.get("sample_range", "null"), file)
    return OnnxClassifier(file, session, metadata["variant"], classes, resize, height, channels, takes, scale)


def _sample_range(text: str, file: Path) -> list[float] | None:
    try:
        scale = json.loads(text)
        if scale is None or (len(scale) == 2 and -math.inf < scale[0] < scale[1] < math.inf):
            return scale and [float(sample) for sample in scale]
    except (ValueError, TypeError, KeyError):
        pass
    raise UserError(f"{file}: metadata sample_range: got {text[:80]!r}, expected a JSON list of two increasing numbers")


def _classes(text: str, logits: list[Any], file: Path) -> list[str]:
    try:
        classes = json.loads(text)
    except ValueError:
        classes = None
    if not (
        isinstance(classes, list) and all(isinstance(name, str) for name in classes) and logits[-1:] == [len(classes)]
    ):
        raise UserError(
            f"{file}: metadata classes: got {text[:80]!r} for {LOGITS} of shape {logits}, "
            "expected a JSON list with one name per logit"
        )
    return classes


def reason(error: Exception) -> str:
    """Return the first line of a library's error message, or the type of the error if the message is empty."""
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split())[:200] if lines else type(error).__name__
