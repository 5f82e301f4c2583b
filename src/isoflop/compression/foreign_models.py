"""``isoflop compress``: any ONNX image classifier to INT8, with what it cost, layer by layer, and what it brought."""

from __future__ import annotations

import json
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

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_BATCH = 64  # images at once, where the graph takes any number
_FEWEST_IMAGES = 16
_OLDEST_OPSET = 13  # the first whose QuantizeLinear takes a scale a channel
_REPEATS, _WARMUP = 200, 20


@dataclass(frozen=True)
class Pixels:
    """How an image becomes the model's input: a square of ``size``, then (x / ``scale`` - mean) / std by channel.

    A model that takes uint8 is given pixels as they are.
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
        """One input [C, H, W] or [H, W, C]."""
        if self.as_bytes:
            ready: Inputs = image_HWC
        else:
            shift, width = np.array(self.mean, np.float32), np.array(self.std, np.float32)
            with np.errstate(over="ignore", invalid="ignore"):  # what comes out is looked at
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
    """Quantize ``model``, write model-int8.onnx, calibration.json and compress.json to ``folder``; the last's content.

    Half of the images calibrate and the other half judges: as nobody says what their classes are, what counts is
    whether the model still says the same. ``params.max_accuracy_drop`` is the share of predictions that may change.

    Raises:
        UserError: the model is no classifier of square images, there are too few images, or ``folder`` holds something
            and ``force`` is not set.
    """
    if folder.exists() and any(folder.iterdir()) and not force:
        raise UserError(f"{folder}: found files in it, expected an empty folder or a new one (or --force)")
    graph = _prepared(model)
    pixels = _pixels(graph, model, size, scale, mean, std)
    inputs_N, skipped = _read(images, pixels, params.calibration_images)
    calibrates_N, judges_N = inputs_N[::2], inputs_N[1::2]
    labels_N = outputs_of(graph, pixels.graph_io, judges_N).argmax(1)
    found = quantize_graph(graph, pixels.graph_io, calibrates_N, judges_N, labels_N, params, called=str(model))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        int8 = Path(temporary) / "model-int8.onnx"
        int8.write_bytes(found.graph.SerializeToString(deterministic=True))
        calibration = found.calibration(len(calibrates_N))
        (Path(temporary) / "calibration.json").write_text(json.dumps(calibration, indent=1) + "\n")
        facts = {
            "images": {"calibrated_on": len(calibrates_N), "judged_on": len(judges_N), "unreadable": skipped},
            **found.facts(),
            "flips": round(len(judges_N) * (1 - found.accuracy)),
            "bytes": {"float": model.stat().st_size, "int8": int8.stat().st_size},
            "latency": _latency(model, int8, pixels, inputs_N),
            "audit": {"float": asdict(audit(model)), "int8": asdict(audit(int8))},
        }
        (Path(temporary) / "compress.json").write_text(json.dumps(facts, indent=1) + "\n")
        folder.mkdir(exist_ok=True)
        for file in list(Path(temporary).iterdir()):
            shutil.move(file, folder / file.name)
    return facts


def _prepared(model: Path) -> ModelProto:
    """The graph with norms and constants folded and a name for every node, as quantization wants it."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    opsets = {item.domain: item.version for item in read_graph(model).opset_import}
    if opsets.get("", 0) < _OLDEST_OPSET:
        raise UserError(f"{model}: found opset {opsets.get('', 0)}, expected {_OLDEST_OPSET} or later; export it anew")
    with tempfile.TemporaryDirectory() as scratch, silence():
        ready = Path(scratch) / "ready.onnx"
        try:
            quant_pre_process(str(model), str(ready), skip_symbolic_shape=True)
        except Exception as error:  # those of ONNX Runtime have no common base but this
            raise UserError(f"{model}: could not be prepared ({reason(error)})") from None
        graph = read_graph(ready)
    for number, node in enumerate(graph.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    return graph


def _pixels(
    graph: ModelProto, model: Path, size: int | None, scale: float, mean: Sequence[float], std: Sequence[float]
) -> Pixels:
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
            f"{model}: found the inputs {shapes} and {len(outputs)} outputs of two axes, expected one input of images "
            "(float32 or uint8, four axes) and an output [batch, classes]"
        )
    channels_last = shape[3] in (1, 3) and shape[1] not in (1, 3)
    channels, *sides = (shape[3], shape[1], shape[2]) if channels_last else (shape[1], shape[2], shape[3])
    known = [side for side in sides if isinstance(side, int)]
    side = size or (known[0] if len(known) == 2 else None)
    if channels not in (1, 3) or side is None or any(other != side for other in known):
        wanted = f" of {size} pixels" if size else ""
        raise UserError(
            f"{model}: found images of shape {shape}, expected squares{wanted} of 1 or 3 channels (--size says the "
            "side where the model leaves it open)"
        )
    if not isinstance(shape[0], str | None) and shape[0] != 1:
        raise UserError(f"{model}: found a batch fixed at {shape[0]}, expected any number or 1")
    for name, values in (("--mean", mean), ("--std", std)):
        if len(values) not in (1, channels):
            raise UserError(f"{name}: found {len(values)} values, expected 1 or {channels}, one a channel")
    graph_io = GraphIO(entries[0].name, outputs[0].name, 1 if shape[0] == 1 else _BATCH)
    spread = [tuple(values) * (channels if len(values) == 1 else 1) for values in (mean, std)]
    return Pixels(graph_io, side, channels, channels_last, kinds[kind], scale, *spread)


def _shape(item: ValueInfoProto) -> list[int | str | None]:
    """Sizes where they are fixed, else their names, None where they have none."""
    return [
        axis.dim_value if axis.HasField("dim_value") else (axis.dim_param or None)
        for axis in item.type.tensor_type.shape.dim
    ]


def _read(folder: Path, pixels: Pixels, count: int) -> tuple[Inputs, int]:
    """``count`` inputs (or as many as there are) from all over the folder, and how many files could not be read."""
    if count < _FEWEST_IMAGES:
        raise UserError(f"--images: found {count}, expected at least {_FEWEST_IMAGES}")
    if not folder.is_dir():
        raise UserError(f"{folder}: found no folder, expected one with images")
    entries = [entry for entry in folder_entries(folder) if is_image(entry)]
    chosen = [
        entries[place] for place in np.linspace(0, len(entries) - 1, min(count, len(entries))).round().astype(int)
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
            f"{folder}: found {len(ready)} readable images among {len(chosen)} looked at, expected at least "
            f"{_FEWEST_IMAGES}"
        )
    inputs_N: Inputs = np.stack(ready)
    return inputs_N, skipped


def _latency(model: Path, int8: Path, pixels: Pixels, inputs_N: Inputs) -> dict[str, float]:
    """Medians of both for one image on one thread, in turns, and their ratio with its 95 % interval."""
    opened = [open_session(str(file), threads=1) for file in (model, int8)]
    floats, ours = time_in_turns(opened, {pixels.graph_io.entry: inputs_N[:1]}, _REPEATS, _WARMUP)
    low, high = speedup_interval(floats, ours)
    found = {"float_ms": float(np.median(floats)), "int8_ms": float(np.median(ours)), "speedup_low": low,
             "speedup_high": high}  # fmt: skip
    found["speedup"] = found["float_ms"] / found["int8_ms"]
    return {name: round(value, 5) for name, value in found.items()}
