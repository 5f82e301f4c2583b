"""What a folder or archive of a user's images holds, seen before any stage runs: for ``isoflop init``."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from isoflop.archives import Entry, archive_entries, naming_damage
from isoflop.errors import UserError
from isoflop.image_folders import Place, folder_entries, is_image, placed_images
from isoflop.images import UndecodableError, decode

_MOST_DECODED = 200  # of the images, spread evenly
_NEARLY_GREY = 8  # of 255: what JPEG may put between the channels of a grey picture


@dataclass(frozen=True)
class Survey:
    """Split and class of every image that lies in a class folder, and what is to be seen of ``decoded`` of them."""

    places: dict[str, Place]
    decoded: int  # whole images among those that were looked at
    unreadable: dict[str, str]  # name → why not, of those that were looked at
    sides: tuple[int, int, int]  # pixels of the shorter side: least, median, most
    is_colour: bool

    @property
    def classes(self) -> list[str]:
        return sorted({name for _, name in self.places.values()})

    @property
    def splits(self) -> dict[str, int]:
        """Images of each split that the folders name."""
        counts = Counter(split for split, _ in self.places.values() if split)
        return {split: counts[split] for split in ("train", "val", "test") if counts[split]}

    @property
    def class_sizes(self) -> dict[str, int]:
        return dict(sorted(Counter(name for _, name in self.places.values()).items()))


def survey(images: Path) -> Survey:
    """Look at ``images``: the names of all, and the pixels of up to 200 of them.

    Raises:
        UserError: nothing there, no images, none in class folders, one class only, or none of those looked at is whole.
    """
    if not images.exists():
        raise UserError(f"--images: found nothing at {images}, expected a folder, zip or tar of images")
    if images.is_dir():
        return _survey(images)
    with naming_damage(images):
        return _survey(images)


def entries(images: Path) -> Iterator[Entry]:
    """The files in a folder or archive."""
    yield from folder_entries(images) if images.is_dir() else archive_entries(images)


def _survey(images: Path) -> Survey:
    places = placed_images([entry.name for entry in entries(images) if is_image(entry)], f"--images {images}")
    classes = {name for _, name in places.values()}
    if len(classes) < 2:
        raise UserError(f"--images {images}: found one class ({classes.pop()}), expected at least two")
    step = -(-len(places) // _MOST_DECODED)
    chosen = set(list(places)[::step])
    unreadable: dict[str, str] = {}
    sides, is_colour = [], False
    for entry in entries(images):
        if entry.name in chosen:
            try:
                with entry.open() as content:
                    picture = decode(content.read(), entry.name)
            except UndecodableError as error:
                unreadable[entry.name] = error.why
                continue
            sides.append(min(picture.size))
            is_colour = is_colour or _is_colour(picture)
    if not sides:
        name, why = next(iter(unreadable.items()))
        raise UserError(f"--images {images}: none of {len(chosen)} images can be read, {name!r} first ({why})")
    return Survey(places, len(sides), unreadable, (min(sides), int(statistics.median(sides)), max(sides)), is_colour)


def _is_colour(picture: Image.Image) -> bool:
    return picture.mode == "RGB" and int(np.ptp(np.asarray(picture), axis=2).max()) > _NEARLY_GREY
