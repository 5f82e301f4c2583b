"""Clean up after an ``isoflop launch`` that was killed: end Ray's processes and delete the copies of the project.

Ray's agents would run for another minute, and the copies would stay. ``isoflop launch`` starts this module as a process
of its own, which waits until the pipe on its standard input closes.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]

_ENDED = "ended\n"
_PATIENCE_S = 60.0  # for processes that do not end at once


@contextlib.contextmanager
def watched(scratch: str) -> Iterator[Callable[[], None]]:
    """Have ``scratch`` deleted if this process is killed before the end.

    Yields:
        A function that has the processes that descend from this one now ended, too.
    """
    command = [sys.executable, "-m", __name__, scratch]
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True, start_new_session=True) as watcher:
        pipe = watcher.stdin  # a session of its own, which Ctrl-C does not reach
        assert pipe is not None

        def follow() -> None:
            processes = psutil.Process().children(recursive=True)
            print(json.dumps([(one.pid, one.create_time()) for one in processes]), file=pipe, flush=True)

        try:
            yield follow
        finally:
            with contextlib.suppress(OSError):  # somebody ended it
                pipe.write(_ENDED)
                pipe.close()


def main() -> None:
    """Wait for the end of the launch; clean up unless it did so itself."""
    lines = list(sys.stdin)
    if lines[-1:] == [_ENDED]:
        return
    _end([(pid, created) for line in lines for pid, created in json.loads(line)])
    _delete(Path(sys.argv[1]))


def _end(processes: list[tuple[int, float]]) -> None:
    """Kill processes, unless another one has the number by now."""
    for pid, created in processes:
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(pid)
            if process.create_time() == created and pid != os.getpid():
                process.kill()


def _delete(scratch: Path) -> None:
    """Delete the copies, and end the stages that run in them: what they still write would stay."""
    until = time.monotonic() + _PATIENCE_S
    while scratch.exists() and time.monotonic() < until:
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if Path(process.cwd()).is_relative_to(scratch):
                    process.kill()
        shutil.rmtree(scratch, ignore_errors=True)
        time.sleep(0.1)


if __name__ == "__main__":
    main()
