"""Damaged objects in DVC's cache, damaged outputs: noticed, named and made again, and read by no stage."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.runtime.dvc_md5 import dvc_md5
from tests.clones import executed
from tests.conftest import run_command

WEIGHTS = "models/base/weights.safetensors"


@pytest.fixture
def clone(clone: Path) -> Path:
    """Everything has run, and another number of bins is asked for: `evaluate` has to read the base again."""
    params = clone / "params.yaml"
    params.write_text(params.read_text().replace("ece_bins: 15", "ece_bins: 9"))
    return clone


def cached(clone: Path, output: str) -> Path:
    md5 = dvc_md5(clone / output)
    return clone / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.parametrize(
    ("damage", "remote"),
    [
        (flip, True),
        (truncate, False),
        pytest.param(flip, False, marks=pytest.mark.nightly),
        pytest.param(truncate, True, marks=pytest.mark.nightly),
    ],
)
def test_a_damaged_object_is_named_and_not_read(
    clone: Path, tmp_path: Path, damage: Callable[[Path], None], remote: bool
) -> None:
    if remote:
        run_command("dvc", "remote", "add", "-d", "team", str(tmp_path / "remote"), cwd=clone)
        run_command("dvc", "push", cwd=clone)
    good, stored = (clone / WEIGHTS).read_bytes(), cached(clone, WEIGHTS)
    stored.chmod(0o644)
    damage(stored)
    stored.chmod(0o444)
    shutil.rmtree(clone / "models" / "base")
    refused = run_command("dvc", "repro", "evaluate", cwd=clone, check=False)
    assert refused.returncode
    assert "error: evaluate: models/base: got MD5 " in refused.stderr and "Traceback" not in refused.stderr
    assert "metrics/evaluate.json" in run_command("dvc", "status", "evaluate", cwd=clone).stdout

    said = run_command("isoflop", "doctor", "--cache", cwd=clone, check=False)
    assert said.returncode == 1 and stored.relative_to(clone).as_posix() in said.stdout
    assert stored.exists(), "looking removes nothing"
    run_command("isoflop", "doctor", "--remove-damaged", cwd=clone)
    assert not stored.exists() and not (clone / WEIGHTS).exists()
    pull = ["--pull"] if remote else []
    ran = executed(run_command("dvc", "repro", *pull, "evaluate", cwd=clone).stdout)
    assert ran == ({"evaluate"} if remote else {"train", "evaluate"})
    assert (clone / WEIGHTS).read_bytes() == good
    assert "ok   cache" in run_command("isoflop", "doctor", "--cache", cwd=clone).stdout


def test_a_missing_object_is_made_again(clone: Path) -> None:
    good = (clone / WEIGHTS).read_bytes()
    cached(clone, WEIGHTS).unlink()
    shutil.rmtree(clone / "models" / "base")
    assert executed(run_command("dvc", "repro", "evaluate", cwd=clone).stdout) == {"train", "evaluate"}
    assert (clone / WEIGHTS).read_bytes() == good


def test_a_list_of_files_that_is_damaged(clone: Path) -> None:
    """The object of a folder, whose name ends in .dir."""
    stored = cached(clone, "models/base")
    assert stored.suffix == ".dir"
    stored.chmod(0o644)
    stored.write_text("[]")
    said = run_command("isoflop", "doctor", "--remove-damaged", cwd=clone)
    assert "warn cache" in said.stdout and not stored.exists()
    assert executed(run_command("dvc", "repro", "evaluate", cwd=clone).stdout) <= {"train", "evaluate"}


def test_an_input_that_is_changed_by_hand_is_not_taken_for_the_stages_own(clone: Path) -> None:
    flip(clone / WEIGHTS)
    said = run_command("isoflop", "doctor", "--remove-damaged", cwd=clone).stdout
    assert "all objects are intact; outputs that differ from dvc.lock" in said
    assert (clone / WEIGHTS).exists(), "it is in no cache: nobody but its owner may delete it"
    refused = run_command("dvc", "repro", "--single-item", "evaluate", cwd=clone, check=False)
    assert refused.returncode and "error: evaluate: models/base: got MD5 " in refused.stderr
    ran = executed(run_command("dvc", "repro", "evaluate", cwd=clone).stdout)  # the whole graph mends it
    assert ran <= {"train", "evaluate"} and "evaluate" in ran
