"""Checks that DVC itself lacks, applied inside of each DVC process of the environment that isoflop is installed in.

Whoever can write to a remote can write a record of its run cache and a list of files, and DVC (3.67) restores what they
name: files outside of the project too. It also expands values of params.yaml into commands and paths before any stage
runs, and a kill can leave files in its folders that block every later run. `isoflop-dvc-guard.pth`, which is installed
next to the package, calls ``install`` when a DVC process starts (docs/decisions/013).
"""

from __future__ import annotations

import errno
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import re
import stat
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from isoflop.dvc_guard.kills import healing, written_whole
from isoflop.dvc_guard.names import checked_names
from isoflop.dvc_guard.records import checked_record, is_md5, load_record, transfer_records

_MOST_LEVELS, _MOST_BYTES = 100, 255  # of a name in a list of files: folders, and bytes of each
_FIRST = "dvc.repo"  # every command that reads or restores anything imports it


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
    from dvc_data.hashfile.db import local

    if getattr(tree.Tree, "isoflop_guard", False):
        return
    replacements: dict[tuple[Any, str], Callable[[Any], Any]] = {
        (local.LocalHashFileDB, "check"): _of_a_file,
        (local.LocalHashFileDB, "get"): _as_a_file,
        (tree.Tree, "from_list"): lambda method: classmethod(_checked_list(method.__func__)),
        (cache.StageCache, "_load_cache"): checked_record,
        (cache.StageCache, "_load"): lambda _: load_record,
        (cache.StageCache, "transfer"): lambda _: transfer_records,
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
    """Refuse a list of files with a name that leads out of its folder, or an MD5 that leads out of the cache."""

    def checked(cls: Any, entries: Iterable[dict[str, Any]], *arguments: Any, **options: Any) -> Any:
        from dvc_objects.errors import ObjectFormatError

        entries = list(entries)
        names: set[str] = set()
        for entry in entries:
            name = entry.get("relpath") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not _is_inside(name):
                raise ObjectFormatError(f"a list of files names {name!r}, which leads out of its folder: refused")
            if not _can_be_written(name):
                raise ObjectFormatError(f"a list of files names {name[:80]!r}, which is no name of a file: refused")
            names.add(name)
        if any(folder in names for name in names for folder in _folders(name)):
            raise ObjectFormatError("a list of files has a file in a file: refused")
        listed = from_list(cls, entries, *arguments, **options)
        for _, _, found in listed:
            # DVC makes a path in the cache of it, reads the file there, and deletes it if it has another MD5
            if found and not _is_object_name(found.name, found.value):
                raise ObjectFormatError(f"a list of files has {found.value!r}, which is no MD5: refused")
        return listed

    return checked


def _is_inside(name: str) -> bool:
    parts = re.split(r"[/\\]", name) if os.name == "nt" else name.split("/")
    # git runs programs that the configuration of a repository names
    refused = ("", ".", "..", ".git")
    return not any(part.casefold() in refused or "\0" in part or (os.name == "nt" and ":" in part) for part in parts)


def _folders(name: str) -> Iterator[str]:
    while "/" in name:
        name = name.rpartition("/")[0]
        yield name


def _can_be_written(name: str) -> bool:
    """Return whether a file system takes a name, and a terminal shows it; DVC would stop midway, at every command."""
    try:
        parts = [part.encode() for part in name.split("/")]
    except UnicodeEncodeError:
        return False
    is_short = len(parts) <= _MOST_LEVELS and max(map(len, parts)) <= _MOST_BYTES
    return is_short and not any(unicodedata.category(character) == "Cc" for character in name)


def _is_object_name(kind: Any, value: Any) -> bool:
    if kind in ("md5", "md5-dos2unix"):
        return is_md5(value)
    return isinstance(value, str) and not re.search(r"[/\\\0]|^\.", value)  # of a cloud's versions


def _of_a_file(check: Callable[..., Any]) -> Callable[..., Any]:
    """Take an object of a folder for missing if it is a link, which could lead to any file of this machine, or a pipe
    or device, which never ends."""

    def checked(self: Any, oid: str, *arguments: Any, **options: Any) -> Any:
        path = self.oid_to_path(oid)
        if _is_special(path):
            raise FileNotFoundError(errno.ENOENT, "a link, a pipe or a device instead of an object", path)
        return check(self, oid, *arguments, **options)

    return checked


def _as_a_file(get: Callable[..., Any]) -> Callable[..., Any]:
    """Of a list that is there, DVC takes the files for there, too: what is read must then be missing."""

    def gotten(self: Any, oid: str) -> Any:
        found = get(self, oid)
        if _is_special(found.path):
            found.path += " (a link, a pipe or a device)"
        return found

    return gotten


def _is_special(path: str) -> bool:
    return os.path.lexists(path) and not stat.S_ISREG(os.lstat(path).st_mode)


def _verifying(get_remote: Callable[..., Any]) -> Callable[..., Any]:
    """Verify each object of any remote by its hash, as `dvc remote modify NAME verify true` does."""

    def verifying(*arguments: Any, **options: Any) -> Any:
        remote = get_remote(*arguments, **options)
        remote.config["verify"] = True
        return remote

    return verifying
