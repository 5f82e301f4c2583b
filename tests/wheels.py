"""The wheel of this project, built as it is released, and commands that run what is in it."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.conftest import ROOT, run_command


def built_wheel(folder: Path) -> Path:
    """Build the wheel of the files as they are now in ``folder``; returns a folder with what an installation holds."""
    source = folder / "source"
    listed = run_command("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    options = ("--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
    run_command(sys.executable, "-m", "pip", "wheel", *options, "-w", str(folder), str(source), cwd=folder)
    shutil.rmtree(source)
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    return folder / "installed"


def run_installed(
    package: Path, *command: str, cwd: Path, check: bool = True, **env: str
) -> subprocess.CompletedProcess[str]:
    """A command of this environment whose isoflop is the one in ``package``; `isoflop` itself by its module."""
    program = (sys.executable, "-m", "isoflop.cli.main") if command[0] == "isoflop" else (command[0],)
    return run_command(*program, *command[1:], cwd=cwd, check=check, PYTHONPATH=str(package), **env)
