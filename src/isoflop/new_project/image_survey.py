"""Survey a folder or archive of images for ``isoflop init``: classes, splits, sizes, colors, unreadable files."""

from __future__ import annotations

import contextlib
import math
import os
import shlex
import statistics
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from isoflop.data.eight_bit import is_deep, sample_extent, white_level
from isoflop.data.images import UndecodableError, decode, opened
from isoflop.download.archives import Entry, archive_entries, naming_damage
from isoflop.download.image_folders import (
    Place,
    check_names,
    class_name,
    folder_entries,
    is_clutter,
    is_image,
    placed_images,
)
from isoflop.runtime.errors import UserError

_MOST_DECODED = 200  # images, spread evenly
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
_ENOUGH_LEVELS = 128  # of the 256 gray levels; deep samples that use fewer are scaled to their own range
_FEW_LEVELS = 32
_MARGIN = 0.05  # of the range of the sampled images, on both sides, for the other images
_NEARLY_GRAY = 8  # of 255: the difference between channels that JPEG may cause in a grayscale image


@dataclass(frozen=True)
class _Properties:
    """Properties of a decoded image.

    Attributes:
        side: length of the shorter side in pixels.
        deep: smallest and largest sample, and white level (None: unknown), of an image of more than 8 bits.
        levels: smallest and largest value of the decoded image, of 255.
    """

    side: int
    is_colour: bool
    is_animated: bool
    deep: tuple[float, float, float | None] | None
    levels: tuple[int, int]


@dataclass(frozen=True)
class DeepSamples:
    """What the sampled images of more than 8 bits contain: their smallest and largest sample.

    ``levels`` is how many of the 256 gray levels would be left if they were scaled to a white level; 0: it is unknown.
    """

    images: int
    low: float
    high: float
    levels: int

    @property
    def scale(self) -> list[float] | None:
        """The samples that should become black and white; None: the white level suits."""
        if self.levels >= _ENOUGH_LEVELS or self.low == self.high:
            return None
        margin = _MARGIN * (self.high - self.low)
        low, high = self.low - margin, self.high + margin
        low = max(low, 0.0) if self.low >= 0 else low
        if self.high - self.low < 100:  # such as degrees
            return [float(f"{low:.4g}"), float(f"{high:.4g}")]
        return [float(math.floor(low)), float(math.ceil(high))]


@dataclass(frozen=True)
class Survey:
    """Split and class of every image in a class folder, and properties of a sample of them."""

    places: dict[str, Place]
    decoded: int  # images of the sample that could be decoded
    unreadable: dict[str, str]  # name → reason, for images of the sample that could not be decoded
    sides: tuple[int, int, int]  # shorter side in pixels: minimum, median, maximum
    is_colour: bool
    deep: DeepSamples | None = None
    levels: tuple[int, int] = (0, 255)  # smallest and largest value of the decoded sample
    animated: list[str] = field(default_factory=list)  # images of the sample with several frames or pages
    left_out: dict[str, list[str]] = field(default_factory=dict)  # why a file is not used → names

    @property
    def nested(self) -> list[str]:
        """Images in subfolders of their class folder."""
        return [name for name, (_, of) in self.places.items() if class_name(PurePosixPath(name).parent.name) != of]

    @property
    def classes(self) -> list[str]:
        return sorted({name for _, name in self.places.values()})

    @property
    def splits(self) -> dict[str, int]:
        """Number of images in each split that the folders name."""
        counts = Counter(split for split, _ in self.places.values() if split)
        return {split: counts[split] for split in ("train", "val", "test") if counts[split]}

    @property
    def class_sizes(self) -> dict[str, int]:
        return dict(sorted(Counter(name for _, name in self.places.values()).items()))


