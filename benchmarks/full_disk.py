"""Every stage on a disk that is full, or fills up while it writes.

``python -m benchmarks.full_disk`` runs the smoke pipeline in a temporary clone, then each stage's command again with
its outputs on a file system too small for them (a tmpfs, which takes root): room for none, and for half. A line of
JSON for each that did not say so in one line, or left something behind; then exit status 1.
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

_PAGE = 4096  # bytes, which a tmpfs counts in
_FILLER = "filler"


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of ``size`` bytes at ``folder``.

    Raises:
        CalledProcessError: not root.
    """
    folder.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True, capture_output=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def commands(clone: Path) -> dict[str, list[str]]:
    """Of each stage that has run, what DVC ran."""
    stages = yaml.safe_load((clone / "dvc.lock").read_text())["stages"]
    return {name: [sys.executable, *shlex.split(stage["cmd"])[1:]] for name, stage in stages.items()}


def outputs(command: list[str]) -> dict[int, str]:
    """The paths that a stage writes, by their place in its command."""
    module = importlib.import_module(command[command.index("-m") + 1])
    options = [option(name) for name, kind in contract(module.main).items() if kind == Out]
    return {place + 1: command[place + 1] for place, word in enumerate(command) if word in options}


def run_without_room(clone: Path, stage: str, disk: Path, share: float) -> list[str]:
    """What went otherwise than it should where the outputs of ``stage`` find room for a ``share`` of their bytes."""
    command = commands(clone)[stage]
    places = outputs(command)
    needed = sum(_bytes(clone / path) for path in places.values())
    pages = int(share * needed) // _PAGE
    with small_disk(disk, max(1, pages) * _PAGE):
        if not pages:
            (disk / _FILLER).write_bytes(bytes(_PAGE))
        for place, path in places.items():
            command[place] = str(disk / Path(path).name)
        done = subprocess.run(command, cwd=clone, capture_output=True, text=True, check=False)
        left = sorted(path.name for path in disk.iterdir() if path.name != _FILLER)
    said = done.stderr.strip().splitlines()
    expected = f"error: {stage if '--variant' in command else stage.partition('@')[0]}: "
    wrong = []
    if not done.returncode:
        wrong.append("it ended with exit status 0")
    elif not (said and said[-1].startswith(expected) and "the disk is full" in said[-1]):
        wrong.append(f"it said {said[-1:]}")
    if "Traceback" in done.stderr:
        wrong.append("a traceback")
    if left:
        wrong.append(f"left {', '.join(left)}")
    return wrong


def _bytes(path: Path) -> int:
    """Whole pages, as a tmpfs counts."""
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
                if said := run_without_room(clone, stage, Path(folder) / "disk", share):
                    wrong[f"{stage}, room for {share}"] = said
                    print(json.dumps({"stage": stage, "room_for": share, "wrong": said}), flush=True)
    print(json.dumps({"tried": tried, "wrong": len(wrong)}), flush=True)
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
