"""One hash for all of the project's code, which a commit that leaves the code alone leaves alone too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path


def code_sha256(root: Path, parts: Iterable[Path]) -> str:
    """SHA-256 over the names and the SHA-256 of the files ``parts`` and of the Python files in the folders ``parts``.

    Args:
        parts: relative to ``root``, as the files are named in the hash.
    """
    hashes: dict[str, str] = {}
    for part in parts:
        files = sorted((root / part).rglob("*.py")) if (root / part).is_dir() else [root / part]
        hashes |= {file.relative_to(root).as_posix(): _sha256(file) for file in files}
    return hashlib.sha256(json.dumps(dict(sorted(hashes.items()))).encode()).hexdigest()


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