def survey(images: Path) -> Survey:
    """Survey ``images``: list all names, and decode a sample of up to 200 images.

    Raises:
        UserError: ``images`` does not exist or cannot be read; has no images, none in class folders, or only one class;
            or no image of the sample, or of a class, can be decoded.
    """
    source = f"--images {str(images)!r}"
    try:
        if not images.exists():
            raise UserError(f"{source}: got a path that does not exist, expected a folder, zip or tar of images")
        if images.is_dir():
            check_names(images, source)
        with naming_damage(images) if images.is_file() else contextlib.nullcontext():
            return _survey(images, source)
    except PermissionError as error:
        cure = f"`chmod -R u+rX {shlex.quote(str(images))}`"
        raise UserError(f"{source}: got no permission to read {error.filename!r}; fix: {cure}") from None


def entries(images: Path) -> Iterator[Entry]:
    """Yield the files in a folder or archive."""
    yield from folder_entries(images) if images.is_dir() else archive_entries(images)


def survey_lines(found: Survey) -> Iterator[str]:
    """Yield the findings as sentences, one line each."""
    sizes = found.class_sizes
    named = ", ".join(f"{name!r} {size}" for name, size in list(sizes.items())[:8]) + (", …" if len(sizes) > 8 else "")
    splits = ", ".join(f"{name} {size}" for name, size in found.splits.items())
    drawn = f"Splits: {splits}." if splits else "No splits, so train, val and test are drawn at random."
    yield f"Found {len(found.places)} images in {len(sizes)} classes: {named}. {drawn}"
    least, median, most = found.sides
    kind = "color" if found.is_colour else "grayscale"
    yield f"Decoded {found.decoded} of them: {kind}; the shorter side is {least} to {most} pixels, median {median}."
    if found.deep:
        yield (
            f"{found.deep.images} of them have 16-bit, 32-bit or float samples, from {found.deep.low:g} to "
            f"{found.deep.high:g}."
        )
    dark, bright = found.levels
    if bright - dark < _FEW_LEVELS and not (found.deep and found.deep.scale):
        yield (
            f"Low contrast: the images use only the levels {dark} to {bright} of 0 to 255; if their files have 16 bits "
            "per channel, scale the samples to 8 bits first."
        )
    if found.unreadable:
        sample = found.decoded + len(found.unreadable)
        name, why = next(iter(found.unreadable.items()))
        count = f"{len(found.unreadable)} of {sample} sampled images"
        yield f"{count} cannot be read and will be dropped, for example {name!r} ({why})."
    if found.animated:
        yield f"Images with several frames or pages: {_counted(found.animated)}; only the first frame is used."
    if found.nested:
        yield f"Images in subfolders of a class folder: {_counted(found.nested)}; they count as that class."
    if left_out := [f"{what}: {_counted(names)}" for what, names in found.left_out.items() if names]:
        yield f"Ignored files: {'; '.join(left_out)}."


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} ({'for example ' if len(names) > 1 else ''}{names[0]!r})"


