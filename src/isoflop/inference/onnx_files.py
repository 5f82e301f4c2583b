"""Open classifiers from ONNX files, with session options for repeatable timings, and read their metadata.

Input ``images`` uint8 [batch, H, W, C], raw pixels; outputs ``logits`` and ``probabilities``, float32 [batch, K]; the
batch is dynamic or 1. Files of ``isoflop compress`` have the input and output of the model that was compressed, see
``foreign_io``. The metadata has what else a client needs: ``classes`` (JSON), ``resize``, ``variant``,
``architecture`` (JSON), ``weights``, the digest of the trained network that was exported, and, where params.yaml
sets it, ``sample_range`` (JSON): the 16-bit, 32-bit or float samples that become pixels 0 and 255.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import numpy.typing as npt

from isoflop.data.arrays import Resize
from isoflop.inference.foreign_io import METADATA_KEY, MOST_PIXELS, ForeignIO, read_foreign_io, rows
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
    """Names of a graph's input and of its output of logits, and how many inputs it takes at once.

    The output is [N, K], or another shape with as many values. A graph with a fixed batch takes exactly ``batch``
    inputs.
    """

    input_name: str
    output_name: str
    batch: int
    is_fixed: bool = False

    def batches(self, inputs_N: npt.NDArray[Any], most: int | None = None) -> Iterator[tuple[npt.NDArray[Any], int]]:
        """Yield contiguous batches and the number of inputs in each; a fixed batch is filled up with the last input."""
        size = self.batch if self.is_fixed or most is None else min(self.batch, most)
        for start in range(0, len(inputs_N), size):
            part = inputs_N[start : start + size]
            fill = size - len(part) if self.is_fixed else 0
            yield np.ascontiguousarray(np.concatenate([part, *[part[-1:]] * fill]) if fill else part), len(part)


@dataclass(frozen=True)
class OnnxClassifier:
    """An open ONNX Runtime session of a file that isoflop exported or compressed, with the file's metadata."""

    file: Path
    session: Any  # onnxruntime.InferenceSession
    variant: str
    classes: list[str]
    resize: Resize
    image_size: int
    channels: int
    batch: int | None  # the fixed batch size; None: any
    sample_range: list[float] | None = None  # 16-bit or float samples that become pixels 0 and 255; None: by a rule
    foreign: ForeignIO | None = None  # of a file of `isoflop compress`
    embedding: str | None = None  # name of the output with embeddings

    @property
    def graph_io(self) -> GraphIO:
        names = (self.foreign.input_name, self.foreign.output_name) if self.foreign else (INPUT, LOGITS)
        return GraphIO(*names, self.batch or _BATCH, self.batch is not None)

    def logits(self, images_NHWC: npt.NDArray[np.uint8]) -> Floats:
        """Compute logits float32 [N, K] for images uint8 [N, H, W, C], in batches."""
        return self._outputs([LOGITS], images_NHWC)[0]

    def probabilities(self, images_NHWC: npt.NDArray[np.uint8]) -> Floats:
        """Compute probabilities float32 [N, K] for images uint8 [N, H, W, C], in batches."""
        return self.probabilities_and_embeddings(images_NHWC)[0]

    def probabilities_and_embeddings(self, images_NHWC: npt.NDArray[np.uint8]) -> tuple[Floats, Floats | None]:
        """Compute probabilities float32 [N, K] and, of a classifier opened with them, embeddings float32 [N, D]."""
        extra = [self.embedding] if self.embedding else []
        if self.foreign:
            found = self._outputs([self.foreign.output_name, *extra], self.foreign.inputs(images_NHWC))
            found[0] = self.foreign.probabilities(found[0])
        else:
            found = self._outputs([PROBABILITIES, *extra], images_NHWC)
        return found[0], found[1] if extra else None

    def _outputs(self, names: list[str], inputs_N: npt.NDArray[Any]) -> list[Floats]:
        """Compute the output [N, K] that ``names`` starts with, and the others [N, D].

        Raises:
            ValueError: the model returned an output of another shape.
        """
        found: list[list[Floats]] = [[] for _ in names]
        for batch, count in self.graph_io.batches(inputs_N):
            first, *others = self.session.run(names, {self.graph_io.input_name: batch})
            if (scores := rows(first, len(batch))) is None or any(len(other) != len(batch) for other in others):
                raise ValueError(f"got an output of shape {list(first.shape)} for {len(batch)} images")
            tables = [scores, *(other.reshape(len(batch), -1).astype(np.float32) for other in others)]
            for parts, table in zip(found, tables, strict=True):
                parts.append(table[:count])
        empty = np.zeros((0, len(self.classes)), np.float32)
        return [np.concatenate(parts) if parts else empty for parts in found]


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
    return described(session, file)


