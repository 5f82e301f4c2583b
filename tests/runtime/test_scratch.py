"""Scratch folders: abandoned ones are deleted, those in use stay, and a failed move leaves the target as it was."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from isoflop.runtime.scratch import move_into, scratch_folder

_HOLD = (
    "import sys, time; from pathlib import Path; from isoflop.runtime.scratch import scratch_folder\n"
    "with scratch_folder(Path(sys.argv[1]), 'release') as folder:\n"
    "    (folder / 'half').touch(); print(folder, flush=True); time.sleep(60)\n"
)


def test_what_a_killed_process_left_is_deleted_and_what_another_uses_is_not(tmp_path: Path) -> None:
    (tmp_path / ".other.partial1").mkdir()
    command = [sys.executable, "-c", _HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        held = Path(process.stdout.readline().strip())
        with scratch_folder(tmp_path, "release") as own:
            assert (held / "half").exists() and own.is_dir()
        process.send_signal(signal.SIGKILL)
    assert held.exists()
    with scratch_folder(tmp_path, "release") as own:
        assert {path.name for path in tmp_path.iterdir()} == {own.name, ".other.partial1"}
    assert [path.name for path in tmp_path.iterdir()] == [".other.partial1"]


def test_a_link_is_not_taken_for_a_scratch_folder(tmp_path: Path) -> None:
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "notes").touch()
    (tmp_path / ".release.partial0").symlink_to(tmp_path / "own")
    with scratch_folder(tmp_path, "release"):
        pass
    assert (tmp_path / "own" / "notes").exists()


def test_files_replace_those_of_their_name(tmp_path: Path) -> None:
    for name, text in (("old/a", "1"), ("old/c", "1"), ("new/a", "2"), ("new/b", "2")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    move_into(tmp_path / "new", tmp_path / "old")
    assert {file.name: file.read_text() for file in (tmp_path / "old").iterdir()} == {"a": "2", "b": "2", "c": "1"}


def test_a_move_that_fails_leaves_nothing_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("old/a", "new/b", "new/c/d"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    move = shutil.move

    def full(source: Path, target: Path) -> None:
        if source.name == "c":
            raise OSError(28, os.strerror(28))
        move(source, target)

    monkeypatch.setattr(shutil, "move", full)
    with pytest.raises(OSError, match="No space left"):
        move_into(tmp_path / "new", tmp_path / "old")
    assert [file.name for file in (tmp_path / "old").iterdir()] == ["a"]
