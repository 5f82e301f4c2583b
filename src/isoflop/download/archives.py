"""Read untrusted zip and tar archives as streams, without unpacking them. Dangerous members are errors, not skipped.

Rejected are paths that lead out of the archive, links, devices, encrypted members, duplicate names, and decompression
bombs (limits on the number of members, the size of each and of all, and the ratio to the size of the archive).
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, cast

from isoflop.runtime.errors import UserError

MAX_MEMBERS = 5_000_000
MAX_MEMBER_BYTES = 1 << 30  # prepare holds a whole image file in memory
MAX_TOTAL_BYTES = 1 << 40
MAX_RATIO = 200  # image files hardly compress; known decompression bombs have ratios of 1,000 and more
_FREE_BYTES = 64 << 20  # up to this size any ratio is harmless
_UTF8_FLAG, _UNICODE_PATH = 1 << 11, 0x7075  # a flag and a field of zip members
_MAX_HEADER_BYTES = 1 << 20  # tarfile reads an extended header whole, whatever size it states

_OPENERS: dict[bytes, Callable[[Path], Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, EOFError, zlib.error, lzma.LZMAError, NotImplementedError)


@dataclass(frozen=True)
class Entry:
    """A file in an archive or folder. ``open`` is valid until the next entry is requested."""

    name: str
    size: int
    open: Callable[[], IO[bytes]]


@contextmanager
def naming_damage(path: Path) -> Iterator[None]:
    """Turn exceptions of the decoders while the archive at ``path`` is read into a UserError."""
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # from the disk; for bad data gzip and bz2 raise OSError without errno
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: got a damaged file or no archive ({why}), expected a zip, tar, tar.gz, tar.bz2 or tar.xz"
        ) from None


def archive_entries(path: Path) -> Iterator[Entry]:
    """Yield the files in an archive: a zip's sorted by name, a tar's in archive order. Use it inside ``naming_damage``.

    Raises:
        UserError: a member is rejected; the message names the archive and the member.
    """
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    return _zip_entries(path) if is_zip else _tar_entries(path)


class _Guard:
    """Checks each member: its name, its size, and that no name occurs twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: set[str] = set()
        self._total = 0
        self._allowed = max(_FREE_BYTES, MAX_RATIO * path.stat().st_size)

    def refusal(self, member: str, got: str, expected: str) -> UserError:
        return UserError(f"{self._path}: {member!r}: got {got}, expected {expected}")

    def checked(self, member: str, size: int) -> str:
        """Check a file; return its name without ``.`` and double slashes."""
        self.check_path(member)
        name = "/".join(part for part in member.split("/") if part not in ("", "."))
        if name in self._seen:
            raise self.refusal(member, "a second member of this name", "one")
        self._seen.add(name)
        self._total += size
        if len(self._seen) > MAX_MEMBERS:
            raise self.refusal(member, f"more than {MAX_MEMBERS:,} members", "fewer; fix: unpack it and set data.path")
        if size > MAX_MEMBER_BYTES:
            raise self.refusal(member, f"{size:,} bytes", f"at most {MAX_MEMBER_BYTES:,}")
        if self._total > MAX_TOTAL_BYTES:
            raise self.refusal(member, f"{self._total:,} bytes up to here", f"at most {MAX_TOTAL_BYTES:,} in total")
        self.check_ratio(member, self._total)
        return name

    def check_path(self, member: str) -> None:
        if member.startswith("/") or re.match("[A-Za-z]:", member):
            raise self.refusal(member, "an absolute path", "one inside the archive")
        if ".." in member.split("/") or not member.strip("./"):
            raise self.refusal(member, "a path that leads out of the archive", "one inside it")

    def check_ratio(self, member: str, size: int) -> None:
        if size > self._allowed:
            expected = f"at most {MAX_RATIO} times the size of the archive"
            raise self.refusal(member, "a decompression bomb", expected)


def _zip_entries(path: Path) -> Iterator[Entry]:
    guard = _Guard(path)
    with _as_bad_zip():
        archive = zipfile.ZipFile(path)
    with archive:
        members = {}
        for info in archive.infolist():
            name = _zip_name(info).replace("\\", "/")  # some Windows programs write backslashes
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise guard.refusal(name, "a link or device", "files and folders only")
            if info.flag_bits & 1:
                raise guard.refusal(name, "an encrypted file", "one without a password")
            if name.endswith("/"):
                guard.check_path(name + "x")  # "./" is allowed for a folder
            else:
                members[guard.checked(name, info.file_size)] = info
        for name in sorted(members):
            yield Entry(name, members[name].file_size, partial(_opened, archive, members[name]))


