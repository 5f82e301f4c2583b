"""Fetch a file with a known checksum from a mirror or its URL, and resume interrupted downloads.

``ISOFLOP_MIRROR`` names a folder or URL that is tried first. The checksum is verified whatever the source, so a mirror
cannot change the content. pooch and fsspec do not replace this module: neither resumes a partial download in a later
run (pooch deletes the partial file).
"""

from __future__ import annotations

import hashlib
import os
import re
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

DOWNLOADS = Path(".isoflop/downloads")  # below the working directory; ignored by git and DVC

_CHUNK_BYTES = 1 << 18
_TIMEOUT_S = (15, 60)  # for the connection, between two reads
_PAUSE_S = 1.0  # before the next attempt after a connection error
_NETWORK_ERRORS = (requests.RequestException, urllib3.exceptions.HTTPError)


@dataclass(frozen=True)
class Remote:
    """A file on a server, with its checksum."""

    name: str  # path on a mirror, may include folders
    url: str
    checksum: str  # "sha256:…" or "md5:…"


class _NoFileError(Exception):
    """The server responded, but not with the file."""


@contextmanager
def fetched(remote: Remote) -> Iterator[Path]:
    """Yield the path of the verified file. A downloaded file is deleted afterwards, unless there was an error.

    Raises:
        UserError: neither the mirror nor the URL has the file, or it has another checksum.
    """
    file = from_mirror(remote) or _from_url(remote)
    yield file
    discard(file)


def discard(file: Path) -> None:
    """Delete ``file`` if it was downloaded; files of a mirror are kept."""
    if file.parent == DOWNLOADS:
        file.unlink(missing_ok=True)


def from_mirror(remote: Remote) -> Path | None:
    """Return the verified file from the mirror; None if there is no mirror or it does not have the file.

    Raises:
        UserError: the mirror's file has another checksum, or the mirror is not a folder.
    """
    mirrored = in_mirror(remote)
    if isinstance(mirrored, Path):
        verify(mirrored, remote.checksum)
        return mirrored
    if mirrored is None:
        return None
    try:
        return _download(mirrored, remote)
    except _NoFileError:
        return None
    except _NETWORK_ERRORS as error:
        print(f"{without_secrets(mirrored)}: {_reason(error)}; trying {without_secrets(remote.url)}", file=sys.stderr)
        return None


def in_mirror(remote: Remote) -> Path | str | None:
    """Return the file in the mirror's folder, or its URL there; None if there is no mirror or its folder has no file.

    Raises:
        UserError: the mirror is not a folder.
    """
    mirror = os.environ.get("ISOFLOP_MIRROR", "")
    if not mirror:
        return None
    if mirror.startswith(("http://", "https://")):
        return f"{mirror.rstrip('/')}/{remote.name}"
    folder = Path(mirror).expanduser()
    if not folder.is_dir():
        raise UserError(
            f"ISOFLOP_MIRROR: got {mirror.rpartition('@')[2]!r}, expected an existing folder or an http(s) URL"
        )
    file = folder / remote.name
    return file if file.is_file() else None


def verify(file: Path, checksum: str, source: str | None = None) -> None:
    """Check the checksum of ``file``; the message names ``source`` instead of the file, if given.

    Raises:
        UserError: the content of ``file`` has another checksum.
    """
    algorithm, _, expected = checksum.partition(":")
    with file.open("rb") as stream:
        actual = hashlib.file_digest(stream, algorithm).hexdigest()
    if actual != expected:
        raise UserError(f"{source or file}: got {algorithm} {actual}, expected {expected}")


def without_secrets(url: str) -> str:
    """Return a URL without user, password, query and fragment, as a message may show it."""
    return re.sub(r"//[^/]*@", "//", re.split("[?#]", url)[0], count=1)


def url_name(url: str) -> str:
    """Return the last name in the path of a URL; a query may hold a token, and the server's part a password."""
    return re.sub("^[^/]*//[^/]*", "", re.split("[?#]", url)[0]).rstrip("/").rpartition("/")[2]


def _from_url(remote: Remote) -> Path:
    try:
        return _download(remote.url, remote)
    except (_NoFileError, *_NETWORK_ERRORS) as error:
        why = str(error) if isinstance(error, _NoFileError) else _reason(error)
    size = _size(_local(remote))
    kept = f" ({size:,} bytes are kept; the next run resumes there)" if size else ""
    raise UserError(
        f"{without_secrets(remote.url)}: could not be downloaded: {why}{kept}; fix: check the network connection, "
        f"or set ISOFLOP_MIRROR to a folder or URL that has {remote.name}"
    )


def _local(remote: Remote) -> Path:
    # named by checksum, so that a download that one server began can be resumed from a mirror
    return DOWNLOADS / remote.checksum.replace(":", "-")


def _download(url: str, remote: Remote) -> Path:
    file = _local(remote)
    resumed = file.exists()
    if resumed and _is_whole(file, remote):  # an earlier run failed after the download
        return file
    DOWNLOADS.mkdir(parents=True, exist_ok=True)
    while True:
        _transfer_all(url, file)
        try:
            verify(file, remote.checksum, source=without_secrets(url))
            return file
        except UserError:
            file.unlink()
            if not resumed:
                raise
            resumed = False  # start over once: the resumed part may belong to another version of the file


def _is_whole(file: Path, remote: Remote) -> bool:
    try:
        verify(file, remote.checksum)
    except UserError:
        return False
    return True


def _transfer_all(url: str, file: Path) -> None:
    """Send requests until the file is complete, as long as each one adds bytes."""
    while True:
        before = _size(file)
        try:
            return _transfer(url, file)
        except _NETWORK_ERRORS:
            if _size(file) <= before:
                raise
        time.sleep(_PAUSE_S)


def _transfer(url: str, file: Path) -> None:
    """Request the missing rest of ``file``."""
    have = _size(file)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=_TIMEOUT_S) as response:
        if have and response.status_code == 416:  # nothing left to send; verify() tells whether the file is correct
            return
        resumes = response.status_code == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status_code != 200 and not resumes:
            raise _NoFileError(f"HTTP {response.status_code} {response.reason}")
        have = have if resumes else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        name = url_name(url)
        with file.open("ab" if resumes else "wb") as stream, progress(f"downloading {name}", "B", total) as task:
            task.begin(have)
            # undecoded: some servers label an archive as gzip-encoded, and decoding would change its bytes
            for chunk in response.raw.stream(_CHUNK_BYTES, decode_content=False):
                stream.write(chunk)
                task.advance(len(chunk))


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def _reason(error: BaseException | None) -> str:
    """Return the OS message at the root of a chain of errors; requests' own message fills a screen."""
    words = type(error).__name__
    while error is not None:
        if isinstance(error, OSError) and error.strerror:
            words = error.strerror
        elif isinstance(error, TimeoutError | requests.Timeout | urllib3.exceptions.TimeoutError):
            words = "timed out"
        elif isinstance(error, urllib3.exceptions.IncompleteRead):
            words = "connection lost"
        error = error.__cause__ or error.__context__
    return words
