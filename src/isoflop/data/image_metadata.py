"""Image files without the metadata that does not change their pixels, for files in which it is broken or oversized."""

from __future__ import annotations

import struct
import zlib

_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")  # eXIf has the orientation
_EXIF, _ADOBE, _ADOBE_BYTES = 0xE1, 0xEE, 14  # segments of a JPEG; Adobe's has the color transform


def without_metadata(content: bytes) -> bytes | None:
    """Return a PNG or JPEG file without texts, color profiles and the like; None for a file without any."""
    bare = b""
    if content.startswith(_PNG):
        bare = _bare_png(content)
    elif content.startswith(b"\xff\xd8\xff"):
        bare = _bare_jpeg(content)
    return bare if 0 < len(bare) < len(content) else None


def _bare_png(content: bytes) -> bytes:
    parts, at = [_PNG], len(_PNG)
    while at + 8 <= len(content):
        (size,) = struct.unpack_from(">I", content, at)
        kind, end = content[at + 4 : at + 8], at + 8 + size
        is_whole = content[end : end + 4] == struct.pack(">I", zlib.crc32(content[at + 4 : end]))
        if kind in _PNG_KEPT and (is_whole or kind != b"eXIf"):
            parts.append(content[at : end + 4])
        at += 12 + size
    return b"".join(parts)


def _bare_jpeg(content: bytes) -> bytes:
    """Copy the segments before the first scan, and everything from there on."""
    parts, at = [content[:2]], 2
    while at + 4 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == 0xDA:  # start of scan
            return b"".join([*parts, content[at:]])
        (size,) = struct.unpack_from(">H", content, at + 2)
        is_metadata = 0xE0 <= marker <= 0xEF or marker == 0xFE
        if not is_metadata or marker == _EXIF or (marker == _ADOBE and size >= _ADOBE_BYTES):
            parts.append(content[at : at + 2 + size])
        at += 2 + size
    return b""
