"""``isoflop predict``: image files to class names, by an ONNX model alone.

How a picture becomes the model's input is read from the model (its input shape and metadata) and done by
``isoflop.images``, the code that ``prepare`` runs: it cannot differ from training.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isoflop.arrays import Images
from isoflop.errors import UserError
from isoflop.images import decode, fit_to_square
from isoflop.onnx_files import OnnxClassifier, cores, open_classifier, reason

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped]
    from onnx import TensorProto

_BATCH = 64  # images; bounds the memory, whatever the number of files


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, best first, with their probabilities."""

    image: Path
    top: list[tuple[str, float]]


def predict(model: Path, images: Sequence[Path], top: int) -> list[Prediction]:
    """The ``top`` classes (all, if it has fewer) of each image file, in their order.

    Raises:
        UserError: ``top`` is less than 1; the model is missing, is not ONNX, is not of this pipeline or wants another
            file to be read; a file is missing, is a folder or is not an image. One bad file and nothing is predicted:
            half an answer that looks whole is worse than none.
    """
    if top < 1:
        raise UserError(f"--top: found {top}, expected at least 1")
    for image in images:
        if image.is_dir():
            raise UserError(f"{image}: found a folder, expected an image file ({image}/*.png, say)")
        if not image.exists():
            raise UserError(f"{image}: not found; expected an image file")
    _refuse_external_data(model)
    classifier = open_classifier(model, threads=cores())
    predictions = []
    for start in range(0, len(images), _BATCH):
        batch = images[start : start + _BATCH]
        pixels_BHWC = np.stack([_pixels(image, classifier) for image in batch])
        try:
            probabilities_BK = classifier.probabilities(pixels_BHWC)
        except Exception as error:  # ONNX Runtime's exceptions have no common base but this
            raise UserError(f"{model}: could be opened, but not run ({reason(error)})") from None
        for image, probabilities_K in zip(batch, probabilities_BK, strict=True):
            best = np.argsort(-probabilities_K, kind="stable")[:top]
            predictions.append(
                Prediction(image, [(classifier.classes[index], float(probabilities_K[index])) for index in best])
            )
    return predictions


def show(predictions: Sequence[Prediction], *, as_json: bool) -> None:
    """Print predictions: as JSON, as a table on a terminal, else a line of tab-separated columns for each class."""
    if as_json:
        print(json.dumps({"predictions": [_as_dict(prediction) for prediction in predictions]}, indent=1))
    elif sys.stdout.isatty():
        _print_table(predictions)
    else:
        for prediction in predictions:
            for name, probability in prediction.top:
                print(printable(str(prediction.image)), printable(name), f"{probability:.4f}", sep="\t")


def printable(text: str) -> str:
    """``text`` with what a terminal would obey (control characters), or cannot show, written as escapes."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def _refuse_external_data(model: Path) -> None:
    """A model may name files for its weights; one from somewhere else must not choose what is read here."""
    import onnx

    if not model.is_file():
        return  # for open_classifier to say
    try:
        graph = onnx.load(model, format="protobuf", load_external_data=False)
    except Exception as error:  # those of protobuf have no common base
        raise UserError(f"{model}: not a readable ONNX file ({reason(error)})") from None
    for tensor in _tensors(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(f"{model}: found weights in another file ({tensor.name[:80]!r}), expected all in this one")


def _tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor in it: of the graph, of its nodes' attributes, of graphs and functions inside those."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if hasattr(value, "ListFields") else value:  # one message, or a list of them
                yield from _tensors(inner)


def _pixels(image: Path, classifier: OnnxClassifier) -> Images:
    picture = decode(image.read_bytes(), str(image))
    return fit_to_square(picture, classifier.image_size, classifier.channels, classifier.resize)


def _as_dict(prediction: Prediction) -> dict[str, object]:
    top = [{"class": name, "probability": round(probability, 6)} for name, probability in prediction.top]
    return {"image": str(prediction.image), "top": top}


def _print_table(predictions: Sequence[Prediction]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for prediction in predictions:
        for rank, (name, probability) in enumerate(prediction.top):
            shown = printable(str(prediction.image)) if rank == 0 else ""
            # Text and not str: a class called [red] is no markup
            table.add_row(Text(shown), Text(printable(name)), f"{100 * probability:.1f} %")
    Console().print(table)
