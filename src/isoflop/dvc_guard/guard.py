"""Checks that DVC itself lacks, applied inside of each DVC process of the environment that isoflop is installed in.

Whoever can write to a remote can write a record of its run cache and a list of files, and DVC (3.67) restores what they
name: files outside of the project too. It also expands values of params.yaml into commands and paths before any stage
runs, and a kill can leave files in its folders that block every later run. `isoflop-dvc-guard.pth`, which is installed
next to the package, calls ``install`` when a DVC process starts (docs/decisions/013).
"""

from __future__ import annotations

import copy
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from isoflop.dvc_guard.kills import healing, written_whole
from isoflop.dvc_guard.names import checked_names
from isoflop.runtime.terminal import printable

_FIRST = "dvc.repo"  # every command that reads or restores anything imports it
_RECORD = re.compile(r"runs/([0-9a-f]{2})/\1[0-9a-f]{62}/[0-9a-f]{64}")
_PULLED = "isoflop-pulled-records"  # next to the folder of records
_PAGES = ("report", "ship/demo")  # outputs that a browser opens: another page there would run its scripts


def install() -> None:
    """Apply the checks as soon as this process imports DVC."""
    if _FIRST in sys.modules:
        apply()
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def is_active() -> bool:
    """Return whether a DVC process that starts now has the checks."""
    return any((Path(folder) / "isoflop-dvc-guard.pth").is_file() for folder in sys.path)


def apply() -> None:
    """Replace the functions of DVC in this process, once.

    Raises:
        AttributeError: this version of DVC does not have one of them; it then must not run unchecked.
    """
    from dvc import data_cloud, parsing, rwlock
    from dvc.stage import cache
    from dvc.utils.serialize import _common, _yaml
    from dvc_data.hashfile import tree

    if getattr(tree.Tree, "isoflop_guard", False):
        return
    replacements: dict[tuple[Any, str], Callable[[Any], Any]] = {
        (tree.Tree, "from_list"): lambda method: classmethod(_checked_list(method.__func__)),
        (cache.StageCache, "_load_cache"): _checked_record,
        (cache.StageCache, "_load"): lambda _: _load_record,
        (cache.StageCache, "transfer"): lambda _: _transfer_records,
        (data_cloud.DataCloud, "get_remote"): _verifying,
        (parsing.DataResolver, "__init__"): checked_names,
        (rwlock, "_edit_rwlock"): healing,
        (_common, "_dump_data"): written_whole,
        (_yaml, "_dump_data"): written_whole,
    }
    replaced = {(owner, name): replace(getattr(owner, name)) for (owner, name), replace in replacements.items()}
    for (owner, name), function in replaced.items():
        setattr(owner, name, function)
    tree.Tree.isoflop_guard = True


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name != _FIRST:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec and spec.loader:
            run = spec.loader.exec_module

            def run_and_apply(module: ModuleType) -> None:
                run(module)
                apply()

            spec.loader.exec_module = run_and_apply  # type: ignore[method-assign]
        return spec


def _checked_list(from_list: Callable[..., Any]) -> Callable[..., Any]:
    """Refuse a list of files with a name that leads out of its folder."""

    def checked(cls: Any, entries: Iterable[dict[str, Any]], *arguments: Any, **options: Any) -> Any:
        from dvc_objects.errors import ObjectFormatError

        entries = list(entries)
        for entry in entries:
            name = entry.get("relpath") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not _is_inside(name):
                raise ObjectFormatError(f"a list of files names {name!r}, which leads out of its folder: refused")
        return from_list(cls, entries, *arguments, **options)

    return checked


def _is_inside(name: str) -> bool:
    parts = re.split(r"[/\\]", name) if os.name == "nt" else name.split("/")
    return not any(part in ("", ".", "..") or "\0" in part or (os.name == "nt" and ":" in part) for part in parts)


def _load_record(self: Any, stage: Any) -> Any:
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


def _checked_record(load: Callable[..., Any]) -> Callable[..., Any]:
    """Delete a record whose content is not what its names are the hashes of: cut short, or of another stage or other
    outputs, so that what is left names no path that dvc.yaml does not."""

    def checked(self: Any, key: str, value: str) -> Any:
        from dvc.stage.cache import _get_cache_hash

        record = load(self, key, value)
        if record:
            names = [_get_cache_hash(copy.deepcopy(record), key=of_key) for of_key in (True, False)]
            if names != [key, value]:
                _warn(f"{self._get_cache_path(key, value)}: a damaged or forged run-cache record: deleted")
                os.unlink(self._get_cache_path(key, value))
                return None
        return record

    return checked


def _transfer_records(self: Any, from_odb: Any, to_odb: Any, force: bool = True) -> list[tuple[str, str]]:
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
    copied = []
    for name in _records(source, from_odb.path):
        if name not in there:
            parts = name.split("/")
            fs.generic.log_exceptions(fs.generic.copy)(
                source, source.join(from_odb.path, *parts), target, target.join(to_odb.path, *parts)
            )
            copied.append((parts[-2], parts[-1]))
    if copied and to_odb is self.repo.cache.legacy:
        with _note(self).open("a") as note:
            note.writelines(f"{name}\n" for _, name in copied)
    return copied


def _pulled(self: Any) -> set[str]:
    """Return the names of the records that were downloaded into this cache."""
    return set(_note(self).read_text().split()) if _note(self).is_file() else set()


def _note(self: Any) -> Path:
    return Path(self.cache_dir).with_name(_PULLED)


def _records(filesystem: Any, folder: str) -> Iterator[str]:
    """Yield the run-cache records below ``folder`` as runs/XX/KEY/VALUE."""
    runs = filesystem.join(folder, "runs")
    for file in filesystem.find(runs) if filesystem.exists(runs) else ():
        name = filesystem.as_posix(filesystem.relpath(file, folder))
        if _RECORD.fullmatch(name):
            yield name
        elif name.rpartition("/")[2].startswith("."):  # a temporary file of a kill
            continue
        else:
            _warn(f"{file}: not the name of a run-cache record: skipped")


def _verifying(get_remote: Callable[..., Any]) -> Callable[..., Any]:
    """Verify each object of any remote by its hash, as `dvc remote modify NAME verify true` does."""

    def verifying(*arguments: Any, **options: Any) -> Any:
        remote = get_remote(*arguments, **options)
        remote.config["verify"] = True
        return remote

    return verifying


def _warn(message: str) -> None:
    print(f"warning: {printable(message)}", file=sys.stderr)
