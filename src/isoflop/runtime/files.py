"""Hashing and writing of files."""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any


def file_sha256(file: Path) -> str:
    """Return SHA-256 of the content, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_json(file: Path, content: Any) -> None:
    """Write ``content`` as JSON, one key per line, with a final newline."""
    file.write_text(json.dumps(content, indent=1) + "\n")


def json_text(content: Any) -> str:
    """Return ``content`` as JSON that any parser reads: null in place of NaN and infinity."""
    return json.dumps(_finite(content), indent=1, allow_nan=False)


def write_atomically(file: Path, content: str | bytes) -> None:
    """Write a temporary file and rename it, so that readers see the old or the new file, also after a kill."""
    partial = file.with_name(f".{file.name}.partial{os.getpid()}")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(partial)
        os.replace(partial, file)
    finally:
        partial.unlink(missing_ok=True)


def _finite(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


def sync(path: Path) -> None:
    """Have the operating system write a file, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems have no fsync of folders
            raise
    finally:
        os.close(descriptor)
