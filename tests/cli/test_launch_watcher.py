"""A killed `isoflop launch` leaves no processes of Ray and no copies of the project."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil  # type: ignore[import-untyped]
import pytest

_LAUNCH = """
import subprocess, sys, time
from pathlib import Path
from isoflop.launch.watcher import watched
with watched(sys.argv[1]) as follow:
    agent = subprocess.Popen(["sleep", "120"], start_new_session=True)
    follow()
    writes = "while sleep 0.01; do mkdir -p new && date >> new/file; done"
    stage = subprocess.Popen(["sh", "-c", writes], cwd=Path(sys.argv[1]) / "copy", start_new_session=True)
    print(agent.pid, stage.pid, flush=True)
    time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("killed", [True, False])
def test_processes_and_copies_end_with_a_killed_launch(tmp_path: Path, killed: bool) -> None:
    """Also a stage that a worker of Ray started later, and that still writes."""
    scratch = tmp_path / "scratch"
    (scratch / "copy").mkdir(parents=True)
    command = [sys.executable, "-c", _LAUNCH, str(scratch), "60" if killed else "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        others = [psutil.Process(int(pid)) for pid in process.stdout.readline().split()]
        if killed:
            process.send_signal(signal.SIGKILL)
        process.wait()
    until = time.monotonic() + 60
    while killed and (scratch.exists() or any(map(runs, others))) and time.monotonic() < until:
        time.sleep(0.1)
    found = [*map(runs, others), scratch.exists()]
    for other in filter(runs, others):
        other.kill()
    assert found == [not killed] * 3, "a launch that ends by itself cleans up itself"


def runs(process: psutil.Process) -> bool:
    try:
        return bool(process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
