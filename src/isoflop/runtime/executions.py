"""A log of the stages that ran in this workspace and their seconds; other outputs were restored from a cache."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from isoflop.runtime.dvc_md5 import dvc_md5, files_in

_LOG = Path(".isoflop") / "executions.jsonl"  # relative to the working directory; ignored by git and DVC
_LARGE = 64 << 20  # bytes


def log_execution(outputs: Iterable[Path], seconds: float) -> None:
    """Log that a stage wrote ``outputs`` here, with their hashes, except those of large ones."""
    with contextlib.suppress(OSError):  # a failure to log must not fail a stage that is done
        append_log(Path(), json.dumps(_entry(outputs, seconds)) + "\n")


def _entry(outputs: Iterable[Path], seconds: float) -> dict[str, Any]:
    sizes = {output: sum(file.stat().st_size for file in files_in(output)) for output in outputs}
    logged = [output for output, size in sizes.items() if size <= max(_LARGE, min(sizes.values()))]
    return {"outputs": {output.as_posix(): dvc_md5(output) for output in logged}, "seconds": round(seconds, 2)}


def executions(project: Path) -> list[tuple[dict[str, str], float]]:
    """Return the executions in this workspace, oldest first: MD5 by output, as in dvc.lock, and seconds."""
    found = []
    for line in read_log(project).splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut short by a kill
            entry = json.loads(line)
            found.append((dict(entry["outputs"]), float(entry["seconds"])))
    return found


def read_log(project: Path) -> str:
    """Return the lines that ``log_execution`` wrote in ``project``."""
    with contextlib.suppress(FileNotFoundError):
        return (project / _LOG).read_text()
    return ""


def append_log(project: Path, lines: str) -> None:
    """Append the log of another workspace of the project."""
    if lines:
        (project / _LOG).parent.mkdir(exist_ok=True)
        with (project / _LOG).open("a") as log:
            log.write(lines)
