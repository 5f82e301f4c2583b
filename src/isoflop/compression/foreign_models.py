"""``isoflop compress``: quantize any ONNX image classifier to INT8; report changed predictions, size and latency."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isoflop.compression.calibration import Inputs, silence
from isoflop.compression.quantization import Quantize, quantize_graph
from isoflop.data.images import UndecodableError, decode, fit_to_square
from isoflop.download.image_folders import folder_entries, is_image
from isoflop.inference.audit import audit
from isoflop.inference.benchmarking import speedup_interval, time_in_turns
from isoflop.inference.onnx_files import GraphIO, open_session, outputs_of, read_graph, reason
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_BATCH = 64  # images per run, if the graph has a dynamic batch
_FEWEST_IMAGES = 16
_OLDEST_OPSET = 13  # the first whose QuantizeLinear takes one scale per channel
_REPEATS, _WARMUP = 200, 20


@dataclass(frozen=True)
class Pixels:
    """The input spec of a model: a square of ``size`` pixels, then (x / ``scale`` - mean) / std by channel.

    A model with uint8 input takes the pixels unchanged.
    """

    graph_io: GraphIO
    size: int
    channels: int
    channels_last: bool
    as_bytes: bool
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def of(self, image_HWC: npt.NDArray[np.uint8]) -> Inputs:
        """One input [C, H, W] or [H, W, C] from an image uint8 [H, W, C]."""
        if self.as_bytes:
            ready: Inputs = image_HWC
        else:
            shift, width = np.array(self.mean, np.float32), np.array(self.std, np.float32)
            with np.errstate(over="ignore", invalid="ignore"):  # quantize_graph checks that the logits are finite
                ready = (image_HWC.astype(np.float32) / np.float32(self.scale) - shift) / width
        return ready if self.channels_last else np.ascontiguousarray(ready.transpose(2, 0, 1))


def compress(
    model: Path,
    images: Path,
    folder: Path,
    params: Quantize,
    *,
    size: int | None,
    scale: float,
    mean: Sequence[float],
    std: Sequence[float],
    force: bool,
) -> dict[str, Any]:
    """Quantize ``model``; write model-int8.onnx, calibration.json and compress.json to ``folder``.

    Half of the images calibrate, the other half evaluate. They have no labels, so the INT8 model is compared with the
    float model: ``params.max_accuracy_drop`` is the share of predictions that may change.

    Returns:
        The content of compress.json.

    Raises:
        UserError: the model is not a classifier of square images, there are too few images, or ``folder`` is not empty
            and ``force`` is not set.
    """
    if folder.exists() and any(folder.iterdir()) and not force:
        raise UserError(f"{folder}: got a folder with files, expected an empty or new one; fix: --force")
    graph = _prepared(model)
    pixels = _pixels(graph, model, size, scale, mean, std)
    inputs_N, skipped = _read(images, pixels, params.calibration_images)
    calibration_N, evaluation_N = inputs_N[::2], inputs_N[1::2]
    labels_N = outputs_of(graph, pixels.graph_io, evaluation_N).argmax(1)
    int8 = quantize_graph(graph, pixels.graph_io, calibration_N, evaluation_N, labels_N, params, called=str(model))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        file = Path(temporary) / "model-int8.onnx"
        file.write_bytes(int8.graph.SerializeToString(deterministic=True))
        write_json(Path(temporary) / "calibration.json", int8.calibration(len(calibration_N)))
        facts = {
            "images": {"calibrated_on": len(calibration_N), "judged_on": len(evaluation_N), "unreadable": skipped},
            **int8.facts(),
            "changed_predictions": round(len(evaluation_N) * (1 - int8.accuracy)),
            "bytes": {"float": model.stat().st_size, "int8": file.stat().st_size},
            "latency": _latency(model, file, pixels, inputs_N),
            "audit": {"float": asdict(audit(model)), "int8": asdict(audit(file))},
        }
        write_json(Path(temporary) / "compress.json", facts)
        folder.mkdir(exist_ok=True)
        for written in list(Path(temporary).iterdir()):
            shutil.move(written, folder / written.name)
    return facts


def _prepared(model: Path) -> ModelProto:
    """The graph ready for quantization: norms and constants folded, every node named."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    opsets = {item.domain: item.version for item in read_graph(model).opset_import}
    if opsets.get("", 0) < _OLDEST_OPSET:
        opset = opsets.get("", 0)
        raise UserError(f"{model}: got opset {opset}, expected {_OLDEST_OPSET} or later; fix: export it again")
    with tempfile.TemporaryDirectory() as scratch, silence():
        ready = Path(scratch) / "ready.onnx"
        try:
            quant_pre_process(str(model), str(ready), skip_symbolic_shape=True)
        except Exception as error:  # the exceptions of ONNX Runtime have no other common base
            raise UserError(f"{model}: ONNX Runtime cannot prepare it for quantization ({reason(error)})") from None
        graph = read_graph(ready)
    for index, node in enumerate(graph.graph.node):
        node.name = node.name or f"{node.op_type}_{index}"
    return graph


