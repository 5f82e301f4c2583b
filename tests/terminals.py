"""What a terminal gets from a program."""

from __future__ import annotations

import os
import pty
import subprocess
import sys

from tests.conftest import ROOT


def on_terminal(code: str, **env: str) -> str:
    """What a terminal of 100 columns gets from Python code."""
    leader, follower = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **env}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=follower, stderr=follower, cwd=ROOT, env=environment
    )
    os.close(follower)
    seen = b""
    with os.fdopen(leader, "rb", buffering=0) as stream:
        while True:
            try:
                part = stream.read(65536)
            except OSError:  # how Linux says that the other side is closed
                break
            if not part:
                break
            seen += part
    assert process.wait() == 0
    return seen.decode()
