"""A team shares one cache: what one clone ran and pushed, another restores without running anything."""

from __future__ import annotations

import getpass
import shutil
from pathlib import Path

import pytest

from tests.conftest import commit, run_command
from tests.remote_servers import sshd
from tests.test_pipeline import executed


@pytest.fixture
def first(smoke: Path, tmp_path: Path) -> Path:
    """Clone A: everything has been run, a remote is still to come."""
    target = tmp_path / "first"
    shutil.copytree(smoke, target, symlinks=True)
    return target


def second_clone(first: Path) -> Path:
    """Clone B: from git alone, with an empty cache."""
    target = first.parent / "second"
    run_command("git", "clone", "-q", str(first), str(target), cwd=first.parent)
    return target


def share(first: Path, url: str, **local: str) -> None:
    """Give clone A a default remote that verifies what it hands back, push, and commit the configuration.

    ``local`` are settings of this machine, which stay out of git.
    """
    run_command("dvc", "remote", "add", "-d", "team", url, cwd=first)
    run_command("dvc", "remote", "modify", "team", "verify", "true", cwd=first)
    for name, value in local.items():
        run_command("dvc", "remote", "modify", "--local", "team", name, value, cwd=first)
    commit(first, "add the team's remote")
    run_command("dvc", "push", "--run-cache", cwd=first)


def same_outputs(first: Path, second: Path) -> None:
    for file in ("ship/model.onnx", "metrics/variants.json", "models/base/weights.safetensors", "report/index.html"):
        assert (first / file).read_bytes() == (second / file).read_bytes()


def test_a_second_clone_restores_the_run_from_a_folder(first: Path, tmp_path: Path) -> None:
    share(first, str(tmp_path / "remote"))
    second = second_clone(first)
    assert executed(run_command("dvc", "repro", "--pull", cwd=second).stdout) == set()
    same_outputs(first, second)
    assert run_command("git", "status", "--porcelain", cwd=second).stdout == "", "restoring changed a tracked file"


def test_without_dvc_lock_the_run_cache_alone_restores_it(first: Path, tmp_path: Path) -> None:
    """The way out of a lock conflict: delete dvc.lock and repro."""
    share(first, str(tmp_path / "remote"))
    second = second_clone(first)
    run_command("dvc", "pull", "--run-cache", cwd=second)
    (second / "dvc.lock").unlink()
    assert executed(run_command("dvc", "repro", cwd=second).stdout) == set()
    same_outputs(first, second)


def test_an_experiment_of_a_teammate_is_restored(first: Path, tmp_path: Path) -> None:
    share(first, str(tmp_path / "remote"))
    bare = tmp_path / "team.git"
    run_command("git", "clone", "-q", "--bare", str(first), str(bare), cwd=tmp_path)
    run_command("git", "remote", "add", "origin", str(bare), cwd=first)
    run_command("dvc", "exp", "run", "-n", "wider", "-S", "train.width=24", cwd=first)
    run_command("dvc", "exp", "push", "--run-cache", "origin", "wider", cwd=first)
    second = tmp_path / "second"
    run_command("git", "clone", "-q", str(bare), str(second), cwd=tmp_path)
    run_command("dvc", "exp", "pull", "--run-cache", "origin", "wider", cwd=second)
    run_command("dvc", "exp", "apply", "wider", cwd=second)
    assert executed(run_command("dvc", "repro", "--pull", cwd=second).stdout) == set()
    same_outputs(first, second)


def test_a_corrupt_object_of_the_remote_is_not_accepted(first: Path, tmp_path: Path) -> None:
    share(first, str(tmp_path / "remote"))
    lock = (first / "dvc.lock").read_text()
    entry = lock[lock.index("path: scaling/law.json") :]
    md5 = entry[entry.index("md5: ") + 5 :].split()[0]
    stored = tmp_path / "remote" / "files" / "md5" / md5[:2] / md5[2:]
    stored.chmod(0o644)
    stored.write_bytes(b"{}" + stored.read_bytes()[2:])
    second = second_clone(first)
    assert run_command("dvc", "pull", cwd=second, check=False).returncode != 0
    assert not (second / "scaling" / "law.json").exists()


def test_a_second_clone_restores_the_run_over_ssh(first: Path, tmp_path: Path) -> None:
    with sshd(tmp_path / "sshd") as (port, key):
        url = f"ssh://127.0.0.1{tmp_path / 'remote'}"
        share(first, url, port=str(port), user=getpass.getuser(), keyfile=str(key))
        second = second_clone(first)
        shutil.copy(first / ".dvc" / "config.local", second / ".dvc" / "config.local")
        assert executed(run_command("dvc", "repro", "--pull", cwd=second).stdout) == set()
    same_outputs(first, second)
