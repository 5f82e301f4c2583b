"""The MD5 hashes by which DVC identifies files and folders."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path


def dvc_md5(output: Path) -> str:
    """Return DVC's MD5 of a file, or of a folder: the hash of the list of its files' hashes."""
    if not output.is_dir():
        return file_md5(output)
    return folder_md5({file.relative_to(output).as_posix(): file_md5(file) for file in files_in(output)})


def folder_md5(files: Mapping[str, str]) -> str:
    """Return DVC's MD5 of a folder from the MD5 of each file, by its path below the folder."""
    entries = [{"md5": md5, "relpath": path} for path, md5 in files.items()]
    listed = json.dumps(sorted(entries, key=lambda entry: entry["relpath"]), sort_keys=True)
    return hashlib.md5(listed.encode(), usedforsecurity=False).hexdigest() + ".dir"


def files_in(output: Path) -> list[Path]:
    """Return all files below a folder; for a file, the file itself."""
    return [file for file in output.rglob("*") if file.is_file()] if output.is_dir() else [output]


def file_md5(file: Path) -> str:
    """Return the MD5 of a file."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
