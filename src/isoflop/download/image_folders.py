"""Find a user's images by file name: a folder or archive with one folder per class, optionally below train, val, test.

This reads names and copies bytes into the raw data set. Decoding to pixels is in ``isoflop.data.images``.
"""

from __future__ import annotations

import io
import os
import re
import shlex
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
# Words that names of split folders have in addition: training_set, seg_test, "Train Images", valset.
_BESIDES = ("set", "data", "dataset", "images", "image", "imgs", "img", "photos", "pictures", "seg", "split", "folder")

# A file with such a suffix is meant as an image. prepare reports those that it cannot decode.
_SUFFIXES = (
    "apng arw avif bmp cr2 cr3 dib dng eps gif heic heif ico j2k jfif jp2 jpe jpeg jpg jxl nef orf pbm pcx pgm png "
    "pnm ppm psd raf svg tga tif tiff webp"
)
_MAGICS = (b"\x89PNG\r\n", b"\xff\xd8\xff", b"GIF8", b"II*\0", b"MM\0*", b"\0\0\0\x0cjP  ")
_DIRECTIONS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
_CLUTTER = frozenset({"thumbs.db", "desktop.ini", "__macosx", "icon\r"})

Place = tuple[SplitName | None, str]  # split and class of an image, as its path states them


def folder_entries(folder: Path, *, follows_links: bool = False) -> Iterator[Entry]:
    """Yield the files below ``folder``, sorted by name, without hidden ones.

    Links into the cache of the DVC repository that ``folder`` is in count as files: DVC checks large data out so.

    Args:
        follows_links: take links to files anywhere, as in a sample of links, which is read here and now only.

    Raises:
        UserError: a link to a folder, to nothing, or to a file outside of ``folder`` and of that cache.
    """
    allowed = [Path(folder.resolve().anchor if follows_links else folder.resolve())]
    for path in files_below(folder):
        if path.is_symlink() and not _is_inside(path, allowed):
            allowed += _cache(folder) if len(allowed) == 1 else []
            if not _is_inside(path, allowed):
                raise UserError(
                    f"{path}: got a link to {str(path.readlink())!r}, expected a file or a link to a file in {folder}; "
                    "fix: remove the link, or replace it with its target"
                )
        status = path.stat()
        if stat.S_ISREG(status.st_mode):
            yield Entry(path.relative_to(folder).as_posix(), status.st_size, partial(io.FileIO, path))


def _is_inside(link: Path, folders: Iterable[Path]) -> bool:
    target = link.resolve()
    return target.is_file() and any(target.is_relative_to(folder) for folder in folders)


def _cache(folder: Path) -> list[Path]:
    """Return the folder of cached files of the DVC repository that ``folder`` is in, if there is one."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(Repo.find_root(str(folder))) as repo:
            return [Path(repo.cache.local.path).resolve()]
    except DvcException:
        return []


def files_below(folder: Path, unlisted: Callable[[OSError], None] | None = None) -> list[Path]:
    """Return everything below ``folder`` that is not a folder, sorted by name, without hidden files.

    A link to a folder is returned, not followed.

    Args:
        unlisted: called with the OSError of a folder that cannot be listed; without it, the error is raised.
    """
    return sorted(_files(folder, unlisted), key=lambda path: path.relative_to(folder).as_posix())


def pack_images(entries: Callable[[], Iterable[Entry]], source: str, raw: Path) -> Manifest:
    """Pack the images among ``entries`` into the folder ``raw``.

    A file counts as an image if its suffix is one of an image format, whatever its content, or if its content starts
    like an image. Hidden files, READMEs and other clutter are skipped. Images in subfolders of a class folder belong
    to that class.

    Args:
        entries: called twice: to learn the layout, then to copy.
        source: the name of the source in messages.

    Raises:
        UserError: no images, none in class folders, or class folders next to train, val and test.
    """
    names = [entry.name for entry in entries() if is_image(entry)]
    places = placed_images(names, source)
    if strays := [name for name in names if name not in places]:
        print(f"{source}: skipped {len(strays)} images outside of class folders, first {strays[0]!r}", file=sys.stderr)
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
    """Return whether a file or folder of this name is hidden, or one that operating systems add (such as Thumbs.db)."""
    return name.startswith(".") or name.lower() in _CLUTTER


def is_image(entry: Entry) -> bool:
    """Return whether an entry counts as an image, by its suffix or by its first bytes."""
    path = PurePosixPath(entry.name)
    if any(is_clutter(part) for part in path.parts):
        return False
    if path.suffix.lower().removeprefix(".") in _SUFFIXES.split():
        return True
    with entry.open() as content:
        start = content.read(16)
    return start.startswith(_MAGICS) or (start[:4] == b"RIFF" and start[8:12] == b"WEBP") or start[4:12] == b"ftypavif"


def placed_images(names: list[str], source: str) -> dict[str, Place]:
    """Return the split and class of each image in a class folder; the other images are left out.

    Raises:
        UserError: no images, none in class folders, or class folders next to train, val and test.
    """
    if not names:
        raise UserError(
            f"{source}: got no images, expected one folder of images for each class; "
            "fix: put them there, or set data.path, or data.url and data.sha256"
        )
    depth = _wrapping_folders([name.split("/") for name in names])
    below = {name: parts for name in names if (parts := name.split("/")[depth:])}
    if with_splits := _has_splits(list(below.values()), source):
        places = _places_in_splits(below)
    else:
        places = {name: (None, class_name(parts[0])) for name, parts in below.items() if len(parts) > 1}
    if not places:
        where = "in train, val and test" if with_splits else "in it"
        raise UserError(f"{source}: got {len(names)} images but no folders {where}, expected one folder for each class")
    return places


def _places_in_splits(below: dict[str, list[str]]) -> dict[str, Place]:
    """Return the places of images in class folders of split folders, or of folders around all classes of a split."""
    places: dict[str, Place] = {}
    for top in dict.fromkeys(parts[0] for parts in below.values() if len(parts) > 1):
        inside = {name: parts[1:] for name, parts in below.items() if parts[0] == top}
        depth, split = _wrapping_folders(list(inside.values()), around=_split(top)), _split(top)
        classes = {name: parts[depth:] for name, parts in inside.items()}
        places |= {name: (split, class_name(parts[0])) for name, parts in classes.items() if len(parts) > 1}
    return {name: places[name] for name in below if name in places}


def _split(folder: str) -> SplitName | None:
    """Return the split that a folder's name stands for, such as training_set or seg_test; None for a class."""
    words = _words(folder)
    return _SPLITS.get(words[0]) if len(words) == 1 else None


