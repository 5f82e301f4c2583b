"""The raw format that ``download`` writes: a folder with ``dataset.json`` and a few large files. Defines and writes it.

``data.readers`` reads it; nothing is decoded here. Published data sets keep their original files. A user's images,
possibly a million, are concatenated in ``images.bin``, with one line per image in ``index.jsonl``: a tree of small
files makes DVC 12 times slower than a single file on run and 26 times slower on pull.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import TracebackType
from typing import IO, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json

_MANIFEST = "dataset.json"
_COPY_BYTES = 1 << 20

SplitName = Literal["train", "val", "test"]


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class CifarPart(_Part):
    """Records of ``label_bytes`` label bytes (the last one is the class) and 3 planes of 32x32 pixels."""

    format: Literal["cifar"] = "cifar"
    split: SplitName | None
    images: int
    file: str
    label_bytes: int


class IdxPart(_Part):
    """Two IDX files: grayscale images uint8 [N, H, W] and labels uint8 [N]; gzipped if the name ends in .gz."""

    format: Literal["idx"] = "idx"
    split: SplitName | None
    images: int
    images_file: str
    labels_file: str


class PackedPart(_Part):
    """Image files concatenated in ``file``, with one line (a ``PackedImage``) per image in ``index``."""

    format: Literal["packed"] = "packed"
    images: int
    file: str
    index: str


class PackedImage(_Part):
    """A line of the index. Invalid UTF-8 bytes of a name are lone surrogates, as ``os.fsdecode`` returns them."""

    name: str
    label: int
    split: SplitName | None
    offset: int
    size: int


class Manifest(_Part):
    """The content of ``dataset.json``: a label is an index into ``classes``; images are in the order of ``parts``."""

    classes: list[str]
    parts: list[Annotated[CifarPart | IdxPart | PackedPart, Field(discriminator="format")]]


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_json(folder / _MANIFEST, manifest.model_dump())


def read_manifest(folder: Path) -> Manifest:
    """Read what ``write_manifest`` wrote.

    Raises:
        UserError: the file is missing or invalid.
    """
    try:
        return Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(f"{folder}: not a raw data set ({error}); fix: `dvc checkout` restores it") from None


class ImagePacker:
    """Pack image files into ``folder``. A context manager; the part is complete after ``finish``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._rows: list[tuple[str, int, SplitName | None, int, int]] = []
        self._file = (folder / "images.bin").open("wb")

    def add(self, name: str, label: int, split: SplitName | None, content: IO[bytes]) -> None:
        offset = self._file.tell()
        shutil.copyfileobj(content, self._file, _COPY_BYTES)
        self._rows.append((name, label, split, offset, self._file.tell() - offset))

    def finish(self) -> PackedPart:
        """Write the index, sorted by name, so that it does not depend on the order in which images were added."""
        self._file.close()
        with (self._folder / "index.jsonl").open("w", encoding="ascii") as index:
            for row in sorted(self._rows, key=lambda row: row[0]):
                index.write(json.dumps(dict(zip(PackedImage.model_fields, row, strict=True))) + "\n")
        return PackedPart(images=len(self._rows), file="images.bin", index="index.jsonl")

    def __enter__(self) -> ImagePacker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
