"""For ``dvc_guard``: files of DVC that a kill or a full disk would leave cut short."""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from isoflop.runtime.files import sync

_OLD_S = 3600.0  # of a file that a living process would have renamed long ago


def healing(edit: Callable[..., Any]) -> Callable[..., Any]:
    """Delete a lock file that a kill cut short; DVC writes it in place, and refuses to run while it is there."""

    @contextmanager
    def healed(lock_dir: str, fs: Any, hardlink: bool) -> Iterator[Any]:
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

    return healed


def written_whole(dump: Callable[..., None]) -> Callable[..., None]:
    """Write dvc.lock and other files elsewhere and rename them, so that a kill cannot cut them short."""

    def whole(path: Any, data: Any, dumper: Any, fs: Any = None, **options: Any) -> None:
        if getattr(fs, "protocol", "local") != "local":
            return dump(path, data, dumper, fs, **options)
        final = Path(os.path.realpath(path))
        folder = _folder_of_partials(final)
        for left in folder.glob(f".{final.name}.partial*"):  # by a kill
            with suppress(FileNotFoundError):  # renamed by now
                if time.time() - left.stat().st_mtime > _OLD_S:
                    left.unlink()
        partial = folder / f".{final.name}.partial{os.getpid()}"
        try:
            dump(str(partial), data, dumper, **options)
            if final.exists():
                shutil.copymode(final, partial)
            sync(partial)
            os.replace(partial, final)
        finally:
            partial.unlink(missing_ok=True)

    return whole


def _folder_of_partials(final: Path) -> Path:
    """Return DVC's folder of temporary files, which git ignores, if a file can be renamed from there to ``final``."""
    for folder in final.parents:
        if (temporary := folder / ".dvc" / "tmp").is_dir():
            return temporary if temporary.stat().st_dev == final.parent.stat().st_dev else final.parent
    return final.parent


def _delete_if_cut(file: Path) -> None:
    from dvc.rwlock import SCHEMA
    from voluptuous import Invalid

    try:
        SCHEMA(json.loads(file.read_text(encoding="utf-8")))  # another process may have healed it by now
    except (ValueError, Invalid):
        file.unlink()
        print(f"warning: {file}: cut short, because a DVC command was killed: removed", file=sys.stderr)
    except FileNotFoundError:
        pass
