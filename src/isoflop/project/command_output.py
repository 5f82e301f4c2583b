"""Output of other programs: git, and the DVC of this environment."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from isoflop.runtime.errors import UserError
from isoflop.runtime.terminal import without_credentials

_SAID = 4000  # characters of the output of a program that failed
_OF_GIT = (
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
)  # set by a git hook, for another repository


def command_output(command: Sequence[str], folder: Path) -> str:
    """Run ``command`` in ``folder`` and return its output. Programs of this environment take precedence.

    Raises:
        UserError: the program is missing or fails; the message has its output.
    """
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    environment = {name: value for name, value in os.environ.items() if name not in _OF_GIT}
    environment |= {"PATH": path, "DVC_NO_ANALYTICS": "1"}
    program = [sys.executable, "-P", "-m", "dvc"] if command[0] == "dvc" else [command[0]]
    try:
        done = subprocess.run(
            [*program, *command[1:]], cwd=folder, env=environment, capture_output=True, text=True, errors="replace"
        )
    except FileNotFoundError as error:
        raise UserError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        # remotes of DVC and git may have a password in their URL
        said = without_credentials((done.stdout + done.stderr)[-_SAID:].strip())
        raise UserError(f"{without_credentials(' '.join(command))}: {said}")
    return done.stdout


def in_git(folder: Path) -> bool:
    """Return whether ``folder`` is in a git repository.

    Raises:
        UserError: git is missing, or refuses the repository, because another user owns it.
    """
    try:
        command_output(["git", "rev-parse", "--git-dir"], folder)
    except UserError as error:
        whole = folder.resolve()
        root = next((parent for parent in (whole, *whole.parents) if (parent / ".git").exists()), None)
        if root is None:
            return False
        why = " ".join(str(error).split()).partition("fatal: ")[2].partition(" To add an exception")[0] or str(error)
        cure = f"`git config --global --add safe.directory {shlex.quote(str(root))}`, if you trust its owner"
        raise UserError(f"{folder}: git refuses the repository ({why}); fix: {cure}") from None
    return True
