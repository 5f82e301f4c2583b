"""What stages ran in this workspace, in how many seconds: it tells their outputs from those that a cache restored."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable
from pathlib import Path

from isoflop.runtime.dvc_md5 import dvc_md5, files_in

_LOG = Path(".isoflop") / "executions.jsonl"  # in the folder the command runs in; ignored by git and DVC
_LARGE = 64 << 20  # bytes


def note_execution(outputs: Iterable[Path], seconds: float) -> None:
    """Remember that these outputs were made here. They are hashed once more for it, but for large ones."""
    sizes = {output: sum(file.stat().st_size for file in files_in(output)) for output in outputs}
    noted = [output for output, size in sizes.items() if size <= max(_LARGE, min(sizes.values()))]
    line = {"outputs": {output.as_posix(): dvc_md5(output) for output in noted}, "seconds": round(seconds, 2)}
    with contextlib.suppress(OSError):  # the outputs are whole, whether this can be written or not
        append_log(Path(), json.dumps(line) + "\n")


def executions(project: Path) -> list[tuple[dict[str, str], float]]:
    """Of each execution in this workspace, oldest first: outputs with their MD5 as dvc.lock has it, and seconds."""
    found = []
    for line in read_log(project).splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):  # a line cut short by a kill
            entry = json.loads(line)
            found.append((dict(entry["outputs"]), float(entry["seconds"])))
    return found


def read_log(project: Path) -> str:
    """The lines that ``note_execution`` wrote in ``project``."""
    with contextlib.suppress(FileNotFoundError):
        return (project / _LOG).read_text()
    return ""


def append_log(project: Path, lines: str) -> None:
    """Add what another workspace of the project has noted."""
    if lines:
        (project / _LOG).parent.mkdir(exist_ok=True)
        with (project / _LOG).open("a") as log:
            log.write(lines)
