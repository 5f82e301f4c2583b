"""For ``dvc_guard``: records of DVC's run cache, which say which outputs belong to which inputs.

Whoever can write to the remote can write them. DVC makes paths of what they contain.
"""

from __future__ import annotations

import copy
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from isoflop.runtime.terminal import printable

_NAME = re.compile(r"runs/([0-9a-f]{2})/\1[0-9a-f]{62}/[0-9a-f]{64}")
_MD5 = re.compile(r"[0-9a-f]{32}(\.dir)?")
_PULLED = "isoflop-pulled-records"  # next to the folder of records
_PAGES = ("report", "study", "ship/demo")  # outputs that a browser opens: another page there would run its scripts
_OUTPUT = {"path", "hash", "md5", "size", "nfiles", "isexec"}  # what DVC writes for an output in its cache
_MOST_BYTES = 4_000_000


def is_md5(value: Any) -> bool:
    """Return whether ``value`` is an MD5 as DVC writes it, of a file or of the list of a folder."""
    return isinstance(value, str) and bool(_MD5.fullmatch(value))


def load_record(self: Any, stage: Any) -> Any:
    """Return the newest record of a stage, None if there is none: an empty folder, which a full disk or a kill leaves,
    has none. A page is not taken from a record of a remote, but made again."""
    from dvc.stage import cache

    key = cache._get_stage_hash(stage)
    folder = Path(self._get_cache_dir(key))
    files = sorted(folder.iterdir(), key=lambda file: file.lstat().st_mtime, reverse=True) if folder.is_dir() else []
    pulled = _pulled(self) if any(out.def_path in _PAGES for out in stage.outs) else set()
    for file in files:
        if file.name in pulled:
            continue
        if re.fullmatch("[0-9a-f]{64}", file.name) and (record := self._load_cache(key, file.name)):
            return record
    return None


def checked_record(load: Callable[..., Any]) -> Callable[..., Any]:
    """Delete a record whose content is not what its names are the hashes of: cut short, or of another stage or other
    outputs, so that what is left names no path that dvc.yaml does not, and no object that is not in the cache."""

    def checked(self: Any, key: str, value: str) -> Any:
        file = Path(self._get_cache_path(key, value))
        if not file.is_file():
            return None
        record = load(self, key, value) if _is_plain(file) else None  # aliases may expand to any size
        if record and _names(record) == [key, value] and all(map(_is_in_cache, record.get("outs", ()))):
            return record
        if file.exists():  # DVC deletes what does not have the form of a record
            _warn(f"{file}: a damaged or forged run-cache record: deleted")
            file.unlink()
        return None

    return checked


def _is_plain(file: Path) -> bool:
    from isoflop.runtime.plain_yaml import PlainYamlError, parse  # Python imports this module at its start

    try:
        return file.stat().st_size <= _MOST_BYTES and isinstance(parse(file.read_text(encoding="utf-8"))[0], dict)
    except (PlainYamlError, UnicodeDecodeError):
        return False


def _names(record: dict[str, Any]) -> list[str]:
    from dvc.stage.cache import _get_cache_hash

    return [_get_cache_hash(copy.deepcopy(record), key=of_key) for of_key in (True, False)]


def _is_in_cache(output: dict[str, Any]) -> bool:
    return output.get("hash") == "md5" and is_md5(output.get("md5")) and set(output) <= _OUTPUT


def transfer_records(self: Any, from_odb: Any, to_odb: Any, force: bool = True) -> list[tuple[str, str]]:
    """Copy the records that the target does not have; a name of any other form is refused."""
    from dvc import fs
    from dvc.fs import HTTPFileSystem
    from dvc.stage.cache import RunCacheNotSupported

    for odb in (from_odb, to_odb):
        if isinstance(odb.fs, HTTPFileSystem):
            raise RunCacheNotSupported(f"run-cache is not supported for http filesystem: {odb.path}")
    source, target = from_odb.fs, to_odb.fs
    runs = source.join(from_odb.path, "runs")
    there = set(_records(target, to_odb.path)) if source.exists(runs) else set()
    new = [name.split("/") for name in _records(source, from_odb.path) if name not in there]
    new = [parts for parts in new if _is_small_file(source, source.join(from_odb.path, *parts))]
    if new and to_odb is self.repo.cache.legacy:
        _note(self).parent.mkdir(parents=True, exist_ok=True)
        with _note(self).open("a") as note:  # before the first is there: a kill must not leave one that is not noted
            note.writelines(f"{value}\n" for *_, value in new)
    for parts in new:
        fs.generic.log_exceptions(fs.generic.copy)(
            source, source.join(from_odb.path, *parts), target, target.join(to_odb.path, *parts)
        )
    return [(key, value) for *_, key, value in new]


def _is_small_file(filesystem: Any, file: str) -> bool:
    """Return whether a file may be copied: a link could lead to any file of this machine, a pipe never ends."""
    found = filesystem.info(file)
    if found["type"] != "file" or found.get("islink") or (found.get("size") or 0) > _MOST_BYTES:
        _warn(f"{file}: a link, not a file, or larger than a run-cache record: skipped")
        return False
    return True


def _pulled(self: Any) -> set[str]:
    """Return the names of the records that were downloaded into this cache."""
    return set(_note(self).read_text().split()) if _note(self).is_file() else set()


def _note(self: Any) -> Path:
    return Path(self.cache_dir).with_name(_PULLED)


def _records(filesystem: Any, folder: str) -> Iterator[str]:
    """Yield the run-cache records below ``folder`` as runs/XX/KEY/VALUE."""
    runs = filesystem.join(folder, "runs")
    if filesystem.exists(runs) and filesystem.info(runs).get("islink"):
        _warn(f"{runs}: a link, which could lead to any folder of this machine: skipped")
        return
    for file in filesystem.find(runs) if filesystem.exists(runs) else ():
        name = filesystem.as_posix(filesystem.relpath(file, folder))
        if _NAME.fullmatch(name):
            yield name
        elif name.rpartition("/")[2].startswith("."):  # a temporary file of a kill
            continue
        else:
            _warn(f"{file}: not the name of a run-cache record: skipped")


def _warn(message: str) -> None:
    print(f"warning: {printable(message)}", file=sys.stderr)