def described(session: Any, file: Path) -> OnnxClassifier:
    """Return the classifier of an open session of ``file``.

    Raises:
        UserError: the file is not a classifier that isoflop exported or compressed.
    """
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
    outputs = []
    for batch, count in graph_io.batches(inputs_N):
        (output,) = session.run([graph_io.output_name], {graph_io.input_name: batch})
        outputs.append(output.reshape(len(batch), -1)[:count])
    joined: Floats = np.concatenate(outputs).astype(np.float32, copy=False)
    return joined


def read_graph(file: Path, *, is_checked: bool = True) -> ModelProto:
    """Read the graph of an ONNX file, for editing.

    Args:
        is_checked: refuse what the ONNX checker refuses; ONNX Runtime runs some of it, such as unsorted nodes.

    Raises:
        UserError: the file is missing, is not ONNX, or is corrupt.
    """
    import onnx

    _check_is_file(file)
    try:
        graph = onnx.load(file, format="protobuf")
        if is_checked:
            onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # protobuf, the checker and shape inference have no narrower common base
        raise UserError(f"{file}: not a readable ONNX file ({reason(error)})") from None
    return graph


def _check_is_file(file: Path) -> None:
    if not file.is_file():
        raise UserError(f"{file}: {'a folder' if file.is_dir() else 'not found'}; expected an ONNX file")


def _described(session: Any, file: Path) -> OnnxClassifier:
    metadata = session.get_modelmeta().custom_metadata_map
    if METADATA_KEY in metadata:
        return _compressed(session, metadata, file)
    inputs = {item.name: item for item in session.get_inputs()}
    outputs = {item.name: item for item in session.get_outputs()}
    lacking = [name for name in ("classes", "resize", "variant") if name not in metadata]
    if lacking or metadata.get("producer") != PRODUCER:
        missing = ", ".join(lacking) or "producer"
        raise UserError(f"{file}: got no metadata {missing}, expected a file that isoflop exported or compressed")
    if list(inputs) != [INPUT] or inputs[INPUT].type != "tensor(uint8)" or list(outputs)[:2] != [LOGITS, PROBABILITIES]:
        raise UserError(
            f"{file}: got inputs {', '.join(inputs)} and outputs {', '.join(outputs)}, "
            f"expected uint8 {INPUT} and {LOGITS}, {PROBABILITIES}"
        )
    batch, height, width, channels = (*inputs[INPUT].shape, *(None,) * 4)[:4]
    if not (
        isinstance(height, int)
        and 0 < height <= MOST_PIXELS
        and height == width
        and channels in (1, 3)
        and (batch == 1 or type(batch) is str)
    ):
        raise UserError(
            f"{file}: got {INPUT} of shape {inputs[INPUT].shape}, expected [batch or 1, size, size, 1 or 3] of at most "
            f"{MOST_PIXELS} pixels"
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


def _compressed(session: Any, metadata: dict[str, str], file: Path) -> OnnxClassifier:
    """Return the classifier of a file of ``isoflop compress``."""
    found = read_foreign_io(metadata[METADATA_KEY], file)
    inputs, outputs = ([item.name for item in items] for items in (session.get_inputs(), session.get_outputs()))
    if found.input_name not in inputs or found.output_name not in outputs:
        raise UserError(
            f"{file}: got inputs {', '.join(inputs)} and outputs {', '.join(outputs)}, expected "
            f"{found.input_name} and {found.output_name}, which its metadata names"
        )
    return OnnxClassifier(
        file, session, "int8", found.classes, "crop", found.size, found.channels, found.batch, foreign=found
    )


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
