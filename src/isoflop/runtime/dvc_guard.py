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
import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from isoflop.runtime.files import sync
from isoflop.runtime.terminal import printable

_FIRST = "dvc.repo"  # every command that reads or restores anything imports it
_RECORD = re.compile(r"runs/([0-9a-f]{2})/\1[0-9a-f]{62}/[0-9a-f]{64}")
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
_PROJECT_FILE = "code.yaml"  # only in projects and checkouts of isoflop


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
        (parsing.DataResolver, "__init__"): _checked_names,
        (rwlock, "_edit_rwlock"): _healing,
        (_common, "_dump_data"): _whole,
        (_yaml, "_dump_data"): _whole,
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
    has none."""
    from dvc.stage import cache

    key = cache._get_stage_hash(stage)
    folder = Path(self._get_cache_dir(key))
    files = sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True) if folder.is_dir() else []
    for file in files:
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
    return copied


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


def _checked_names(create: Callable[..., None]) -> Callable[..., None]:
    """Refuse values of params.yaml that dvc.yaml puts into commands and paths unless they are plain words.

    A `;` would be run by the shell, and `..` would make DVC delete a folder that is no output.
    """

    def checked(self: Any, repo: Any, wdir: str, content: dict[str, Any]) -> None:
        create(self, repo, wdir, content)
        if not repo.fs.exists(repo.fs.join(repo.root_dir, _PROJECT_FILE)):
            return
        from dvc.exceptions import DvcException

        for name, definition in self.definitions.items():
            if hasattr(definition, "normalized_iterable"):
                for word in _strings(_plain(definition.normalized_iterable)):
                    if not _WORD.fullmatch(word):
                        raise DvcException(
                            f"params.yaml: got {word!r} in what stage {name} iterates over, expected only letters, "
                            "digits, and _ . - after the first"
                        )
        path = _plain(self.context.data).get("data", {})
        if isinstance(path, Mapping) and "://" in str(path.get("path")):
            raise DvcException(f"params.yaml: data.path: got {path['path']!r}, expected a path on this machine")

    return checked


def _plain(value: Any) -> Any:
    """Return DVC's wrapped values as Python's own."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    return _plain(value.value) if hasattr(value, "value") else value


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield str(key)
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)
    elif isinstance(value, str):
        yield value


def _healing(edit: Callable[..., Any]) -> Callable[..., Any]:
    """Delete a lock file that a kill cut short; DVC writes it in place, and refuses to run while it is there."""

    @contextmanager
    def healing(lock_dir: str, fs: Any, hardlink: bool) -> Iterator[Any]:
        from dvc.lock import make_lock
        from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, RWLockFileCorruptedError, RWLockFileFormatError

        manager = edit(lock_dir, fs, hardlink)
        try:
            lock = manager.__enter__()
        except (RWLockFileCorruptedError, RWLockFileFormatError):
            with make_lock(os.path.join(lock_dir, RWLOCK_LOCK), tmp_dir=lock_dir, hardlink_lock=hardlink):
                _delete_if_cut(Path(lock_dir, RWLOCK_FILE))
            manager = edit(lock_dir, fs, hardlink)
            lock = manager.__enter__()
        try:
            yield lock
        except BaseException:
            manager.__exit__(*sys.exc_info())
            raise
        manager.__exit__(None, None, None)

    return healing


def _whole(dump: Callable[..., None]) -> Callable[..., None]:
    """Write dvc.lock and other files next to their place and rename them, so that a kill cannot cut them short."""

    def whole(path: Any, data: Any, dumper: Any, fs: Any = None, **options: Any) -> None:
        if getattr(fs, "protocol", "local") != "local":
            return dump(path, data, dumper, fs, **options)
        final = Path(os.path.realpath(path))
        partial = final.with_name(f".{final.name}.partial{os.getpid()}")
        try:
            dump(str(partial), data, dumper, **options)
            if final.exists():
                shutil.copymode(final, partial)
            sync(partial)
            os.replace(partial, final)
        finally:
            partial.unlink(missing_ok=True)

    return whole


def _delete_if_cut(file: Path) -> None:
    from dvc.rwlock import SCHEMA
    from voluptuous import Invalid

    try:
        SCHEMA(json.loads(file.read_text(encoding="utf-8")))  # another process may have healed it by now
    except (ValueError, Invalid):
        file.unlink()
        _warn(f"{file}: cut short, because a DVC command was killed: removed")
    except FileNotFoundError:
        pass


def _warn(message: str) -> None:
    print(f"warning: {printable(message)}", file=sys.stderr)