def _words(folder: str) -> list[str]:
    """Return the words of a folder's name, in lower case, without those that names of split folders may have."""
    words = [word for word in re.split(r"[\W_\d]+", folder.lower()) if word]
    bare = [next((stem for end in _BESIDES if (stem := word.removesuffix(end)) in _SPLITS), word) for word in words]
    return [word for word in bare if word not in _BESIDES]


def _wrapping_folders(paths: list[list[str]], around: SplitName | None = None) -> int:
    """Return how many folders enclose all class and split folders; archives often have one named like themselves.

    Args:
        around: the split whose folder the paths are in, which may be named so again.
    """
    depth = 0
    while True:
        deep = [parts for parts in (path[depth:] for path in paths) if len(parts) > 1]
        tops = {parts[0] for parts in deep}
        if len(tops) != 1 or all(len(parts) == 2 for parts in deep):
            return depth
        if not _is_wrapper(tops.pop(), around):
            return depth
        depth += 1


def _is_wrapper(folder: str, around: SplitName | None) -> bool:
    """Return whether a folder next to no other may be left out: not a split, and in a split not a class."""
    return _split(folder) is None if around is None else _split(folder) == around or not _words(folder)


def _has_splits(paths: list[list[str]], source: str) -> bool:
    """Return whether the top folders are train, val and test. A class may also be named so: a train next to a bus."""
    tops = {parts[0] for parts in paths if len(parts) > 1}
    named = {top for top in tops if _split(top)}
    if not named or named == tops:
        return bool(named)
    if any(parts[0] in named and len(parts) == 2 for parts in paths):
        return False
    raise UserError(
        f"{source}: got the folders {', '.join(map(repr, sorted(tops)[:9]))}, "
        "expected only class folders, or only train, val and test with class folders in them"
    )


def class_name(folder: str) -> str:
    """Return a folder's name as a class name: Unicode NFC (macOS decomposes accents), and ``visible``."""
    return unicodedata.normalize("NFC", visible(folder))


def visible(name: str) -> str:
    """Return a file's name with escapes for bytes that are not UTF-8, control characters, and reversed directions.

    In a report, a terminal or a table these could change what a reader sees.
    """
    text = name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(
        letter.encode("unicode_escape").decode()
        if unicodedata.category(letter) in ("Cc", "Zl", "Zp") or letter in _DIRECTIONS
        else letter
        for letter in text
    )


def check_names(folder: Path, source: str) -> None:
    """Raise UserError if DVC could not list a file below ``folder``, because its name is not UTF-8."""
    for parent, _, names in os.walk(os.fsencode(folder)):
        for name in (os.path.join(parent, name) for name in names):
            try:
                name.decode()
            except UnicodeDecodeError:
                inside = os.fsdecode(os.path.relpath(name, os.fsencode(folder)))
                raise UserError(
                    f"{source}: got the file name '{visible(inside)}', expected UTF-8, because DVC cannot list others; "
                    f"fix: rename it, or all: `convmv -f latin1 -t utf8 -r --notest {shlex.quote(str(folder))}`"
                ) from None