def _zip_name(info: zipfile.ZipInfo) -> str:
    """Return the name of a member as the program that wrote it meant it.

    Flag bit 11 states UTF-8. `zip` on Linux and the Finder of macOS write UTF-8 without it, older versions of Info-ZIP
    add a field with the name in UTF-8. All other names are in code page 437, as the format requires.
    """
    if info.flag_bits & _UTF8_FLAG:
        return info.orig_filename
    raw = info.orig_filename.encode("cp437")  # zipfile decoded it so
    with contextlib.suppress(UnicodeDecodeError):
        return raw.decode()
    at = 0
    while at + 4 <= len(info.extra):
        kind, size = struct.unpack_from("<HH", info.extra, at)
        field = info.extra[at + 4 : at + 4 + size]
        if kind == _UNICODE_PATH and field[:1] == b"\1" and field[1:5] == struct.pack("<L", zlib.crc32(raw)):
            with contextlib.suppress(UnicodeDecodeError):
                return field[5:].decode()
        at += 4 + size
    return info.orig_filename


def _opened(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> IO[bytes]:
    with _as_bad_zip():
        return archive.open(info)


@contextmanager
def _as_bad_zip() -> Iterator[None]:
    """Turn what zipfile raises on wrong name encodings, truncated fields and negative offsets into BadZipFile."""
    try:
        yield
    except (ValueError, struct.error, OSError) as error:
        if isinstance(error, OSError) and error.errno != errno.EINVAL:
            raise
        raise zipfile.BadZipFile(str(error)) from None


def _tar_entries(path: Path) -> Iterator[Entry]:
    guard = _Guard(path)
    with _decompressed(path) as stream:
        bounded = _Bounded(stream, guard)
        with tarfile.open(fileobj=cast(IO[bytes], bounded), mode="r:", tarinfo=_StrictTarInfo) as archive:
            while (info := _next(archive, bounded)) is not None:
                if info.isdir():
                    guard.check_path(info.name + "/x")
                elif not info.isreg() or info.issparse():
                    raise guard.refusal(info.name, "a link, device or sparse file", "files and folders only")
                else:
                    name = guard.checked(info.name, info.size)
                    yield Entry(name, info.size, partial(_extracted, archive, info))
                cast(Any, archive).members.clear()  # or tarfile keeps them all in memory
            while bounded.read(1 << 16):  # read to the end, which verifies the checksum of the compressed stream
                pass


def _decompressed(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        start = file.read(6)
    opener = next((opener for magic, opener in _OPENERS.items() if start.startswith(magic)), None)
    return path.open("rb") if opener is None else cast(IO[bytes], opener(path))


def _next(archive: tarfile.TarFile, bounded: _Bounded) -> tarfile.TarInfo | None:
    bounded.in_header = True
    try:
        info = archive.next()
    except (ValueError, IndexError, OverflowError) as error:  # raised on malformed extended headers
        raise tarfile.ReadError(f"bad header: {error}") from None
    bounded.in_header = False
    bounded.member = info.name if info else bounded.member
    return info


def _extracted(archive: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = archive.extractfile(info)
    assert content is not None  # it is a regular file
    return content


class _StrictTarInfo(tarfile.TarInfo):
    """Raises on a broken header in the middle; tarfile would take it for the end and silently lose what follows."""

    @classmethod
    def fromtarfile(cls, tarfile_: tarfile.TarFile) -> _StrictTarInfo:
        try:
            return super().fromtarfile(tarfile_)
        except tarfile.HeaderError as error:
            if type(error).__name__ == "EOFHeaderError":  # the regular end of a tar; the class is not exported
                raise
            raise tarfile.ReadError(str(error)) from None


class _Bounded(io.RawIOBase):
    """The decompressed stream of a tar, with a limit on how far it can be read, given by the archive's size."""

    def __init__(self, stream: IO[bytes], guard: _Guard) -> None:
        self._stream = stream
        self._guard = guard
        self.member = "the first header"  # later the last member read; for messages
        self.in_header = True

    def read(self, size: int = -1) -> bytes:
        if self.in_header and not 0 <= size <= _MAX_HEADER_BYTES:
            raise self._guard.refusal(
                self.member, f"a header of {size:,} bytes after it", f"at most {_MAX_HEADER_BYTES:,}"
            )
        content = self._stream.read(size)
        self._guard.check_ratio(self.member, self._stream.tell())
        return content

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._guard.check_ratio(self.member, offset)
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()
