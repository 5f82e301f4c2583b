"""A team shares one cache: what one clone ran and pushed, another restores without running anything."""

from __future__ import annotations

import getpass
import json
import shutil
from pathlib import Path

import pytest

from tests.clones import executed, same_outputs, second_clone
from tests.conftest import commit, run_command
from tests.remote_servers import ACCESS_KEY, SECRET_KEY, encrypting_s3, s3, sshd


@pytest.fixture
def first(smoke: Path, tmp_path: Path) -> Path:
    """Clone A: everything has been run, a remote is still to come."""
    target = tmp_path / "first"
    shutil.copytree(smoke, target, symlinks=True)
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


def test_a_second_clone_restores_the_run_from_a_folder(first: Path, tmp_path: Path) -> None:
    share(first, str(tmp_path / "remote"))
    second = second_clone(first)
    assert executed(run_command("dvc", "repro", "--pull", cwd=second).stdout) == set()
    same_outputs(first, second)
    assert run_command("git", "status", "--porcelain", cwd=second).stdout == "", "restoring changed a tracked file"
    paid, spared = (
        json.loads(run_command("isoflop", "savings", "--json", cwd=clone).stdout) for clone in (first, second)
    )
    assert (paid["restored"], paid["training_flops_spared"], spared["ran_here"]) == (0, 0, 0)
    assert paid["ran_here"] == spared["restored"] == len(paid["stages"]) and paid["seconds"] > 5
    trained = json.loads((first / "metrics" / "train.json").read_text())["training_flops"]
    assert spared["training_flops_spared"] == sum(stage["training_flops"] for stage in spared["stages"]) > trained > 0
    run_command("dvc", "repro", "--force", "--single-item", "evaluate", cwd=second)
    assert "1 of" in run_command("isoflop", "savings", cwd=second).stdout, "the same outputs, but paid for"


def test_without_dvc_lock_the_run_cache_alone_restores_it(first: Path, tmp_path: Path) -> None:
    """The way out of a lock conflict: delete dvc.lock and repro."""
    share(first, str(tmp_path / "remote"))
    second = second_clone(first)
    run_command("dvc", "pull", "--run-cache", cwd=second)
    (second / "dvc.lock").unlink()
    # code.yaml is in git, so not in DVC's run cache; pages are not taken from records of a remote
    assert executed(run_command("dvc", "repro", cwd=second).stdout) - {"report", "study", "demo"} == {"code"}
    same_outputs(first, second)


def test_an_experiment_of_a_teammate_is_restored(wider: Path, tmp_path: Path) -> None:
    first = tmp_path / "first"
    shutil.copytree(wider, first, symlinks=True)
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


def test_a_second_clone_restores_the_run_from_s3(first: Path, tmp_path: Path) -> None:
    """The keys are in config.local of one clone and in the environment of the other, and in git nowhere."""
    (tmp_path / "buckets" / "team").mkdir(parents=True)
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    with s3(tmp_path / "buckets") as endpoint:
        share(first, "s3://team/isoflop", endpointurl=endpoint, **keys)
        second = second_clone(first)
        run_command("dvc", "remote", "modify", "--local", "team", "endpointurl", endpoint, cwd=second)
        refused = run_command("dvc", "pull", cwd=second, check=False, AWS_ACCESS_KEY_ID="x", AWS_SECRET_ACCESS_KEY="y")
        assert refused.returncode != 0
        environment = {f"AWS_{name.upper()}": value for name, value in keys.items()}
        assert executed(run_command("dvc", "repro", "--pull", cwd=second, check=True, **environment).stdout) == set()
    same_outputs(first, second)
    for clone in (first, second):
        assert run_command("git", "status", "--porcelain", cwd=clone).stdout == ""
        tracked = run_command("git", "grep", "-c", SECRET_KEY, "HEAD", "--", ":!tests", cwd=clone, check=False)
        assert tracked.returncode == 1, f"a key is in git: {tracked.stdout}"


