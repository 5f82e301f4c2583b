"""What another program prints: git, and DVC of this environment."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from isoflop.runtime.errors import UserError

_SAID = 4000  # characters of what a program that failed said
_OF_GIT = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")  # set in a hook, of another repository than ``folder``'s


def command_output(command: Sequence[str], folder: Path) -> str:
    """What ``command`` prints, run in ``folder``, with the programs of this environment before others.

    Raises:
        UserError: it fails, or there is no such program; with what it said.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {name: value for name, value in os.environ.items() if name not in _OF_GIT}
    environment |= {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    program = [sys.executable, "-m", "dvc"] if command[0] == "dvc" else [command[0]]
    try:
        done = subprocess.run(
            [*program, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError as error:
        raise UserError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise UserError(f"{' '.join(command)}: {(done.stdout + done.stderr)[-_SAID:].strip()}")
    return done.stdout
