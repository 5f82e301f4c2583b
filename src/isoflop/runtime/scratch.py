"""Hidden folders for output that must be complete before anybody sees it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def scratch_folder(where: Path, name: str) -> Iterator[Path]:
    """Yield a new hidden folder ``.NAME.partialXXXXXXXX`` in ``where``, which is deleted at the end.

    Deletes the folders first that killed processes left there under this name: a process holds a lock on its own.
    """
    for left in [path for path in where.iterdir() if is_scratch(path, name)]:
        with _locked(left, wait=False) as is_left:
            if is_left:
                shutil.rmtree(left, ignore_errors=True)
    while True:
        folder = where / f"{_start(name)}{secrets.token_hex(4)}"
        folder.mkdir()
        with _locked(folder, wait=True):
            if not folder.exists():  # another process took it for an abandoned one
                continue
            try:
                yield folder
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            return


def is_scratch(path: Path, name: str) -> bool:
    """Return whether ``path`` is a scratch folder of ``name``."""
    return path.name.startswith(_start(name))


def move_into(folder: Path, target: Path) -> None:
    """Rename ``folder`` to ``target``; if that exists, move each entry into it, over an old file of its name.

    On an error, entries that replaced nothing are deleted from ``target``.
    """
    if not target.exists():
        os.rename(folder, target)
        return
    new = []
    try:
        for path in sorted(folder.iterdir()):
            if not (target / path.name).exists():
                new.append(target / path.name)
            shutil.move(path, target / path.name)  # the target may be on another file system
    except BaseException:
        for path in new:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        raise


def _start(name: str) -> str:
    return f".{name}.partial"


@contextlib.contextmanager
def _locked(folder: Path, *, wait: bool) -> Iterator[bool]:
    """Lock ``folder`` until the end and yield whether that worked; some file systems have no locks."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        has_lock = True
    except OSError:
        has_lock = False
    try:
        yield has_lock
    finally:
        os.close(descriptor)
