"""Faults in short: kills at random moments, a full disk, a remote that goes away, two at once, nowhere to write.

``benchmarks.faults`` and ``benchmarks.full_disk`` do the first two to every stage.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks.faults import leftovers, lock, repro, repro_killed
from benchmarks.full_disk import run_without_room
from tests.clones import executed, same_outputs, second_clone
from tests.conftest import ROOT, run_command
from tests.remote_servers import ACCESS_KEY, SECRET_KEY, s3

_WRITERS = ("prepare", "train", "export@base", "scaling", "report")  # each writes with a library of its own


def test_stages_killed_at_random_moments_end_as_undisturbed_ones(clone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:/usr/bin:/bin")
    wanted, draw, killed = lock(clone), random.Random(0), 0
    stages = ("prepare", "train", "quantize@base", "scaling")
    for stage in stages:
        killed += repro_killed(clone, draw.uniform(1.0, 3.0), "--force", "--single-item", stage)
    assert killed >= 2, "or this shows nothing"
    repro(clone, "--no-run-cache")
    assert lock(clone) == wanted
    for stage in stages if leftovers(clone) else ():  # of one whose outputs DVC restored, until it runs again
        repro(clone, "--force", "--single-item", stage)
    assert lock(clone) == wanted and leftovers(clone) == []


def test_a_cut_rwlock_is_named_by_doctor_and_healed_by_dvc(clone: Path) -> None:
    cut_short = clone / ".dvc" / "tmp" / "rwlock"
    cut_short.write_text("")
    said = run_command("isoflop", "doctor", cwd=clone, check=False)
    assert said.returncode == 1 and "rm .dvc/tmp/rwlock" in said.stdout
    cut_short.write_text("")  # `doctor` asks DVC for stale results, and that healed it
    again = run_command("dvc", "repro", cwd=clone)
    assert executed(again.stdout) == set() and "cut short" in again.stderr


@pytest.mark.nightly
def test_an_experiment_that_ctrl_c_ended_is_taken_back_as_the_guide_states(clone: Path) -> None:
    (take_back,) = re.findall(r"`(git checkout HEAD -- .*?)`", (ROOT / "docs" / "howto" / "experiments.md").read_text())
    wanted = lock(clone)
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "DVC_NO_ANALYTICS": "1", "HOME": str(clone)}
    command = ["dvc", "exp", "run", "-S", "recipe.epochs=7", "train"]
    process = subprocess.Popen(
        command, cwd=clone, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout
    assert any("Running stage 'train'" in line for line in process.stdout)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert "epochs: 7" in (clone / "params.yaml").read_text(), "it was not ended in time"
    run_command("sh", "-c", take_back, cwd=clone)
    assert executed(run_command("dvc", "repro", cwd=clone).stdout) == set()
    assert lock(clone) == wanted and run_command("git", "status", "--porcelain", cwd=clone).stdout == ""


def test_a_lock_that_a_kill_cut_short_is_named_with_its_cure(clone: Path) -> None:
    """Nothing is lost, as DVC's run cache has what ran; only code.yaml, which is in git, is not in it."""
    before = lock(clone)
    (clone / "dvc.lock").write_text("")
    assert run_command("dvc", "repro", cwd=clone, check=False).returncode
    said = run_command("isoflop", "doctor", cwd=clone, check=False)
    assert said.returncode == 1 and "rm dvc.lock" in said.stdout
    (clone / "dvc.lock").unlink()
    assert executed(run_command("dvc", "repro", cwd=clone).stdout) == {"code"}
    assert lock(clone) == before


@pytest.mark.parametrize(
    ("stage", "share"),
    [
        ("train", 0.0),
        *((stage, 0.5) for stage in _WRITERS),
        *(pytest.param(stage, 0.0, marks=pytest.mark.nightly) for stage in _WRITERS if stage != "train"),
    ],
)
def test_a_full_disk_is_said_in_one_line_and_nothing_is_left(
    clone: Path, tmp_path: Path, stage: str, share: float
) -> None:
    try:
        wrong = run_without_room(clone, stage, tmp_path / "disk", share)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("mounting a small tmpfs takes root")
    assert wrong == []


