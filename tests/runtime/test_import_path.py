"""A file in the working folder with the name of a library is not imported by a stage."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from isoflop.project.project_files import project_texts
from tests.conftest import ROOT, run_command

_PLANTED = "open('CODE_RAN', 'w')\n"
_LIBRARIES = ("json", "yaml", "argparse", "numpy", "pydantic", "torch")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in _LIBRARIES:
        (tmp_path / f"{name}.py").write_text(_PLANTED)
    return tmp_path


def test_in_a_checkout(folder: Path) -> None:
    shutil.copytree(ROOT / "stages", folder / "stages")
    shutil.copytree(ROOT / "src", folder / "src")
    command = ("python", "-m", "stages.prepare", "--help")
    done = run_command(*command, cwd=folder, check=False, PYTHONPATH="", ISOFLOP_TESTS_REAL="1")
    assert "error: prepare: code.yaml: not found" in done.stderr, "after all imports"
    assert not (folder / "CODE_RAN").exists()


def test_in_a_project(folder: Path) -> None:
    commands = re.findall(r"python .*", project_texts()["dvc.yaml"])
    assert len(commands) > 10 and all(command.startswith("python -P -m isoflop.stages.") for command in commands)
    run_command(*commands[0].split()[:4], cwd=folder, check=False, ISOFLOP_TESTS_REAL="1")
    assert not (folder / "CODE_RAN").exists()
