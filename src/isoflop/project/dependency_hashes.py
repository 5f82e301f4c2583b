"""DVC's MD5 of files and folders, computed once for each state of their files.

A folder of images may hold gigabytes, so its MD5 is kept in ``.isoflop`` with the size, time and inode of each file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from isoflop.runtime.dvc_md5 import file_md5, folder_md5
from isoflop.runtime.files import write_atomically

_KEPT = Path(".isoflop") / "hashes.json"
_Stats = list[tuple[str, int, int, int]]  # path below the folder, size, time of the last change in ns, inode


class DependencyHashes:
    """MD5s of the dependencies of ``project``; a file that .dvcignore names does not count.

    Args:
        most_bytes: a dependency with a new state that is larger is not read; None: no limit.
    """

    def __init__(self, project: Path, most_bytes: int | None = None) -> None:
        self._project, self._most_bytes = project, most_bytes
        self._ignores = _ignores(project)
        self._kept = _read(project / _KEPT)
        self._found: dict[str, tuple[_Stats, str | None] | None] = {}
        self._computed = False

    def differs(self, locked: Mapping[str, Any]) -> bool:
        """Return whether a dependency of dvc.lock has other content now; False if it does not exist.

        Of one that is too large to read, only the total size and the number of files are compared.
        """
        path = str(locked["path"])
        if path not in self._found:
            self._found[path] = self._read(path)
        found = self._found[path]
        if found is None or "md5" not in locked:
            return False
        stats, md5 = found
        if md5 is not None:
            return bool(md5 != locked["md5"])
        size, files = sum(size for _, size, *_ in stats), len(stats)
        return (size, files) != (locked.get("size", size), locked.get("nfiles", files))

    def keep(self) -> None:
        """Write what was computed, for the next command."""
        if self._computed:
            with contextlib.suppress(OSError):  # a project that one can only read
                (self._project / _KEPT).parent.mkdir(exist_ok=True)
                write_atomically(self._project / _KEPT, json.dumps(self._kept, indent=1, sort_keys=True))

    def _read(self, path: str) -> tuple[_Stats, str | None] | None:
        whole = self._project / path
        try:
            if whole.is_file():
                stats = [_stats(whole, "")]
            elif whole.is_dir():
                stats = sorted(_stats(file, name) for file, name in self._files(whole, path))
            else:
                return None
            state = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
            if self._kept.get(path, {}).get("state") == state:
                return stats, self._kept[path].get("md5")
            if self._most_bytes is not None and sum(size for _, size, *_ in stats) > self._most_bytes:
                return stats, None
            md5 = _hashed(whole, [name for name, *_ in stats])
        except OSError:  # deleted meanwhile, or not readable
            return None
        self._kept[path] = {"state": state, "md5": md5}
        self._computed = True
        return stats, md5

    def _files(self, folder: Path, path: str) -> Iterator[tuple[Path, str]]:
        """Yield the files of a folder and their names below it."""
        for parent, folders, names in os.walk(folder):
            below = Path(parent).relative_to(folder).as_posix()
            prefix = "" if below == "." else f"{below}/"
            folders[:] = [name for name in folders if not self._ignores(f"{path}/{prefix}{name}/")]
            for name in names:
                if not self._ignores(f"{path}/{prefix}{name}"):
                    yield Path(parent, name), f"{prefix}{name}"


def _hashed(whole: Path, names: list[str]) -> str:
    if whole.is_file():
        return file_md5(whole)
    with ThreadPoolExecutor() as pool:
        return folder_md5(dict(zip(names, pool.map(lambda name: file_md5(whole / name), names), strict=True)))


def _stats(file: Path, name: str) -> tuple[str, int, int, int]:
    found = file.stat()
    return name, found.st_size, found.st_mtime_ns, found.st_ino


def _ignores(project: Path) -> Callable[[str], bool]:
    """Return whether DVC ignores a path of ``project``; folders end with a slash."""
    from pathspec import GitIgnoreSpec

    lines: Iterable[str] = ()
    with contextlib.suppress(OSError):
        lines = (project / ".dvcignore").read_text().splitlines()
    spec = GitIgnoreSpec.from_lines([".git/", ".hg/", ".dvc/", *lines])
    return lambda path: not path.startswith(("/", "../")) and spec.match_file(path)


def _read(file: Path) -> dict[str, dict[str, str]]:
    with contextlib.suppress(OSError, ValueError):
        content = json.loads(file.read_text())
        if isinstance(content, dict) and all(isinstance(one, dict) for one in content.values()):
            return content
    return {}
