"""``isoflop init`` that is ended half-way leaves nothing."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.pictures import take_pictures


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_no_copy_of_the_images_stays(number: signal.Signals, tmp_path: Path) -> None:
    take_pictures(tmp_path / "photos")
    command = [sys.executable, "-m", "isoflop.cli.main", "init", "project", "--images", "photos", "--copy"]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not list(tmp_path.glob(".project.partial*/data/images")):
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait() == (-number if number == signal.SIGKILL else 128 + number)
        assert process.stderr and "Traceback" not in process.stderr.read()
    if number == signal.SIGKILL:  # the next one deletes it
        again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert again.returncode == 0, again.stderr
    assert {path.name for path in tmp_path.iterdir()} - {"project"} == {"photos"}
