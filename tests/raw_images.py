"""Raw images in memory, and what `prepare` makes of them."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from isoflop.data.arrays import Split, read_split
from isoflop.data.cleaning import Prepare
from isoflop.data.preparation import prepare
from isoflop.data.readers import RawDataset, RawImage

Pixels = npt.NDArray[np.uint8]


@dataclass
class Source:
    """A raw data set held in memory."""

    classes: list[str]
    images: list[RawImage]
    can_grow: bool = False

    def __iter__(self) -> Iterator[RawImage]:
        return iter(self.images)


@dataclass
class Prepared:
    train: Split
    val: Split
    test: Split
    dropped: dict[str, tuple[str, str]]  # name → reason, detail
    facts: dict[str, Any]


def params(**changes: Any) -> Prepare:
    drop = {
        "undecodable": True,
        "blank": True,
        "exact_duplicates": True,
        "leaks": True,
        "conflicting_labels": True,
        "near_duplicate_distance": None,
    }
    values = {
        "image_size": 16,
        "channels": 3,
        "resize": "crop",
        "sample_range": None,
        "normalization": "standard",
        "val_fraction": 0.25,
        "test_fraction": 0.2,
        "min_images_per_class": 5,
        "seed": 0,
        "drop": drop | {name: changes.pop(name) for name in list(changes) if name in drop},
    }
    return Prepare.model_validate(values | changes)


def prepared(
    folder: Path,
    images: list[RawImage],
    classes: tuple[str, ...] = ("cat", "dog"),
    *,
    can_grow: bool = False,
    **changes: Any,
) -> Prepared:
    folders = {name: folder / name for name in ("train", "val", "test")}
    source = cast(RawDataset, Source(list(classes), images, can_grow))
    tables = folder / "names.csv", folder / "dropped.csv", folder / "dropped.svg"
    facts = prepare(source, params(**changes), folders, *tables)
    with (folder / "dropped.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert all(list(row) == ["name", "reason", "detail"] for row in rows)
    written = sorted(path.name for path in folder.iterdir())
    assert written == ["dropped.csv", "dropped.svg", "names.csv", "test", "train", "val"]
    json.dumps(facts)
    splits = {name: read_split(path) for name, path in folders.items()}
    return Prepared(**splits, dropped={row["name"]: (row["reason"], row["detail"]) for row in rows}, facts=facts)


def picture(number: int, side: int = 24) -> Pixels:
    """A picture of smooth blobs, unlike that of any other number."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3)).astype(np.uint8))
    return np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC))


def png(pixels: Pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def plain(count: int = 40, split: str | None = None, first: int = 0) -> list[RawImage]:
    """``count`` images without a fault, cats and dogs in turns."""
    return [
        RawImage(f"{split or 'all'}/{number}.png", number % 2, split, png(picture(number)))
        for number in range(first, first + count)
    ]
