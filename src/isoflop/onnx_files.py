"""A classifier as an ONNX file: opened with the options that make its timings repeatable, and read for what it means.

Input ``images`` uint8 [batch, H, W, C], raw pixels; outputs ``logits`` and ``probabilities``, float32 [batch, K]. What
else a client has to know stands in the metadata: ``classes`` (JSON), ``resize``, ``variant``, ``architecture`` (JSON).
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isoflop.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto

INPUT, LOGITS, PROBABILITIES = "images", "logits", "probabilities"
PRODUCER = "isoflop"

Floats = npt.NDArray[np.float32]

_BATCH = 256  # images


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class OnnxClassifier:
    """An open ONNX Runtime session of a file that isoflop exported, and what the file says of itself."""

    session: Any  # onnxruntime.InferenceSession
    variant: str
    classes: list[str]
    resize: str  # how a picture of any size becomes a square: crop, pad or stretch
    image_size: int
    channels: int

    def logits(self, images_NHWC: npt.NDArray[np.uint8]) -> Floats:
        """Logits float32 [N, K] of uint8 [N, H, W, C], in batches."""
        return self._output(LOGITS, images_NHWC)

    def probabilities(self, images_NHWC: npt.NDArray[np.uint8]) -> Floats:
        """Probabilities float32 [N, K] of uint8 [N, H, W, C], in batches."""
        return self._output(PROBABILITIES, images_NHWC)

    def _output(self, name: str, images_NHWC: npt.NDArray[np.uint8]) -> Floats:
        batches = [np.ascontiguousarray(images_NHWC[at : at + _BATCH]) for at in range(0, len(images_NHWC), _BATCH)]
        outputs = [self.session.run([name], {INPUT: batch})[0] for batch in batches]
        return np.concatenate(outputs) if outputs else np.zeros((0, len(self.classes)), np.float32)


def open_classifier(file: Path, threads: int = 1, optimized: Path | None = None) -> OnnxClassifier:
    """Open an ONNX file in ONNX Runtime on the CPU.

    Threads do not spin while they wait: on a machine with other work to do spinning turned 2.4 ms into 9.7.

    Args:
        optimized: where to write the graph that ONNX Runtime makes of it, to see what was fused.

    Raises:
        UserError: the file is missing, is not ONNX, is corrupt, or is not a classifier that isoflop exported.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3  # errors: its warnings are advice to us, not to a user
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    if not file.is_file():
        raise UserError(f"{file}: not found; expected an ONNX file")
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base but this
        raise UserError(f"{file}: not a readable ONNX file ({_reason(error)})") from None
    return _described(session, file)


def read_graph(file: Path) -> ModelProto:
    """The graph of an ONNX file, for editing.

    Raises:
        UserError: the file is missing, is not ONNX, or is corrupt.
    """
    import onnx

    if not file.is_file():
        raise UserError(f"{file}: not found; expected an ONNX file")
    try:
        graph = onnx.load(file)
        onnx.checker.check_model(graph, full_check=True)
    except Exception as error:  # those of protobuf, the checker and shape inference have no common base
        raise UserError(f"{file}: not a readable ONNX file ({_reason(error)})") from None
    return graph


def _described(session: Any, file: Path) -> OnnxClassifier:
    metadata = session.get_modelmeta().custom_metadata_map
    inputs = {item.name: item for item in session.get_inputs()}
    outputs = [item.name for item in session.get_outputs()]
    lacking = [name for name in ("classes", "resize", "variant") if name not in metadata]
    if lacking or metadata.get("producer") != PRODUCER:
        raise UserError(f"{file}: found no metadata {', '.join(lacking) or 'producer'}, expected a file of `isoflop`")
    if list(inputs) != [INPUT] or inputs[INPUT].type != "tensor(uint8)" or outputs != [LOGITS, PROBABILITIES]:
        raise UserError(
            f"{file}: found inputs {', '.join(inputs)} and outputs {', '.join(outputs)}, "
            f"expected uint8 {INPUT} and {LOGITS}, {PROBABILITIES}"
        )
    _, height, _, channels = inputs[INPUT].shape
    classes = json.loads(metadata["classes"])
    return OnnxClassifier(session, metadata["variant"], classes, metadata["resize"], height, channels)


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return " ".join(lines[0].split())[:200] if lines else type(error).__name__