def started(*command: str, cwd: Path, when: Path, files: int) -> subprocess.Popen[str]:
    """A command that is still running once the folder ``when`` has so many files."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    environment = {"PATH": path, "DVC_NO_ANALYTICS": "1", "HOME": str(cwd)}
    process = subprocess.Popen(
        command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 60
    while sum(path.is_file() for path in when.rglob("*")) < files and time.monotonic() < deadline:
        assert process.poll() is None, f"it ended before it could be cut off: {process.communicate()[0]}"
        time.sleep(0.005)
    return process


def test_a_remote_that_stops_midway_loses_nothing(clone: Path, tmp_path: Path) -> None:
    """While pushing and while pulling; once it is back, the same commands bring everything."""
    bucket = tmp_path / "buckets" / "team"
    bucket.mkdir(parents=True)
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}

    def point(project: Path, endpoint: str) -> None:
        for name, value in ({"endpointurl": endpoint} | keys).items():
            run_command("dvc", "remote", "modify", "--local", "team", name, value, cwd=project)

    with s3(tmp_path / "buckets") as endpoint:
        run_command("dvc", "remote", "add", "-d", "team", "s3://team/isoflop", cwd=clone)
        point(clone, endpoint)
        push = started("dvc", "push", "-j", "1", cwd=clone, when=bucket, files=5)
    said, _ = push.communicate(timeout=300)
    assert push.returncode != 0 and "Traceback" not in said
    arrived = sum(path.is_file() for path in bucket.rglob("*"))
    with s3(tmp_path / "buckets") as endpoint:
        point(clone, endpoint)
        run_command("dvc", "push", "--run-cache", cwd=clone)
        assert arrived < sum(path.is_file() for path in bucket.rglob("*"))
        run_command("git", "commit", "-qam", "remote", cwd=clone)
        second = second_clone(clone)
        point(second, endpoint)
        cache = second / ".dvc" / "cache"
        pull = started("dvc", "pull", "-j", "1", cwd=second, when=cache, files=5)
    said, _ = pull.communicate(timeout=300)
    assert pull.returncode != 0 and "Traceback" not in said
    with s3(tmp_path / "buckets") as endpoint:
        point(second, endpoint)
        assert executed(run_command("dvc", "repro", "--pull", cwd=second).stdout) == set()
    same_outputs(clone, second)


def test_two_at_once_in_one_workspace_end_as_one(clone: Path) -> None:
    """DVC locks what a stage reads and writes; who comes second is told so, or waits its turn."""
    wanted = lock(clone)
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    both = [
        subprocess.Popen(
            ["dvc", "repro", "--force", "--single-item", "train"],
            cwd=clone,
            env={"PATH": path, "DVC_NO_ANALYTICS": "1", "HOME": str(clone), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert any(process.returncode == 0 for process in both), said
    for process, text in zip(both, said, strict=True):
        assert process.returncode == 0 or "lock" in text or "busy" in text, text
        assert "Traceback" not in text
    repro(clone)
    assert lock(clone) == wanted and leftovers(clone) == []


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """The folder mounted on itself without the right to write, which binds root too."""
    try:
        subprocess.run(["mount", "--bind", folder, folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting takes root")
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True, capture_output=True)
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_workspace_without_the_right_to_write_is_read_and_not_changed(clone: Path) -> None:
    metrics = (clone / "metrics" / "evaluate.json").read_bytes()
    command = ("python", "-m", "stages.evaluate", "--model", "models/base", "--test", "data/prepared/test",
               "--names", "data/prepared/names.csv")  # fmt: skip
    pictures = ("confusion-picture", "reliability-picture", "mistakes-picture", "saliency")
    tables = ("headline", "predictions", "mistakes", "reliability", "per-class")
    outputs = [f"--{name}=plots/{name}.out" for name in (*tables, *pictures)]
    with read_only(clone):
        assert "shipped" in run_command("isoflop", "summary", cwd=clone).stdout
        assert "width" in run_command("isoflop", "plan", "--flops", "1e10", cwd=clone).stdout
        stage = run_command(*command, "--metrics", "metrics/evaluate.json", *outputs, cwd=clone, check=False)
        assert stage.returncode == 1
        assert stage.stderr.startswith("error: evaluate: ") and "Read-only file system" in stage.stderr
        again = run_command("dvc", "repro", "--force", "--single-item", "evaluate", cwd=clone, check=False)
        assert again.returncode != 0 and "Traceback" not in again.stdout + again.stderr
    assert (clone / "metrics" / "evaluate.json").read_bytes() == metrics
    assert executed(run_command("dvc", "repro", cwd=clone).stdout) == set()