def test_what_reaches_an_encrypted_remote_is_no_plaintext(first: Path, tmp_path: Path) -> None:
    """Neither pixels nor weights nor names; and it comes back as it was."""
    (tmp_path / "buckets" / "team").mkdir(parents=True)
    keys = {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
    with s3(tmp_path / "buckets") as server, encrypting_s3(server) as endpoint:
        share(first, "s3://isoflop/cache", endpointurl=endpoint, **keys)
        second = second_clone(first)
        shutil.copy(first / ".dvc" / "config.local", second / ".dvc" / "config.local")
        assert executed(run_command("dvc", "repro", "--pull", cwd=second).stdout) == set()
    same_outputs(first, second)
    stored = [file for file in (tmp_path / "buckets").rglob("*") if file.is_file()]
    assert len(stored) > 50
    pixels = (first / "data" / "prepared" / "train" / "images.npy").read_bytes()
    weights = (first / "models" / "base" / "weights.safetensors").read_bytes()
    fragments = (pixels[128:], pixels[5000:], weights, weights[-200:], (first / "metrics" / "train.json").read_bytes())
    contents = [file.read_bytes() for file in stored]
    for fragment in fragments:
        assert len(set(fragment[:64])) > 5, "something to be recognized by"
        assert not any(fragment[:64] in content for content in contents)
    assert not [file for file in stored if "files" in file.parts or "md5" in file.parts or "cache" in file.parts]


def test_a_lock_conflict_is_mended_by_one_command(first: Path, tmp_path: Path) -> None:
    """Two clones change a parameter each and both change dvc.lock: what each has run is not run again."""
    share(first, str(tmp_path / "remote"))
    second = second_clone(first)
    for clone, old, new in ((first, "ece_bins: 15", "ece_bins: 9"), (second, "repeats: 20", "repeats: 21")):
        run_command("dvc", "repro", "--pull", cwd=edited(clone, old, new))
        commit(clone, new)
        run_command("dvc", "push", "--run-cache", cwd=clone)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    merged = run_command("git", *identity, "pull", "--no-rebase", "origin", "main", cwd=second, check=False)
    assert merged.returncode != 0
    assert run_command("git", "diff", "--name-only", "--diff-filter=U", cwd=second).stdout.split() == ["dvc.lock"]
    (second / "dvc.lock").unlink()
    ran = executed(run_command("dvc", "repro", "--pull", cwd=second).stdout)
    assert ran - {"demo"} == {"code", "report", "study"}, "of both changes"
    commit(second, "merged")
    assert (second / "metrics" / "evaluate.json").read_bytes() == (first / "metrics" / "evaluate.json").read_bytes()


def test_gc_keeps_what_a_branch_or_an_experiment_of_a_teammate_needs(first: Path, tmp_path: Path) -> None:
    """What the guide to remotes says to do before the remote is swept; without the fetch it would not be kept."""
    share(first, str(tmp_path / "remote"))
    bare = tmp_path / "team.git"
    run_command("git", "clone", "-q", "--bare", str(first), str(bare), cwd=tmp_path)
    run_command("git", "remote", "add", "origin", str(bare), cwd=first)
    second = tmp_path / "second"
    run_command("git", "clone", "-q", str(bare), str(second), cwd=tmp_path)
    run_command("dvc", "repro", "--pull", cwd=second)
    run_command("dvc", "exp", "run", "-n", "bins", "-S", "evaluate.ece_bins=9", cwd=second)
    run_command("dvc", "exp", "push", "--run-cache", "origin", "bins", cwd=second)
    run_command("git", "checkout", "-q", "-f", "-b", "blind", cwd=second)
    run_command("dvc", "repro", "-s", "scaling", cwd=edited(second, "bootstraps: 20", "bootstraps: 21"))
    commit(second, "another law")
    run_command("dvc", "push", cwd=second)
    run_command("git", "push", "-q", "origin", "blind", cwd=second)

    run_command("git", "fetch", "-q", "origin", "+refs/heads/*:refs/remotes/origin/*", "refs/exps/*:refs/exps/*",
                cwd=first)  # fmt: skip
    unused = tmp_path / "remote" / "files" / "md5" / "00" / ("0" * 30)
    unused.parent.mkdir(exist_ok=True)
    unused.write_text("of no commit")
    run_command("dvc", "gc", "--force", "--cloud", "--all-commits", "--all-experiments", cwd=first)
    assert not unused.exists()
    shutil.rmtree(second / ".dvc" / "cache")
    run_command("dvc", "pull", "--force", cwd=second)  # all of the branch is there
    run_command("dvc", "exp", "pull", "origin", "bins", cwd=second)  # and all of the experiment
    run_command("dvc", "exp", "apply", "bins", cwd=second)


def edited(clone: Path, old: str, new: str) -> Path:
    text = (clone / "params.yaml").read_text()
    assert old in text
    (clone / "params.yaml").write_text(text.replace(old, new))
    return clone