def _pixels(
    graph: ModelProto, model: Path, size: int | None, scale: float, mean: Sequence[float], std: Sequence[float]
) -> Pixels:
    """The input spec of the model; ``size`` is needed only if the model leaves its sides open.

    Raises:
        UserError: the model does not take square images, or ``size``, ``mean`` or ``std`` do not fit it.
    """
    import onnx

    weights = {item.name for item in graph.graph.initializer}
    entries = [item for item in graph.graph.input if item.name not in weights]
    outputs = [item for item in graph.graph.output if len(_shape(item)) == 2]
    shapes = ", ".join(f"{item.name} {_shape(item)}" for item in entries)
    kinds = {onnx.TensorProto.FLOAT: False, onnx.TensorProto.UINT8: True}
    shape = _shape(entries[0]) if len(entries) == 1 else []
    kind = entries[0].type.tensor_type.elem_type if entries else None
    if len(shape) != 4 or kind not in kinds or not outputs:
        raise UserError(
            f"{model}: got inputs {shapes} and {len(outputs)} outputs with two axes, expected one input of images "
            "(float32 or uint8, four axes) and an output [batch, classes]"
        )
    channels_last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    channels, *sides = (shape[3], shape[1], shape[2]) if channels_last else (shape[1], shape[2], shape[3])
    known = [side for side in sides if isinstance(side, int)]
    side = size or (known[0] if len(known) == 2 else None)
    if channels not in (1, 3) or side is None or any(other != side for other in known):
        wanted = f" of {size} pixels" if size else ""
        raise UserError(
            f"{model}: got images of shape {shape}, expected squares{wanted} with 1 or 3 channels (--size sets the "
            "side if the model leaves it open)"
        )
    if not isinstance(shape[0], str | None) and shape[0] != 1:
        raise UserError(f"{model}: got a fixed batch size of {shape[0]}, expected a dynamic batch or 1")
    for name, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (1, channels):
            raise UserError(f"{name}: got {len(values)} values, expected 1 or {channels}, one per channel")
    graph_io = GraphIO(entries[0].name, outputs[0].name, 1 if shape[0] == 1 else _BATCH)
    spread = [tuple(values) * (channels if len(values) == 1 else 1) for values in (mean, std)]
    return Pixels(graph_io, side, channels, channels_last, kinds[kind], scale, *spread)


def _shape(item: ValueInfoProto) -> list[int | str | None]:
    """Each axis: its size if it is fixed, else its name, or None if it has none."""
    return [
        axis.dim_value if axis.HasField("dim_value") else (axis.dim_param or None)
        for axis in item.type.tensor_type.shape.dim
    ]


def _read(folder: Path, pixels: Pixels, count: int) -> tuple[Inputs, int]:
    """At most ``count`` inputs, evenly spaced over the folder's images, and the number of unreadable files."""
    if count < _FEWEST_IMAGES:
        raise UserError(f"--images: got {count}, expected at least {_FEWEST_IMAGES}")
    if not folder.is_dir():
        raise UserError(f"{folder}: not a folder, expected one with images")
    entries = [entry for entry in folder_entries(folder, follows_links=True) if is_image(entry)]
    chosen = [
        entries[index] for index in np.linspace(0, len(entries) - 1, min(count, len(entries))).round().astype(int)
    ]
    ready, skipped = [], 0
    for entry in chosen:
        with entry.open() as content:
            try:
                picture = decode(content.read(), entry.name)
            except UndecodableError:
                skipped += 1
                continue
        ready.append(pixels.of(fit_to_square(picture, pixels.size, pixels.channels, "crop")))
    if len(ready) < _FEWEST_IMAGES:
        raise UserError(
            f"{folder}: got {len(ready)} readable images among {len(chosen)} files, expected at least {_FEWEST_IMAGES}"
        )
    inputs_N: Inputs = np.stack(ready)
    return inputs_N, skipped


def _latency(model: Path, int8: Path, pixels: Pixels, inputs_N: Inputs) -> dict[str, float]:
    """Median latencies of both files, batch size 1, one thread, timed in turns; the speed-up with its 95 % interval."""
    sessions = [open_session(str(file), threads=1) for file in (model, int8)]
    floats, quantized = time_in_turns(sessions, {pixels.graph_io.input_name: inputs_N[:1]}, _REPEATS, _WARMUP)
    low, high = speedup_interval(floats, quantized)
    found = {"float_ms": float(np.median(floats)), "int8_ms": float(np.median(quantized)), "speedup_low": low,
             "speedup_high": high}  # fmt: skip
    found["speedup"] = found["float_ms"] / found["int8_ms"]
    return {name: round(value, 5) for name, value in found.items()}
