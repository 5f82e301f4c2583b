"""Run every stage on a full disk, and on a disk that fills up while the stage writes.

``python -m benchmarks.full_disk`` runs the smoke pipeline in a temporary clone. Then it runs each stage again with its
outputs on a file system (a tmpfs, which requires root) with no space and with space for half of them. It prints a line
of JSON for each stage that does not report the full disk in one line, or leaves files behind; then it exits with 1.
"""

from __future__ import annotations

import importlib
import json
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from benchmarks.faults import clone_project, repro
from isoflop.runtime.signature import Out, contract, option

_PAGE = 4096  # bytes; the unit of a tmpfs
_FILLER = "filler"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """Mount a file system of ``size`` bytes at ``folder``.

    Raises:
        CalledProcessError: the process does not run as root.
    """
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def commands(clone: Path) -> dict[str, list[str]]:
    """Return the command of each stage that DVC has run."""
    stages = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]
    return {name: [sys.executable, *shlex.split(stage["cmd"])[1:]] for name, stage in stages.items()}


def outputs(command: list[str]) -> dict[int, str]:
    """Return the paths that a stage writes, by their index in its command."""
    module = importlib.import_module(command[command.index("-m") + 1])
    options = [option(name) for name, kind in contract(module.main).items() if kind == Out]
    return {index + 1: command[index + 1] for index, word in enumerate(command) if word in options}


def run_without_room(clone: Path, stage: str, disk: Path, share: float) -> list[str]:
    """Run ``stage`` with space for a ``share`` of its outputs; return what is wrong about how it fails."""
    command = commands(clone)[stage]
    paths = outputs(command)
    needed = sum(_bytes(clone / path) for path in paths.values())
    pages = int(share * needed) // _PAGE
    with small_disk(disk, max(1, pages) * _PAGE):
        if not pages:
            (disk / _FILLER).write_bytes(bytes(_PAGE))
        for index, path in paths.items():
            command[index] = str(disk / Path(path).name)
        done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
        left = sorted(path.name for path in disk.iterdir() if path.name != _FILLER)
    lines = done.stderr.strip().splitlines()
    expected = f"error: {stage if '--variant' in command else stage.partition('@')[0]}: "
    wrong = []
    if not done.returncode:
        wrong.append("got exit status 0, expected 1")
    elif not (lines and lines[-1].startswith(expected) and "the disk is full" in lines[-1]):
        wrong.append(f"got the message {lines[-1:]}")
    if "Traceback" in done.stderr:
        wrong.append("got a traceback")
    if left:
        wrong.append(f"left the files {', '.join(left)}")
    return wrong


def _bytes(path: Path) -> int:
    """Return the size of a file or folder in whole pages, as on a tmpfs."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return sum(-(-file.stat().st_size // _PAGE) * _PAGE for file in files)


def main() -> int:
    os.environ |= {"DVC_NO_ANALYTICS": "1", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    wrong: dict[str, list[str]] = {}
    tried = 0
    with tempfile.TemporaryDirectory() as folder:
        clone = clone_project(Path(folder))
        repro(clone)
        for stage in commands(clone):
            for share in (0.0, 0.5):
                tried += 1
                if problems := run_without_room(clone, stage, Path(folder) / "disk", share):
                    wrong[f"{stage}, space for {share}"] = problems
                    print(json.dumps({"stage": stage, "space_for": share, "wrong": problems}), flush=True)
    print(json.dumps({"tried": tried, "wrong": len(wrong)}), flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
