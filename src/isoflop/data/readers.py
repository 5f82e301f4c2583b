"""Read the raw data set that ``download`` wrote, image by image, in constant memory.

Image files are yielded encoded; ``images.decode`` decodes them. The format is defined in ``download.raw_format``.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import numpy as np
import numpy.typing as npt

from isoflop.download.raw_format import CifarPart, IdxPart, Manifest, PackedPart, read_manifest
from isoflop.runtime.errors import UserError

_CIFAR_PIXELS = (3, 32, 32)  # planes, rows, columns
_READ_BATCH = 256  # images
_IDX_BYTES = 0x08  # the type code of unsigned bytes


@dataclass(frozen=True)
class RawImage:
    """An image as stored by its source; ``split`` is the source's own split, if it has one."""

    name: str
    label: int
    split: str | None
    content: bytes | npt.NDArray[np.uint8]  # an encoded file, or pixels [H, W] or [H, W, 3]


@dataclass(frozen=True)
class RawDataset:
    """The images of a raw data set. Iterating reads them from disk, always in the same order."""

    folder: Path
    manifest: Manifest

    @property
    def classes(self) -> list[str]:
        return self.manifest.classes

    @property
    def can_grow(self) -> bool:
        """Whether these are a user's image files, to which others may be added; a published data set never changes."""
        return any(isinstance(part, PackedPart) for part in self.manifest.parts)

    def __len__(self) -> int:
        return sum(part.images for part in self.manifest.parts)

    def __iter__(self) -> Iterator[RawImage]:
        """Yield every image.

        Raises:
            UserError: a file is missing or damaged.
        """
        read: Counter[str | None] = Counter()  # images per split so far: the index in a name runs across its files
        for part in self.manifest.parts:
            try:
                if isinstance(part, PackedPart):
                    yield from _read_packed(self.folder, part)
                else:
                    records = _cifar_records if isinstance(part, CifarPart) else _idx_records
                    for label, pixels in records(self.folder, part):
                        name = f"{part.split or 'all'}/{read[part.split]}"
                        read[part.split] += 1
                        yield RawImage(name, self._checked(label), part.split, pixels)
            except (OSError, EOFError, ValueError, KeyError, zlib.error) as error:
                raise UserError(
                    f"{self.folder}: not a readable raw data set ({error}); fix: `dvc checkout` restores it"
                ) from None

    def _checked(self, label: int) -> int:
        if label >= len(self.classes):
            raise ValueError(f"label: got {label}, expected less than {len(self.classes)}")
        return label


def read_raw(folder: Path) -> RawDataset:
    """Open the raw data set that ``download`` wrote.

    Raises:
        UserError: ``folder`` is not a raw data set.
    """
    return RawDataset(folder, read_manifest(folder))


def _cifar_records(folder: Path, part: CifarPart | IdxPart) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    assert isinstance(part, CifarPart)
    record_bytes = part.label_bytes + int(np.prod(_CIFAR_PIXELS))
    with (folder / part.file).open("rb") as file:
        for count in _batches(part.images):
            records = _read(file, part.file, count * record_bytes).reshape(count, record_bytes)
            planes_BCHW = records[:, part.label_bytes :].reshape(count, *_CIFAR_PIXELS)
            yield from zip(records[:, part.label_bytes - 1].tolist(), planes_BCHW.transpose(0, 2, 3, 1), strict=True)


def _idx_records(folder: Path, part: CifarPart | IdxPart) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    assert isinstance(part, IdxPart)
    with ExitStack() as stack:
        images = stack.enter_context(_open(folder / part.images_file))
        labels = stack.enter_context(_open(folder / part.labels_file))
        _, height, width = _idx_header(images, part.images_file, part.images, 3)
        _idx_header(labels, part.labels_file, part.images, 1)
        for count in _batches(part.images):
            pixels_BHW = _read(images, part.images_file, count * height * width).reshape(count, height, width)
            yield from zip(_read(labels, part.labels_file, count).tolist(), pixels_BHW, strict=True)


def _idx_header(file: IO[bytes], name: str, images: int, axes: int) -> list[int]:
    """Read the shape from the header of an IDX file, the format of MNIST."""
    magic = _read(file, name, 4).tolist()
    shape = [int(size) for size in _read(file, name, 4 * axes).view(">u4")]
    if magic != [0, 0, _IDX_BYTES, axes] or shape[0] != images:
        raise ValueError(f"{name}: got magic {magic} and shape {shape}, expected {axes} axes and {images} images")
    return shape


def _read_packed(folder: Path, part: PackedPart) -> Iterator[RawImage]:
    with (folder / part.file).open("rb") as images, (folder / part.index).open(encoding="ascii") as index:
        for line in index:
            row = json.loads(line)
            images.seek(row["offset"])
            content = _read(images, part.file, row["size"]).tobytes()
            yield RawImage(row["name"], row["label"], row["split"], content)


def _open(file: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(file)) if file.suffix == ".gz" else file.open("rb")


def _read(file: IO[bytes], name: str, size: int) -> npt.NDArray[np.uint8]:
    content = file.read(size)
    if len(content) != size:
        raise ValueError(f"{name} is truncated")
    return np.frombuffer(content, np.uint8)


def _batches(images: int) -> Iterator[int]:
    """Yield the sizes of the batches that ``images`` images are read in."""
    for start in range(0, images, _READ_BATCH):
        yield min(_READ_BATCH, images - start)