def _survey(images: Path, source: str) -> Survey:
    pictures, others = _sorted_out(images)
    if not pictures:
        archive = next((f"; fix: unpack the archive {name!r} in it" for name in others if name.endswith(_ARCHIVES)), "")
        raise UserError(f"{source}: got no images, expected one folder of images for each class{archive}")
    places = placed_images(pictures, source)
    loose = [name for name in pictures if name not in places]
    classes = {name for _, name in places.values()}
    if len(classes) < 2:
        outside = f"; images outside of it: {_counted(loose)}" if loose else ""
        raise UserError(f"{source}: got one class, {classes.pop()!r}, expected folders for at least two{outside}")
    sample = _decoded(images, set(list(places)[:: -(-len(places) // _MOST_DECODED)]))
    unreadable = {name: image for name, image in sample.items() if isinstance(image, str)}
    readable = {name: image for name, image in sample.items() if not isinstance(image, str)}
    _check_readable(places, unreadable, bool(readable), source)
    sides = [image.side for image in readable.values()]
    return Survey(
        places,
        len(readable),
        unreadable,
        (min(sides), int(statistics.median(sides)), max(sides)),
        any(image.is_colour for image in readable.values()),
        deep=_deep_samples(list(readable.values())),
        levels=(
            min(image.levels[0] for image in readable.values()),
            max(image.levels[1] for image in readable.values()),
        ),
        animated=[name for name, image in readable.items() if image.is_animated],
        left_out={
            "not images": others,
            "outside of class folders": loose,
            "hidden": sorted(_hidden(images)),
        },
    )


def _sorted_out(images: Path) -> tuple[list[str], list[str]]:
    """Return the names of images and of other files, both without hidden ones."""
    found: tuple[list[str], list[str]] = [], []
    for entry in entries(images):
        if not any(map(is_clutter, entry.name.split("/"))):
            found[0 if is_image(entry) else 1].append(entry.name)
    return found


def _hidden(images: Path) -> Iterator[str]:
    """Yield hidden files and folders, without the content of hidden folders."""
    if images.is_file():
        yield from (entry.name for entry in entries(images) if any(map(is_clutter, entry.name.split("/"))))
        return
    for folder, folders, files in os.walk(images):
        yield from (os.path.relpath(Path(folder, name), images) for name in (*folders, *files) if is_clutter(name))
        folders[:] = [name for name in folders if not is_clutter(name)]


def _decoded(images: Path, chosen: Container[str]) -> dict[str, _Properties | str]:
    """Decode the images with names in ``chosen``: return the properties of each, or why it cannot be decoded."""
    decoded: dict[str, _Properties | str] = {}
    for entry in entries(images):
        if entry.name in chosen:
            with entry.open() as stream:
                content = stream.read()
            try:
                picture = decode(content, entry.name)
            except UndecodableError as error:
                decoded[entry.name] = error.why
            else:
                decoded[entry.name] = _properties(picture, content)
    return decoded


def _check_readable(places: dict[str, Place], unreadable: dict[str, str], some_readable: bool, source: str) -> None:
    if not some_readable:
        name, why = next(iter(unreadable.items()))
        raise UserError(f"{source}: none of {len(unreadable)} sampled images can be read, for example {name!r} ({why})")
    left = {name for image, (_, name) in places.items() if image not in unreadable}
    for image, why in unreadable.items():
        if (name := places[image][1]) not in left:
            raise UserError(
                f"{source}: class {name!r}: none of its images can be read, for example {image!r} ({why}); "
                "fix: replace them, or remove the folder"
            )


def _properties(picture: Image.Image, content: bytes) -> _Properties:
    pixels = np.asarray(picture)
    is_animated, deep = False, None
    with contextlib.suppress(Exception), opened(content) as file:  # its metadata may be broken
        is_animated = _is_animated(file)
        deep = _deep(file)
    levels = int(pixels.min()), int(pixels.max())
    return _Properties(min(picture.size), _is_colour(picture), is_animated, deep, levels)


def _deep(file: Image.Image) -> tuple[float, float, float | None] | None:
    if not is_deep(file):
        return None
    low, high = sample_extent(file)
    return low, high, white_level(file, low, high)


def _deep_samples(images: Sequence[_Properties]) -> DeepSamples | None:
    deep = [image.deep for image in images if image.deep]
    if not deep:
        return None
    low, high = min(low for low, _, _ in deep), max(high for _, high, _ in deep)
    whites = {white for _, _, white in deep}
    (white,) = whites if len(whites) == 1 else (None,)  # each image would be scaled in its own way
    return DeepSamples(len(deep), low, high, 0 if white is None else math.ceil(256 * (high - low) / white))


def _levels(images: Sequence[_Properties]) -> tuple[int, int]:
    return min(image.levels[0] for image in images), max(image.levels[1] for image in images)


def _is_animated(picture: Image.Image) -> bool:
    """Return whether a decodable file has more than one image, apart from a camera's preview."""
    try:
        return picture.format != "MPO" and bool(getattr(picture, "is_animated", False))
    except Exception:  # a file truncated after its first frame, the only one that is used
        return True


def _is_colour(picture: Image.Image) -> bool:
    return picture.mode == "RGB" and int(np.ptp(np.asarray(picture), axis=2).max()) > _NEARLY_GRAY
