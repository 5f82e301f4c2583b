"""The prepared format: a split is a folder of uint8 images (memory-mapped), labels, and an input spec.

Nothing here decodes image files: ``images`` does. Raw data sets are read by ``readers``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json

Images = npt.NDArray[np.uint8]  # N, H, W, C
Labels = npt.NDArray[np.int64]  # N
Resize = Literal["crop", "pad", "stretch"]  # how an image of any size becomes a square

_IMAGES, _LABELS, _INPUT_SPEC, _VIEWS = "images.npy", "labels.npy", "split.json", "views.npy"


@dataclass(frozen=True)
class InputSpec:
    """How pixels become a network's input: pixel p of channel c enters it as (p / 255 - mean[c]) / std[c].

    ``sample_range``: the 16-bit, 32-bit or float samples that become pixels 0 and 255; None: by ``eight_bit``'s rule.
    """

    classes: list[str]
    mean: list[float]
    std: list[float]
    resize: Resize
    sample_range: list[float] | None = None


@dataclass(frozen=True)
class Split:
    """Labeled images of one split; ``images`` is a read-only memory map."""

    images: Images
    labels: Labels
    input_spec: InputSpec

    @property
    def image_size(self) -> int:
        """Height and width in pixels; images are square."""
        return int(self.images.shape[1])

    @property
    def channels(self) -> int:
        return int(self.images.shape[3])

    @property
    def num_classes(self) -> int:
        return len(self.input_spec.classes)

    def __len__(self) -> int:
        return len(self.labels)


def read_split(folder: Path) -> Split:
    """Open a split that ``SplitWriter`` wrote.

    Raises:
        UserError: a file is missing or truncated.
    """
    try:
        input_spec = InputSpec(**json.loads((folder / _INPUT_SPEC).read_text()))
        images = np.load(folder / _IMAGES, mmap_mode="r", allow_pickle=False)
        labels = np.load(folder / _LABELS, allow_pickle=False)
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{folder}: not a readable split ({error}); fix: `dvc checkout` restores it") from None
    if images.ndim != 4 or images.dtype != np.uint8 or len(images) != len(labels):
        raise UserError(
            f"{folder}: got images {images.dtype}{list(images.shape)} and {len(labels)} labels, "
            "expected uint8[N, H, W, C] and N labels"
        )
    return Split(images, labels, input_spec)


@dataclass(frozen=True)
class TrainingData:
    """The input of every training: the training split, its augmented views, and the validation split."""

    train: Split
    views: Images  # uint8 [K, N, H, W, C]: K views of each of the N training images; K may be 0
    val: Split


def read_training_data(train: Path, views: Path, val: Path) -> TrainingData:
    """Open the training split, its augmented views, and the validation split.

    Raises:
        UserError: a folder was not written by ``prepare`` or ``augment``, or is incomplete.
    """
    return TrainingData(read_split(train), read_views(views), read_split(val))


class SplitWriter:
    """Write a split batch by batch, in constant memory. A context manager that closes the file of images."""

    def __init__(self, folder: Path, image_shape: tuple[int, int, int]) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._image_shape = image_shape
        self._labels: list[Labels] = []
        self._file = (folder / _IMAGES).open("wb")
        self._write_header(0)

    def append(self, images: Images, labels: Labels) -> None:
        """Append images uint8 [B, H, W, C] and labels int64 [B]."""
        if images.shape[1:] != self._image_shape or images.dtype != np.uint8 or len(images) != len(labels):
            raise ValueError(f"images {images.dtype}{images.shape} do not fit uint8[B, {self._image_shape}]")
        self._file.write(np.ascontiguousarray(images).tobytes())
        self._labels.append(labels.astype(np.int64))

    def finish(self, input_spec: InputSpec) -> None:
        """Write the labels, the input spec, and the number of images into the header of ``images.npy``."""
        labels = np.concatenate(self._labels) if self._labels else np.zeros(0, np.int64)
        self._file.seek(0)
        self._write_header(len(labels))
        self._file.close()
        np.save(self._folder / _LABELS, labels)
        write_json(self._folder / _INPUT_SPEC, asdict(input_spec))

    def _write_header(self, count: int) -> None:
        # numpy pads the header to a multiple of 64 bytes, which leaves room for a longer first axis
        header = {"descr": "|u1", "fortran_order": False, "shape": (count, *self._image_shape)}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def write_views(folder: Path, shape: tuple[int, int, int, int, int]) -> npt.NDArray[np.uint8]:
    """Create ``folder`` and return a writable memory map uint8 [K, N, H, W, C] for K augmented views of N images."""
    folder.mkdir(parents=True)
    if 0 in shape:  # a memory map cannot be empty
        np.save(folder / _VIEWS, np.zeros(shape, np.uint8))
        return np.zeros(shape, np.uint8)
    return np.lib.format.open_memmap(folder / _VIEWS, mode="w+", dtype=np.uint8, shape=shape)


def read_views(folder: Path) -> npt.NDArray[np.uint8]:
    """Open the augmented views uint8 [K, N, H, W, C] of a training split; K is 0 if there are none.

    Raises:
        UserError: the file is missing or truncated.
    """
    try:
        views: npt.NDArray[np.uint8] = np.load(folder / _VIEWS, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: not readable views ({error}); fix: `dvc checkout` restores them") from None
    return views
