"""A user's own images: a folder or an archive with a folder for each class, and train, val and test above if wanted."""

from __future__ import annotations

import io
import os
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from isoflop.download.archives import Entry
from isoflop.download.raw_format import ImagePacker, Manifest, SplitName
from isoflop.runtime.errors import UserError
from isoflop.runtime.progress import tracked

_SPLITS: dict[str, SplitName] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}

# Whoever names a file so means a picture. Those that cannot be decoded are for prepare to report.
_SUFFIXES = (
    "apng arw avif bmp cr2 cr3 dib dng eps gif heic heif ico j2k jfif jp2 jpe jpeg jpg jxl nef orf pbm pcx pgm png "
    "pnm ppm psd raf svg tga tif tiff webp"
)
_MAGICS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "icon\r"})

Place = tuple[SplitName | None, str]  # split, class


def folder_entries(folder: Path) -> Iterator[Entry]:
    """The files below ``folder``, sorted by name; hidden ones are left out.

    Raises:
        UserError: a link to a folder, to nothing, or to a file out of ``folder``.
    """
    root = folder.resolve()
    for path in files_below(folder):
        if path.is_symlink() and not (path.is_file() and path.resolve().is_relative_to(root)):
            raise UserError(
                f"{path}: found a link to {str(path.readlink())!r}, expected a file, or a link to one in {folder}; "
                "remove the link, or put what it names in its place"
            )
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            yield Entry(path.relative_to(folder).as_posix(), status.st_size, partial(io.FileIO, path))


def files_below(folder: Path, unlisted: Callable[[OSError], None] | None = None) -> list[Path]:
    """All below ``folder`` that is no folder (a link to one is none), sorted by name; hidden ones are left out.

    Args:
        unlisted: told of a folder that cannot be listed, in the place of an OSError.
    """
    return sorted(_files(folder, unlisted), key=lambda path: path.relative_to(folder).as_posix())


def pack_images(entries: Callable[[], Iterable[Entry]], source: str, raw: Path) -> Manifest:
    """Pack the images among ``entries`` (asked for twice: to see the layout, then to copy) into the folder ``raw``.

    What counts as an image: a file whose suffix is that of a picture, whatever is in it, and one with another suffix
    or none that begins like a picture. Hidden files, READMEs and other clutter are left out. Images in folders below
    that of a class belong to the class.

    Args:
        source: how to call it in a message.

    Raises:
        UserError: no images, none in class folders, or class folders beside train.
    """
    names = [entry.name for entry in entries() if is_image(entry)]
    places = placed_images(names, source)
    if strays := [name for name in names if name not in places]:
        print(f"{source}: left out {len(strays)} images outside of class folders, {strays[0]!r} first", file=sys.stderr)
    classes = sorted({name for _, name in places.values()})
    labels = {name: label for label, name in enumerate(classes)}
    shown = (entry for entry in entries() if entry.name in places)
    with ImagePacker(raw) as packer:
        for entry in tracked(shown, "packing images", "images", len(places)):
            split, name = places[entry.name]
            with entry.open() as content:
                packer.add(entry.name, labels[name], split, content)
        return Manifest(classes=classes, parts=[packer.finish()])


def _files(folder: Path, unlisted: Callable[[OSError], None] | None) -> Iterator[Path]:
    try:
        paths = list(folder.iterdir())
    except OSError as error:
        if unlisted is None:
            raise
        return unlisted(error)
    for path in paths:
        if not is_clutter(path.name):
            if os.path.isdir(path) and not path.is_symlink():
                yield from _files(path, unlisted)
            else:
                yield path


def is_clutter(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or one that systems put beside pictures."""
    return name.startswith(".") or name.lower() in _CLUTTER


def is_image(entry: Entry) -> bool:
    """Whether an entry counts as an image: by its suffix, or by how it begins."""
    path = PurePosixPath(entry.name)
    if any(is_clutter(part) for part in path.parts):
        return False
    if path.suffix.lower().removeprefix(".") in _SUFFIXES.split():
        return True
    with entry.open() as content:
        start = content.read(16)
    return start.startswith(_MAGICS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP") or start[4:12] == b"ftypavif"


def placed_images(names: list[str], source: str) -> dict[str, Place]:
    """Split and class of each image that lies in a class folder; the others are left out."""
    if not names:
        raise UserError(
            f"{source}: found no images, expected a folder for each class with its images in it; "
            "put them there, or set data.path, or data.url and data.sha256"
        )
    depth = _wrapping_folders(names)
    below = {name: parts for name in names if (parts := name.split("/")[depth:])}
    with_splits = _has_splits(list(below.values()), source)
    places: dict[str, Place] = {}
    for name, (top, *rest) in below.items():
        if with_splits and len(rest) > 1:
            places[name] = _SPLITS[top.lower()], class_name(rest[0])
        elif not with_splits and rest:
            places[name] = None, class_name(top)
    if not places:
        where = "in train, val and test" if with_splits else "in it"
        raise UserError(f"{source}: found {len(names)} images but no folders {where}, expected one for each class")
    return places


def _wrapping_folders(names: list[str]) -> int:
    """How many folders lie around all class and split folders: archives often have one of their own name."""
    depth = 0
    while True:
        deep = [parts for parts in (name.split("/")[depth:] for name in names) if len(parts) > 1]
        tops = {parts[0] for parts in deep}
        if len(tops) != 1 or tops.pop().lower() in _SPLITS or all(len(parts) == 2 for parts in deep):
            return depth
        depth += 1


def _has_splits(paths: list[list[str]], source: str) -> bool:
    """Whether the top folders are train, val and test. A class may have such a name: a train, say, beside a bus."""
    tops = {parts[0] for parts in paths if len(parts) > 1}
    named = {top for top in tops if top.lower() in _SPLITS}
    if not named or named == tops:
        return bool(named)
    if any(parts[0] in named and len(parts) == 2 for parts in paths):
        return False
    raise UserError(
        f"{source}: found {', '.join(map(repr, sorted(tops)[:9]))}, "
        "expected class folders alone, or train, val and test alone with the class folders in them"
    )


def class_name(folder: str) -> str:
    """The folder's name in one spelling of accents (macOS decomposes them), with bytes that are no text escaped."""
    text = folder.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return unicodedata.normalize("NFC", text)
