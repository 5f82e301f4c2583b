"""``isoflop predict``: classify image files with nothing but an ONNX model.

Image size, channels and resizing are read from the model (input shape and metadata). ``isoflop.data.images`` decodes
and resizes the images, as in ``prepare``, so the input cannot differ from training.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isoflop.data.arrays import Images
from isoflop.data.images import decode, fit_to_square
from isoflop.download.archives import Entry
from isoflop.download.image_folders import files_below, is_image
from isoflop.inference.embeddings import with_embeddings
from isoflop.inference.onnx_files import LOGITS, Floats, OnnxClassifier, cores, described, open_classifier, reason
from isoflop.inference.separate_session import ModelError, SeparateSession
from isoflop.runtime.errors import UserError

if TYPE_CHECKING:
    from google.protobuf.message import Message  # type: ignore[import-untyped]
    from onnx import TensorProto

_BATCH = 64  # images
_BATCH_BYTES = 256 << 20  # of decoded images; with _BATCH bounds the memory for any number of files and any size


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, best first, with their probabilities."""

    image: Path
    top: list[tuple[str, float]]
    embedding: Floats | None = None  # [D], of a classifier opened with them


@dataclass(frozen=True)
class Failure:
    """A file that could not be classified, or a folder that could not be listed, and why."""

    image: Path
    error: str


def open_model(file: Path, *, embeddings: bool = False) -> OnnxClassifier:
    """Open an untrusted model file, on all cores, in a process of its own.

    The file is read once, so the checked bytes are those that run.

    Args:
        embeddings: predictions also have the input of the layer that computes the scores.

    Raises:
        UserError: the model is missing, is not ONNX, was not exported or compressed by isoflop, or refers to another
            file.
    """
    if not file.is_file():
        return open_classifier(file)  # raises the error
    content = file.read_bytes()
    _refuse_external_data(content, file)
    name = None
    if embeddings:
        content, name = with_embeddings(content, LOGITS, file)
    try:
        session = SeparateSession(content, cores())
    except ModelError as error:
        raise UserError(f"{file}: not a readable ONNX file ({error})") from None
    return replace(described(session, file), embedding=name)


def find_images(paths: Iterable[Path]) -> list[Path | Failure]:
    """Return the paths, with each folder replaced by the images below it (see ``is_image``), sorted.

    Links to files are followed, links to folders are not. A folder without images is a failure.
    """
    return [found for path in paths for found in (_images_below(path) if os.path.isdir(path) else [path])]


def predict(
    classifier: OnnxClassifier, images: Iterable[Path | Failure], top: int = 1
) -> Iterator[Prediction | Failure]:
    """Yield the ``top`` most probable classes (or all, if there are fewer) of each image file, in order.

    A file that cannot be read yields a failure; failures among ``images`` are passed on. At most one batch of images is
    held in memory.

    Raises:
        UserError: the model can be opened, but not run.
    """
    waiting = iter(images)
    size = min(_BATCH, max(1, _BATCH_BYTES // (classifier.image_size**2 * classifier.channels)))
    while batch := list(islice(waiting, size)):
        read = [image if isinstance(image, Failure) else _read(image, classifier) for image in batch]
        pixels = [one[1] for one in read if not isinstance(one, Failure)]
        found = iter(scores_of(classifier, np.stack(pixels)) if pixels else ())
        for one in read:
            yield one if isinstance(one, Failure) else outcome(one[0], *next(found), classifier, top)


def outcome(
    image: Path, probabilities_K: Floats, embedding_D: Floats | None, classifier: OnnxClassifier, top: int
) -> Prediction | Failure:
    """Return the ``top`` most probable classes, or a failure if the probabilities are not numbers."""
    if not np.isfinite(probabilities_K).all():
        return Failure(image, "the model's probabilities are not finite numbers")
    return Prediction(image, best(probabilities_K, classifier.classes, top), embedding_D)


def _refuse_external_data(content: bytes, model: Path) -> None:
    """Reject a model whose weights are in other files: an untrusted model must not choose which files are read."""
    import onnx

    try:
        graph = onnx.load_model_from_string(content, format="protobuf")
    except Exception as error:  # protobuf's exceptions have no narrower common base
        raise UserError(f"{model}: not a readable ONNX file ({reason(error)})") from None
    for tensor in tensors(graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise UserError(f"{model}: got weights in another file ({tensor.name[:80]!r}), expected all in this file")


def tensors(message: Message) -> Iterator[TensorProto]:
    """Yield every tensor in ``message``: of the graph, of node attributes, and of nested graphs and functions."""
    import onnx

    if isinstance(message, onnx.TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for inner in (value,) if hasattr(value, "ListFields") else value:  # one message or a list of messages
                yield from tensors(inner)


def _images_below(folder: Path) -> list[Path | Failure]:
    closed: list[Path | Failure] = []  # folders that cannot be listed

    def unlisted(error: OSError) -> None:
        closed.append(Failure(Path(error.filename), f"could not be listed ({error.strerror})"))

    found = [found for path in files_below(folder, unlisted) if (found := _image_in(path, folder))]
    return [*closed, *found] or [Failure(folder, "got no images in this folder, expected at least one")]


def _image_in(path: Path, folder: Path) -> Path | Failure | None:
    """Return the file if it is an image, a failure if it cannot be read, else None."""
    try:
        if path.exists() and not path.is_file():  # a pipe or a link to a folder
            return None
        return path if is_image(Entry(path.relative_to(folder).as_posix(), 0, partial(io.FileIO, path))) else None
    except FileNotFoundError:  # a broken link without an image's suffix
        return None
    except OSError as error:
        return Failure(path, _why(error))


def _read(image: Path, classifier: OnnxClassifier) -> tuple[Path, Images] | Failure:
    try:
        picture = decode(image.read_bytes(), str(image), classifier.sample_range)
    except UserError as error:
        return Failure(image, str(error).removeprefix(f"{image}: "))
    except OSError as error:
        return Failure(image, _why(error))
    return image, fit_to_square(picture, classifier.image_size, classifier.channels, classifier.resize)


def _why(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "not found, expected an image file"
    return f"{error.strerror or error}, expected a readable image file"


def scores_of(classifier: OnnxClassifier, pixels_BHWC: Images) -> list[tuple[Floats, Floats | None]]:
    """Return the probabilities [K] and, if asked for, the embedding [D] of each image that ``fit_to_square`` made.

    Raises:
        UserError: ONNX Runtime cannot run the model, or its output has another shape.
    """
    try:
        found_BK, embeddings_BD = classifier.probabilities_and_embeddings(pixels_BHWC)
    except Exception as error:  # ONNX Runtime's exceptions have no narrower common base
        raise UserError(
            f"{classifier.file}: ONNX Runtime opened the model but cannot run it ({reason(error)})"
        ) from None
    expected = (len(pixels_BHWC), len(classifier.classes))
    if found_BK.shape != expected:
        raise UserError(f"{classifier.file}: got probabilities of shape {found_BK.shape}, expected {expected}")
    none: list[Floats | None] = [None] * len(found_BK)
    return list(zip(found_BK, none if embeddings_BD is None else list(embeddings_BD), strict=True))


def best(probabilities_K: Floats, classes: Sequence[str], top: int) -> list[tuple[str, float]]:
    """Return the ``top`` most probable classes with their probabilities."""
    order = np.argsort(-probabilities_K, kind="stable")[:top]
    return [(classes[index], float(probabilities_K[index])) for index in order]
