"""For ``dvc_guard``: files of DVC that a kill or a full disk would leave cut short."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from isoflop.runtime.files import sync


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
        print(f"warning: {file}: cut short, because a DVC command was killed: removed", file=sys.stderr)
    except FileNotFoundError:
        pass
