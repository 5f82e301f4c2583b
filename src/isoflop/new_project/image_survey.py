"""What a folder or archive of a user's images holds, seen before any stage runs: for ``isoflop init``."""

from __future__ import annotations

import contextlib
import io
import os
import shlex
import statistics
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from isoflop.data.images import FORMATS, UndecodableError, decode
from isoflop.download.archives import Entry, archive_entries, naming_damage
from isoflop.download.image_folders import Place, class_name, folder_entries, is_clutter, is_image, placed_images
from isoflop.runtime.errors import UserError

_MOST_DECODED = 200  # of the images, spread evenly
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_NEARLY_GREY = 8  # of 255: what JPEG may put between the channels of a grey picture


@dataclass(frozen=True)
class _Look:
    """What is to be seen of an image; ``side`` is the shorter one, in pixels."""

    side: int
    is_colour: bool
    is_animated: bool


@dataclass(frozen=True)
class Survey:
    """Split and class of every image that lies in a class folder, and what is to be seen of ``decoded`` of them."""

    places: dict[str, Place]
    decoded: int  # whole images among those that were looked at
    unreadable: dict[str, str]  # name → why not, of those that were looked at
    sides: tuple[int, int, int]  # pixels of the shorter side: least, median, most
    is_colour: bool
    animated: list[str] = field(default_factory=list)  # of those that were looked at
    left_out: dict[str, list[str]] = field(default_factory=dict)  # what is no image of a class → names

    @property
    def nested(self) -> list[str]:
        """Images that lie deeper than in the folder of their class."""
        return [name for name, (_, of) in self.places.items() if class_name(PurePosixPath(name).parent.name) != of]

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
        UserError: nothing there or not to be read, no images, none in class folders, one class only, or none of those
            looked at, or of a class, is whole.
    """
    source = f"--images {str(images)!r}"
    try:
        if not images.exists():
            raise UserError(f"{source}: found nothing there, expected a folder, zip or tar of images")
        with naming_damage(images) if images.is_file() else contextlib.nullcontext():
            return _survey(images, source)
    except PermissionError as error:
        cure = f"`chmod -R u+rX {shlex.quote(str(images))}` allows it"
        raise UserError(f"{source}: {error.filename!r} may not be read; {cure}") from None


def entries(images: Path) -> Iterator[Entry]:
    """The files in a folder or archive."""
    yield from folder_entries(images) if images.is_dir() else archive_entries(images)


def survey_lines(found: Survey) -> Iterator[str]:
    """What was found, a line for each thing to know."""
    sizes = found.class_sizes
    named = ", ".join(f"{name!r} {size}" for name, size in list(sizes.items())[:8]) + (", …" if len(sizes) > 8 else "")
    splits = ", ".join(f"{name} {size}" for name, size in found.splits.items()) or "none, so they are drawn"
    yield f"{len(found.places)} images of {len(sizes)} classes: {named}. Splits: {splits}."
    least, median, most = found.sides
    kind = "in colour" if found.is_colour else "grey"
    yield f"Of {found.decoded} looked at, the shorter side has {least} to {most} pixels, median {median}; {kind}."
    if found.unreadable:
        name, why = next(iter(found.unreadable.items()))
        looked_at = found.decoded + len(found.unreadable)
        yield f"{len(found.unreadable)} of {looked_at} cannot be read and will be dropped, {name!r} first ({why})."
    if found.animated:
        yield f"Animated, or of several pages: {_counted(found.animated)}; the first frame is taken."
    if found.nested:
        yield f"Deeper than in their class folder: {_counted(found.nested)}; they are taken, as of that class."
    if left_out := [f"{what}: {_counted(names)}" for what, names in found.left_out.items() if names]:
        yield f"Left out: {'; '.join(left_out)}."


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} ({names[0]!r}{' first' if len(names) > 1 else ''})"


def _survey(images: Path, source: str) -> Survey:
    pictures, others = _sorted_out(images)
    if not pictures:
        archive = next((f"; unpack the archive in it, {name!r}" for name in others if name.endswith(_ARCHIVES)), "")
        raise UserError(f"{source}: found no images, expected a folder for each class with its images in it{archive}")
    places = placed_images(pictures, source)
    loose = [name for name in pictures if name not in places]
    classes = {name for _, name in places.values()}
    if len(classes) < 2:
        outside = f"; images outside of it: {_counted(loose)}" if loose else ""
        raise UserError(f"{source}: found one class, {classes.pop()!r}, expected a folder for each of several{outside}")
    looks = _looked_at(images, set(list(places)[:: -(-len(places) // _MOST_DECODED)]))
    unreadable = {name: look for name, look in looks.items() if isinstance(look, str)}
    whole = {name: look for name, look in looks.items() if not isinstance(look, str)}
    _check_whole(places, unreadable, bool(whole), source)
    sides = [look.side for look in whole.values()]
    return Survey(
        places,
        len(whole),
        unreadable,
        (min(sides), int(statistics.median(sides)), max(sides)),
        any(look.is_colour for look in whole.values()),
        animated=[name for name, look in whole.items() if look.is_animated],
        left_out={
            "not images": others,
            "outside of class folders": loose,
            "hidden": sorted(_hidden(images)),
        },
    )


def _sorted_out(images: Path) -> tuple[list[str], list[str]]:
    """Names of images, and of files that are none; without what is hidden."""
    found: tuple[list[str], list[str]] = [], []
    for entry in entries(images):
        if not any(map(is_clutter, entry.name.split("/"))):
            found[0 if is_image(entry) else 1].append(entry.name)
    return found


def _hidden(images: Path) -> Iterator[str]:
    """Files and folders that are not looked at, and not what is in such folders."""
    if images.is_file():
        yield from (entry.name for entry in entries(images) if any(map(is_clutter, entry.name.split("/"))))
        return
    for folder, folders, files in os.walk(images):
        yield from (os.path.relpath(Path(folder, name), images) for name in (*folders, *files) if is_clutter(name))
        folders[:] = [name for name in folders if not is_clutter(name)]


def _looked_at(images: Path, chosen: Container[str]) -> dict[str, _Look | str]:
    """Of each image what is to be seen of it, or why it cannot be read."""
    looks: dict[str, _Look | str] = {}
    for entry in entries(images):
        if entry.name in chosen:
            with entry.open() as stream:
                content = stream.read()
            try:
                picture = decode(content, entry.name)
            except UndecodableError as error:
                heic = entry.name.lower().endswith((".heic", ".heif"))
                looks[entry.name] = f"{error.why}: export such photos as JPEG" if heic else error.why
            else:
                looks[entry.name] = _Look(min(picture.size), _is_colour(picture), _is_animated(content))
    return looks


def _check_whole(places: dict[str, Place], unreadable: dict[str, str], some_whole: bool, source: str) -> None:
    if not some_whole:
        name, why = next(iter(unreadable.items()))
        raise UserError(f"{source}: none of {len(unreadable)} images can be read, {name!r} first ({why})")
    left = {name for image, (_, name) in places.items() if image not in unreadable}
    for image, why in unreadable.items():
        if (name := places[image][1]) not in left:
            raise UserError(
                f"{source}: class {name!r}: none of its images can be read, {image!r} first ({why}); mend them, or "
                "remove the folder"
            )


def _is_animated(content: bytes) -> bool:
    """Of a picture that can be decoded: whether more than one is in the file, a camera's preview aside."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        try:
            return picture.format != "MPO" and bool(getattr(picture, "is_animated", False))
        except Exception:  # of a file that is cut off after its first frame, which is all that is taken
            return True


def _is_colour(picture: Image.Image) -> bool:
    return picture.mode == "RGB" and int(np.ptp(np.asarray(picture), axis=2).max()) > _NEARLY_GREY
