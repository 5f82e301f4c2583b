"""Find out how images enter a foreign classifier and which output answers: from its graph, and by running it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from isoflop.data.arrays import Images
from isoflop.data.images import UndecodableError, decode, fit_to_square
from isoflop.download.image_folders import folder_entries, is_image
from isoflop.inference.foreign_io import MOST_PIXELS, Answer, Floats, ForeignIO, rows
from isoflop.inference.onnx_files import GraphIO, open_session, reason
from isoflop.runtime.errors import UserError

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

_BATCH = 64  # images per run, if the batch is open
_FEWEST_IMAGES = 16
_MOST_BYTES = 1 << 30  # of inputs in memory
_CLOSE = 1e-3  # relative difference of outputs that a batch may make
_THROUGH = ("Identity", "Cast", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Dropout")


@dataclass(frozen=True)
class PixelChoices:
    """What the user states about a model; see ``isoflop.inference.foreign_io.ForeignIO``."""

    size: int | None = None
    channels: int | None = None
    scale: float = 255.0
    mean: Sequence[float] = field(default_factory=lambda: [0.0])
    std: Sequence[float] = field(default_factory=lambda: [1.0])
    bgr: bool = False
    output: str | None = None
    classes: Sequence[str] | None = None


@dataclass(frozen=True)
class Foreign:
    """A classifier as its graph describes it; ``fitted`` completes ``io`` by running it."""

    model: Path
    io: ForeignIO
    graph_io: GraphIO
    choices: PixelChoices
    layouts: list[bool]  # values of ``channels_last`` to try

    def fitted(self, graph: ModelProto, images_N: Images) -> Foreign:
        """Return the classifier with the layout, the batch, the output and its meaning, found on two images.

        Raises:
            UserError: ONNX Runtime cannot run the model, or no output, or several ones, can be its scores.
        """
        session = open_session(graph.SerializeToString(), threads=1)
        layout, outputs = _run_somehow(self, session, images_N)
        io = self.io.model_copy(update={"channels_last": layout})
        name, scores_NK = _chosen(self, graph, outputs)
        batch = self.io.batch
        if batch is None and not _is_open(session, io, name, images_N):
            batch = 1
        answer, is_probability = _meaning(graph, name, scores_NK.shape[1])
        count = scores_NK.shape[1] + (1 if scores_NK.shape[1] == 1 else 0)
        update = {"output_name": name, "batch": batch, "answer": answer, "is_probability": is_probability,
                  "classes": _classes(self, count)}  # fmt: skip
        graph_io = GraphIO(io.input_name, name, batch or _BATCH, batch is not None)
        return replace(self, io=io.model_copy(update=update), graph_io=graph_io)

    def warnings(self, answers_N: npt.NDArray[Any]) -> list[str]:
        """Return what makes the comparison meaningless."""
        if len(answers_N) > 1 and len(np.unique(answers_N, axis=0)) == 1:
            return [
                "the float model gives every image the same answer; check --mean, --std, --scale and --bgr, and "
                "calibrate with images of several classes"
            ]
        return []


def examine(graph: ModelProto, model: Path, choices: PixelChoices) -> Foreign:
    """Return what the graph and the user state about the input.

    Raises:
        UserError: the model does not take one input of square images, or ``choices`` do not fit it.
    """
    entry, dtype = _entry(graph, model)
    shape = _shape(entry) or [None] * 4
    layouts = _layouts(shape, choices)
    if not layouts:
        raise UserError(
            f"{model}: got images of shape {shape}, expected squares with 1 or 3 channels (--channels sets the number "
            "if the model leaves it open)"
        )
    last = layouts[0]
    fixed = shape[3] if last else shape[1]
    channels = fixed if isinstance(fixed, int) else choices.channels
    sides = (shape[1], shape[2]) if last else (shape[2], shape[3])
    size = _side(model, shape, sides, choices.size)
    if channels is None:
        raise UserError(f"{model}: got images of shape {shape}; fix: --channels 3 (color) or --channels 1 (grayscale)")
    for name, values in (("--mean", choices.mean), ("--std", choices.std)):
        if len(values) not in (1, channels):
            raise UserError(f"{name}: got {len(values)} values, expected 1 or {channels}, one per channel")
    if choices.bgr and channels == 1:
        raise UserError("--bgr: got a model of grayscale images, expected one with 3 channels")
    batch = shape[0] if isinstance(shape[0], int) else None
    if batch is not None and not 1 <= batch <= 4096:
        raise UserError(f"{model}: got a fixed batch size of {batch}, expected 1 to 4096")
    io = ForeignIO(
        input_name=entry.name,
        output_name="",
        size=size,
        channels=cast("Any", channels),
        channels_last=last,
        dtype=cast("Any", dtype),
        scale=float(choices.scale),
        mean=[float(value) for value in choices.mean],
        std=[float(value) for value in choices.std],
        bgr=choices.bgr,
        batch=batch,
        answer="class",
        is_probability=False,
        classes=["?"],
    )
    return Foreign(model, io, GraphIO(entry.name, "", batch or 1, batch is not None), choices, layouts)


def read_images(folder: Path, io: ForeignIO, count: int) -> tuple[Images, int]:
    """Return at most ``count`` images uint8 [N, H, W, C], evenly spaced over the folder's, and the number of unreadable
    files. Large images are fewer, so that they fit into memory.

    Raises:
        UserError: there is no folder, or it has too few images.
    """
    if count < _FEWEST_IMAGES:
        raise UserError(f"--images: got {count}, expected at least {_FEWEST_IMAGES}")
    if not folder.is_dir():
        raise UserError(f"{folder}: not a folder, expected one with images")
    bytes_each = io.size**2 * io.channels * (1 if io.dtype == "uint8" else 4)
    count = max(_FEWEST_IMAGES, min(count, _MOST_BYTES // bytes_each))
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
        ready.append(fit_to_square(picture, io.size, io.channels, "crop"))
    if len(ready) < _FEWEST_IMAGES:
        raise UserError(
            f"{folder}: got {len(ready)} readable images among {len(chosen)} files, expected at least {_FEWEST_IMAGES}"
        )
    return np.stack(ready), skipped


def _entry(graph: ModelProto, model: Path) -> tuple[ValueInfoProto, str]:
    """Return the only input and its type."""
    import onnx

    weights = {item.name for item in graph.graph.initializer}
    entries = [item for item in graph.graph.input if item.name not in weights]
    types = {
        onnx.TensorProto.FLOAT: "float32",
        onnx.TensorProto.FLOAT16: "float16",
        onnx.TensorProto.UINT8: "uint8",
    }
    kind = types.get(entries[0].type.tensor_type.elem_type) if len(entries) == 1 else None
    if kind is None or len(_shape(entries[0])) not in (0, 4):
        shapes = ", ".join(f"{item.name} {_shape(item)}" for item in entries)
        raise UserError(
            f"{model}: got inputs {shapes}, expected one input of images (float32, float16 or uint8, four axes)"
        )
    return entries[0], kind


def _shape(item: ValueInfoProto) -> list[int | str | None]:
    """Each axis: its size if it is fixed, else its name, or None if it has none. Empty if the shape is unknown."""
    return [
        axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else (axis.dim_param or None)
        for axis in item.type.tensor_type.shape.dim
    ]


def _layouts(shape: Sequence[int | str | None], choices: PixelChoices) -> list[bool]:
    """Return the values of ``channels_last`` that the shape allows, the likelier first."""

    def fits(axis: int | str | None) -> bool:
        wanted = (choices.channels,) if choices.channels else (1, 3)
        return axis in wanted if isinstance(axis, int) else True

    first, last = fits(shape[1]), fits(shape[3])
    if isinstance(shape[1], int) and first and not (isinstance(shape[3], int) and last and shape[1] == shape[2]):
        return [False]
    if isinstance(shape[3], int) and last:
        return [True]
    return [layout for layout, allowed in ((False, first), (True, last)) if allowed]


def _side(model: Path, shape: Sequence[Any], sides: Sequence[int | str | None], wanted: int | None) -> int:
    known = [side for side in sides if isinstance(side, int)]
    side = wanted or (known[0] if known else None)
    if side is None or any(other != side for other in known):
        asked = f" of {wanted} pixels" if wanted else ""
        raise UserError(
            f"{model}: got images of shape {list(shape)}, expected squares{asked} with 1 or 3 channels (--size sets "
            "the side if the model leaves it open)"
        )
    if side > MOST_PIXELS:
        raise UserError(f"{model}: got images of {side} pixels, expected at most {MOST_PIXELS}")
    return side


def _run_somehow(foreign: Foreign, session: Any, images_N: Images) -> tuple[bool, dict[str, Any]]:
    """Run the first images in each layout that the shape allows; return the layout that runs, and its outputs."""
    batch = foreign.graph_io.batch
    why = ""
    for layout in foreign.layouts:
        io = foreign.io.model_copy(update={"channels_last": layout})
        inputs = io.inputs(np.resize(images_N[:batch], (batch, *images_N.shape[1:])))
        try:
            found = session.run(None, {io.input_name: inputs})
        except Exception as error:  # ONNX Runtime's exceptions have no narrower common base
            why = why or reason(error)
            continue
        return layout, dict(zip((item.name for item in session.get_outputs()), found, strict=True))
    raise UserError(f"{foreign.model}: ONNX Runtime cannot run it on images of {foreign.io.size} pixels ({why})")


def _chosen(foreign: Foreign, graph: ModelProto, outputs: dict[str, Any]) -> tuple[str, Floats]:
    """Return the output with the scores, [N, K]."""
    model, wanted, batch = foreign.model, foreign.choices.output, foreign.graph_io.batch
    shapes = {name: list(getattr(value, "shape", [type(value).__name__])) for name, value in outputs.items()}
    listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    tables = {name: rows(value, batch) for name, value in outputs.items() if isinstance(value, np.ndarray)}
    fit = {name: table for name, table in tables.items() if table is not None}
    if wanted and wanted not in fit:
        raise UserError(f"--output: got {wanted!r}, expected an output [batch, classes] of {model}: {listed}")
    made_by = {name: node for node in graph.graph.node for name in node.output}
    derived = {
        name
        for name in fit
        if name in made_by and made_by[name].op_type in ("Softmax", "LogSoftmax", "Sigmoid")
        and made_by[name].input[0] in fit
    }  # fmt: skip
    names = [wanted] if wanted else [name for name in fit if name not in derived]
    if not names:
        raise UserError(f"{model}: got outputs {listed}, expected one [batch, classes] in float")
    if len(names) > 1:
        raise UserError(f"{model}: got outputs {listed}; fix: --output NAME chooses the scores")
    scores_NK = fit[names[0]]
    if not np.isfinite(scores_NK).all():
        raise UserError(f"{model}: got logits that are not finite on the calibration images, expected finite ones")
    return names[0], scores_NK


def _is_open(session: Any, io: ForeignIO, output: str, images_N: Images) -> bool:
    """Return whether the graph takes several images, each of which gets the same scores as alone.

    A batch that is open by name may be fixed inside of the graph, by a Reshape.
    """

    def scores(count: int) -> Floats | None:
        try:
            (found,) = session.run([output], {io.input_name: io.inputs(images_N[:count])})
        except Exception:  # ONNX Runtime's exceptions have no narrower common base
            return None
        return rows(found, count)

    alone, together = scores(1), scores(3)
    if alone is None or together is None or alone.shape[1] != together.shape[1]:
        return False
    return bool(np.abs(alone[0] - together[0]).max() <= _CLOSE * max(1.0, float(np.abs(alone).max())))


def _meaning(graph: ModelProto, output: str, scores: int) -> tuple[Answer, bool]:
    """Return what the scores answer, and whether they are probabilities, from the operator that computes them."""
    kind = next((kind for kind in _operators_before(graph, output) if kind not in _THROUGH), "")
    is_probability = kind in ("Sigmoid", "HardSigmoid", "Softmax")
    if scores == 1:
        return ("above half" if is_probability else "above zero"), is_probability
    return ("labels above half" if kind in ("Sigmoid", "HardSigmoid") else "class"), is_probability


def _operators_before(graph: ModelProto, tensor: str) -> Iterator[str]:
    made_by = {name: node for node in graph.graph.node for name in node.output}
    while (node := made_by.get(tensor)) is not None:
        yield node.op_type
        if not node.input:
            return
        tensor = node.input[0]


def _classes(foreign: Foreign, count: int) -> list[str]:
    names = foreign.choices.classes
    if names is None:
        return [str(index) for index in range(count)]
    if len(names) != count:
        raise UserError(f"--classes: got {len(names)} names, expected {count}, one per class of {foreign.model}")
    return list(names)
