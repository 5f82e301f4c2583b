"""Getting a file whose checksum is known: from a mirror or from its URL, going on where a broken download stopped.

``ISOFLOP_MIRROR`` names a folder or URL that is looked in first. Checksums are verified wherever a file comes from, so
a mirror cannot change what is downloaded.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests
import urllib3

from isoflop.runtime.errors import UserError
from isoflop.runtime.progress import progress

DOWNLOADS = Path(".isoflop/downloads")  # in the folder the command runs in; ignored by git and DVC

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = (15, 60)  # to connect, between two reads
_PAUSE_S = 1.0  # before another try after a connection broke
_BROKEN = (requests.RequestException, urllib3.exceptions.HTTPError)


@dataclass(frozen=True)
class Remote:
    """A file of a known content."""

    name: str  # under which a mirror has it, perhaps with folders
    url: str
    checksum: str  # "sha256:…" or "md5:…"


class _NotThereError(Exception):
    """The server answers, but not with the file."""


@contextmanager
def fetched(remote: Remote) -> Iterator[Path]:
    """The path of the verified file. If it was downloaded for this, it is deleted on leaving without an error.

    Raises:
        UserError: neither the mirror nor the URL gives it, or not with that checksum.
    """
    file = from_mirror(remote) or _from_url(remote)
    yield file
    discard(file)


def discard(file: Path) -> None:
    """Delete ``file`` if it was downloaded; a mirror keeps what it has."""
    if file.parent == DOWNLOADS:
        file.unlink(missing_ok=True)


def from_mirror(remote: Remote) -> Path | None:
    """The verified file as the mirror has it; None where there is no mirror or it lacks the file.

    Raises:
        UserError: the mirror has it with another checksum, or is no folder.
    """
    mirrored = in_mirror(remote)
    if isinstance(mirrored, Path):
        verify(mirrored, remote.checksum)
        return mirrored
    if mirrored is None:
        return None
    try:
        return _download(mirrored, remote)
    except _NotThereError:
        return None
    except _BROKEN as error:
        print(f"{mirrored}: {_reason(error)}; looking elsewhere", file=sys.stderr)
        return None


def in_mirror(remote: Remote) -> Path | str | None:
    """The file in the mirror's folder, or its URL there; None where there is no mirror or its folder lacks the file.

    Raises:
        UserError: the mirror is no folder.
    """
    mirror = os.environ.get("ISOFLOP_MIRROR", "")
    if not mirror:
        return None
    if mirror.startswith(("http://", "https://")):
        return f"{mirror.rstrip('/')}/{remote.name}"
    folder = Path(mirror).expanduser()
    if not folder.is_dir():
        raise UserError(f"ISOFLOP_MIRROR: found {mirror!r}, expected a folder that exists or a URL (http, https)")
    file = folder / remote.name
    return file if file.is_file() else None


def verify(file: Path, checksum: str, source: str | None = None) -> None:
    """
    Raises:
        UserError: the content of ``file`` has another checksum; the message calls it ``source``, if given.
    """
    algorithm, _, expected = checksum.partition(":")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, algorithm).hexdigest()
    if found != expected:
        raise UserError(f"{source or file}: found {algorithm} {found}, expected {expected}")


def _from_url(remote: Remote) -> Path:
    try:
        return _download(remote.url, remote)
    except (_NotThereError, *_BROKEN) as error:
        why = str(error) if isinstance(error, _NotThereError) else _reason(error)
    size = _size(_local(remote))
    kept = f" ({size:,} bytes are kept, and the next run goes on from there)" if size else ""
    raise UserError(
        f"{remote.url}: could not be downloaded: {why}{kept}; expected a connection, "
        f"or ISOFLOP_MIRROR set to a folder or URL with {remote.name}"
    )


def _local(remote: Remote) -> Path:
    # named by its content, so that a mirror can finish what another server began
    return DOWNLOADS / remote.checksum.replace(":", "-")


def _download(url: str, remote: Remote) -> Path:
    file = _local(remote)
    resumed = file.exists()
    if resumed and _is_whole(file, remote):  # a run before this one failed after the download
        return file
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    while True:
        _transfer_all(url, file)
        try:
            verify(file, remote.checksum, source=url)
            return file
        except UserError:
            file.unlink()
            if not resumed:
                raise
            resumed = False  # once more from the start: what was there may be of another version of the file


def _is_whole(file: Path, remote: Remote) -> bool:
    try:
        verify(file, remote.checksum)
    except UserError:
        return False
    return True


def _transfer_all(url: str, file: Path) -> None:
    """As many requests as it takes, while each brings something."""
    while True:
        before = _size(file)
        try:
            return _transfer(url, file)
        except _BROKEN:
            if _size(file) <= before:
                raise
        time.sleep(_PAUSE_S)


def _transfer(url: str, file: Path) -> None:
    """One request for what is missing of ``file``."""
    have = _size(file)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        if have and response.status_code == 416:  # all is here, or it is of another version; the checksum tells
            return
        resumes = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status_code != 200 and not resumes:
            raise _NotThereError(f"HTTP {response.status_code} {response.reason}")
        have = have if resumes else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        name = url.rpartition("/")[2]
        with file.open("ab" if resumes else "wb") as stream, progress(f"downloading {name}", "B", total) as task:
            task.begin(have)
            # as sent: a server that labels an archive as gzip-encoded must not have it unpacked on the way
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                stream.write(chunk)
                task.advance(len(chunk))


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _reason(error: BaseException | None) -> str:
    """What the operating system says at the bottom of a chain of errors: requests' own words fill a screen."""
    words = type(error).__name__
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            words = error.strerror
        elif isinstance(error, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError):
            words = "timed out"
        elif isinstance(error, urllib3.exceptions.IncompleteRead):
            words = "the connection broke"
        error = error.__cause__ or error.__context__
    return words
