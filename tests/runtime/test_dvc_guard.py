"""What DVC restores from a remote that an attacker can write to, and the files that a kill leaves in its folders."""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from isoflop.dvc_guard.names import checked_names
from tests.conftest import ROOT, run_command
from tests.remote_servers import ACCESS_KEY, SECRET_KEY, s3, sshd

_GRAPH = """\
stages:
  make:
    cmd: mkdir -p out && cp in.txt out/made.txt
    deps: [in.txt]
    outs: [out]
"""


@pytest.fixture
def pushed(first_pushed: Path, tmp_path: Path) -> Path:
    """A copy of it, to change."""
    shutil.copytree(first_pushed, tmp_path / "pushed")
    dvc(tmp_path / "pushed" / "first", "remote", "modify", "team", "url", str(tmp_path / "pushed" / "remote"))
    return tmp_path / "pushed"


@pytest.fixture(scope="module")
def first_pushed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a project whose one stage has run, `first`, and its remote, `remote`, with the run cache."""
    folder = tmp_path_factory.mktemp("guard")
    first = folder / "first"
    first.mkdir()
    (first / "in.txt").write_text("content\n")
    (first / "dvc.yaml").write_text(_GRAPH)
    (first / "params.yaml").write_text("{}\n")
    (first / "code.yaml").write_text("stages: {}\n")
    dvc(first, "init", "-q", "--no-scm")
    dvc(first, "remote", "add", "-q", "-d", "team", str(folder / "remote"))
    dvc(first, "repro", "-q")
    dvc(first, "push", "-q", "--run-cache")
    return folder


@pytest.fixture
def mate(first_pushed: Path, tmp_path: Path) -> Path:
    """A copy of the project without its cache and results, in a folder with a copy of the remote."""
    shutil.copytree(first_pushed / "remote", tmp_path / "remote")
    shutil.copytree(
        first_pushed / "first", tmp_path / "mate", ignore=shutil.ignore_patterns("cache", "tmp", "out", "*.lock")
    )
    dvc(tmp_path / "mate", "remote", "modify", "team", "url", str(tmp_path / "remote"))
    return tmp_path / "mate"


def dvc(project: Path, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """DVC with the checks, as an installation of the package has them."""
    return run_command("dvc", *arguments, cwd=project, check=check)


def stored(remote: Path, content: bytes, end: str = "") -> str:
    md5 = hashlib.md5(content).hexdigest()
    file = remote / "files" / "md5" / md5[:2] / (md5[2:] + end)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return md5 + end


def forge(remote: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the only record and give it the name that DVC would."""
    from dvc.stage.cache import _get_cache_hash

    (file,) = [file for file in (remote / "runs").rglob("*") if file.is_file()]
    file.chmod(0o644)
    record = yaml.safe_load(file.read_text())
    change(record)
    file.unlink()
    file.with_name(_get_cache_hash(record)).write_text(yaml.safe_dump(record, sort_keys=False))


def with_member(remote: Path, name: str, md5: str = "") -> Callable[[dict[str, Any]], None]:
    def change(record: dict[str, Any]) -> None:
        (out,) = record["outs"]
        old = remote / "files" / "md5" / out["md5"][:2] / out["md5"][2:]
        listed = [*json.loads(old.read_text()), {"md5": md5 or stored(remote, b"planted\n"), "relpath": name}]
        out["md5"] = stored(remote, json.dumps(listed, sort_keys=True).encode(), ".dir")

    return change


@pytest.mark.parametrize("page", ["report", pytest.param("study", marks=pytest.mark.nightly)])
def test_a_page_is_made_again_and_not_taken_from_a_record_of_the_remote(pushed: Path, mate: Path, page: str) -> None:
    """Whoever wrote the record could have written scripts into it; dvc.lock of a reviewed commit has its hash."""
    for project in (mate, pushed / "first"):
        (project / "dvc.yaml").write_text(_GRAPH.replace("make:", f"{page}:").replace(" out", f" {page}")
                                          .replace("[out]", f"[{page}]").replace(f" {page}s", " outs"))  # fmt: skip
    dvc(pushed / "first", "repro", "-q")
    dvc(pushed / "first", "push", "-q", "--run-cache")
    dvc(mate, "remote", "modify", "team", "url", str(pushed / "remote"))
    for _ in range(2):
        assert f"Running stage '{page}'" in dvc(mate, "repro", "--pull").stdout
        shutil.rmtree(mate / page)
        (mate / "dvc.lock").rename(mate / "dvc.lock.reviewed")
    (mate / "dvc.lock.reviewed").rename(mate / "dvc.lock")
    assert "Running stage" not in dvc(mate, "repro", "--pull").stdout


def test_what_a_teammate_pushed_is_restored(mate: Path) -> None:
    done = dvc(mate, "repro", "--pull")
    assert "is cached - skipping run" in done.stdout + done.stderr
    assert (mate / "out" / "made.txt").read_text() == "content\n"


@pytest.mark.parametrize("kind", ["ssh", "s3"])
def test_records_are_shared_over_other_remotes(pushed: Path, mate: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "buckets" / "team").mkdir(parents=True)
    with sshd(tmp_path / "sshd") as (port, key), s3(tmp_path / "buckets") as endpoint:
        if kind == "ssh":
            url, options = f"ssh://127.0.0.1{tmp_path / 'remote2'}", {"port": str(port), "keyfile": str(key)}
            options["user"] = getpass.getuser()
        else:
            url, options = "s3://team/isoflop", {"endpointurl": endpoint}
            options |= {"access_key_id": ACCESS_KEY, "secret_access_key": SECRET_KEY}
        for project in (pushed / "first", mate):
            dvc(project, "remote", "modify", "team", "url", url)
            for name, value in options.items():
                dvc(project, "remote", "modify", "team", name, value)
        dvc(pushed / "first", "push", "-q", "--run-cache")
        assert "is cached - skipping run" in dvc(mate, "repro", "--pull").stdout
    assert (mate / "out" / "made.txt").read_text() == "content\n"


@pytest.mark.parametrize(
    "name", ["../../victim.txt", "../json.py", "/victim.txt", "a/../../../victim.txt", "./x", "a//x", ".Git/config"]
)
def test_a_list_with_a_name_outside_of_its_folder_is_refused(mate: Path, name: str) -> None:
    victim = mate.parent / "victim.txt"
    victim.write_text("mine\n")
    before = sorted(mate.parent.iterdir())
    forge(mate.parent / "remote", with_member(mate.parent / "remote", name))
    dvc(mate, "repro", "--pull")
    assert victim.read_text() == "mine\n"
    assert sorted(mate.parent.iterdir()) == before
    assert not (mate / "json.py").exists()
    assert [file.name for file in (mate / "out").iterdir()] == ["made.txt"]  # the stage itself ran


@pytest.mark.parametrize(
    "name",
    [
        "made.txt/x",
        "a" * 300,
        pytest.param("/".join(["a"] * 3000), marks=pytest.mark.nightly),
        pytest.param("a\ud800", marks=pytest.mark.nightly),
        pytest.param("x\x1b]0;PWN\x07", marks=pytest.mark.nightly),
    ],
    ids=["in a file", "long", "deep", "no unicode", "escape"],
)
def test_a_list_with_a_name_that_cannot_be_written_blocks_nothing(mate: Path, name: str) -> None:
    """DVC would stop midway, at every command, and leave a temporary file."""
    forge(mate.parent / "remote", with_member(mate.parent / "remote", name))
    dvc(mate, "repro", "--pull")
    assert [file.name for file in (mate / "out").iterdir()] == ["made.txt"]


@pytest.mark.parametrize("path", ["../victim.txt", "json.py", "in.txt"])
def test_a_record_with_an_output_that_the_stage_does_not_have_is_refused(mate: Path, path: str) -> None:
    victim = mate.parent / "victim.txt"
    victim.write_text("mine\n")
    remote = mate.parent / "remote"
    forge(remote, lambda record: record["outs"].append({"path": path, "hash": "md5", "md5": stored(remote, b"bad\n")}))
    done = dvc(mate, "repro", "--pull")
    assert "a damaged or forged run-cache record" in done.stderr
    assert victim.read_text() == "mine\n"
    assert (mate / "in.txt").read_text() == "content\n"
    assert not (mate / "json.py").exists()


@pytest.mark.parametrize("mode", [0o644, pytest.param(0o444, marks=pytest.mark.nightly)], ids=["open", "protected"])
def test_an_md5_that_leads_out_of_the_cache_is_refused(mate: Path, mode: int) -> None:
    """DVC reads the file at that place in the cache: it would copy a secret into the outputs, or delete it, as its MD5
    is another."""
    victim = mate.parent / "victim.txt"
    victim.write_text("mine\n")
    victim.chmod(mode)
    remote = mate.parent / "remote"
    forge(remote, with_member(remote, "x", md5="../../../../../victim.txt"))
    dvc(mate, "repro", "--pull")
    assert victim.read_text() == "mine\n"
    assert [file.name for file in (mate / "out").iterdir()] == ["made.txt"]


@pytest.mark.parametrize(
    "forged",
    [
        {"md5": "../../../../../victim.txt"},
        pytest.param({"hash": "etag", "etag": "../../victim.txt"}, marks=pytest.mark.nightly),
        pytest.param({"md5": None, "files": [{"md5": "0" * 32, "relpath": "../json.py"}]}, marks=pytest.mark.nightly),
    ],
    ids=["md5", "etag", "files"],
)
def test_an_output_that_is_not_in_the_cache_is_refused(mate: Path, forged: dict[str, Any]) -> None:
    def change(record: dict[str, Any]) -> None:
        record["outs"] = [{key: value for key, value in (record["outs"][0] | forged).items() if value is not None}]

    forge(mate.parent / "remote", change)
    done = dvc(mate, "repro", "--pull")
    assert "a damaged or forged run-cache record" in done.stderr
    assert (mate / "out" / "made.txt").read_text() == "content\n"


def test_a_record_whose_aliases_expand_without_end_is_refused(mate: Path) -> None:
    (file,) = [file for file in (mate.parent / "remote" / "runs").rglob("*") if file.is_file()]
    file.chmod(0o644)
    lists = "".join(f"    l{level}: &l{level} [{', '.join([f'*l{level - 1}'] * 9)}]\n" for level in range(1, 12))
    file.write_text(f"{file.read_text()}params:\n  params.yaml:\n    l0: &l0 [x]\n{lists}")
    assert "a damaged or forged run-cache record" in dvc(mate, "repro", "--pull").stderr


def test_a_record_that_is_a_link_is_not_downloaded(mate: Path) -> None:
    """A later push would upload what it leads to."""
    (mate.parent / "secret").write_text("secret\n")
    planted = mate.parent / "remote" / "runs" / "ab" / ("ab" + "0" * 62)
    planted.mkdir(parents=True)
    (planted / ("0" * 64)).symlink_to(mate.parent / "secret")
    assert "a link" in dvc(mate, "repro", "--pull").stderr
    assert not (mate / ".dvc" / "cache" / "runs" / "ab").exists()
    shutil.rmtree(mate.parent / "remote" / "runs")
    (mate.parent / "remote" / "runs").symlink_to("/")
    assert "a link, which could lead to any folder" in dvc(mate, "repro", "--pull", "--force").stderr


@pytest.mark.parametrize("kind", ["pipe", "link", pytest.param("list", marks=pytest.mark.nightly)])
def test_an_object_that_is_no_file_is_missing(mate: Path, kind: str) -> None:
    """DVC would wait for the pipe without end, or copy the file that the link leads to and later push it."""
    victim, remote, md5 = mate.parent / "victim.txt", mate.parent / "remote", hashlib.md5(b"mine\n").hexdigest()
    victim.write_text("mine\n")
    forge(remote, with_member(remote, "x", md5=md5))
    if kind == "list":
        (record,) = (yaml.safe_load(file.read_text()) for file in (remote / "runs").rglob("*") if file.is_file())
        md5 = record["outs"][0]["md5"]
    planted = remote / "files" / "md5" / md5[:2] / md5[2:]
    planted.parent.mkdir(parents=True, exist_ok=True)
    planted.unlink(missing_ok=True)
    planted.symlink_to(victim) if kind == "link" else os.mkfifo(planted)
    dvc(mate, "repro", "--pull")
    assert [file.name for file in (mate / "out").iterdir()] == ["made.txt"]


def test_an_object_with_another_content_is_refused_without_verify(mate: Path) -> None:
    (file,) = (mate.parent / "remote" / "files").rglob(hashlib.md5(b"content\n").hexdigest()[2:])
    file.chmod(0o644)
    file.write_text("swapped\n")
    dvc(mate, "repro", "--pull")
    assert (mate / "out" / "made.txt").read_text() == "content\n"


def test_names_that_are_no_records_are_not_downloaded(mate: Path) -> None:
    runs = mate.parent / "remote" / "runs"
    (runs / "ab" / "cd").mkdir(parents=True)
    (runs / "ab" / "cd" / "x\x1b]0;PWN\x07").write_text("x")
    done = dvc(mate, "repro", "--pull")
    assert "not the name of a run-cache record: skipped" in done.stderr
    assert "\x1b]0" not in done.stdout + done.stderr
    assert not (mate / ".dvc" / "cache" / "runs" / "ab").exists()


@pytest.mark.parametrize("left", ["nothing", "a cut record", "a temporary file"])
def test_what_a_kill_leaves_in_the_run_cache_does_no_harm(mate: Path, left: str) -> None:
    dvc(mate, "repro", "-q")
    (record,) = [file for file in (mate / ".dvc" / "cache" / "runs").rglob("*") if file.is_file()]
    if left == "a temporary file":
        (record.parent / ".abc.tmp").write_text("cmd")
    elif left == "a cut record":
        record.chmod(0o644)
        record.write_text(record.read_text()[:30])
    else:
        record.unlink()
    shutil.rmtree(mate / "out")
    (mate / "dvc.lock").unlink()
    dvc(mate, "repro", "-q")
    assert (mate / "out" / "made.txt").read_text() == "content\n"


@pytest.mark.parametrize("content", ["", '{"write": {"/x', '{"other": 1}'])
def test_a_lock_file_that_a_kill_cut_short_is_removed(mate: Path, content: str) -> None:
    lock = mate / ".dvc" / "tmp" / "rwlock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(content)
    done = dvc(mate, "repro")
    assert "cut short" in done.stderr
    assert (mate / "out" / "made.txt").exists()


@pytest.mark.parametrize(
    ("params", "loop"),
    [
        ("names: ['8; touch PWNED; #']", "matrix: {name: '${names}'}"),
        ("names: [$(touch PWNED)]", "matrix: {name: '${names}'}"),
        ("names: {../photos: {of: base}}", "foreach: ${names}"),
        ("names: {a: {of: 'x`touch PWNED`'}}", "foreach: ${names}"),
        ("names: {a: {of: [1, '-x']}}", "foreach: ${names}"),
        ('names: ["a\\nb"]', "matrix: {name: '${names}'}"),
    ],
)
def test_values_of_params_that_are_no_words_reach_no_command(mate: Path, params: str, loop: str) -> None:
    photos = mate / "photos"
    photos.mkdir()
    (photos / "a.png").touch()
    item = "${item.name}" if loop.startswith("matrix") else "${key} ${item.of}"
    path = "out2/${item.name}" if loop.startswith("matrix") else "out2/${key}"
    body = {"cmd": f"echo {item}", "outs": [path]}
    stage = {**yaml.safe_load(loop), **(body if loop.startswith("matrix") else {"do": body})}
    graph = yaml.safe_load(_GRAPH)
    graph["stages"]["x"] = stage
    (mate / "dvc.yaml").write_text(yaml.safe_dump(graph))
    (mate / "params.yaml").write_text(params + "\n")
    done = dvc(mate, "repro", check=False)
    assert done.returncode != 0
    assert "expected only letters, digits" in done.stdout + done.stderr
    assert not (mate / "PWNED").exists()
    assert (photos / "a.png").exists()


def test_python_can_load_the_checks_before_other_packages_are_on_its_path() -> None:
    """A `.pth` file runs when Python starts; if it fails, DVC runs without the checks."""
    command = [sys.executable, "-S", "-c", "import isoflop.dvc_guard.guard"]
    subprocess.run(command, env={"PYTHONPATH": str(ROOT / "src")}, check=True)


@pytest.mark.parametrize("path", ["s3:bucket/images", "SSH:host/images", "remote://team/x"])
def test_data_on_a_server_is_no_path_of_this_machine(path: str) -> None:
    """DVC would ask that server, with the user's credentials."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    def create(self: Any, *_: object) -> None:
        self.definitions, self.context = {}, SimpleNamespace(data={"data": {"path": path}})

    repo = SimpleNamespace(fs=SimpleNamespace(exists=lambda _: True, join=lambda *_: ""), root_dir="")
    with pytest.raises(DvcException, match=r"data\.path: got .*expected a path on this machine"):
        checked_names(create)(SimpleNamespace(), cast(Repo, repo), "", {})


def interrupted(mate: Path, fault: str) -> subprocess.CompletedProcess[str]:
    """Run `dvc repro` with ``fault`` where dvc.lock is written, but not yet in its place."""
    (mate.parent / "sitecustomize.py").write_text(
        "import errno, os, signal\n"
        "real = os.fsync\n"
        "def full(descriptor):\n"
        "    if '.dvc.lock.partial' in os.readlink(f'/proc/self/fd/{descriptor}'):\n"
        f"        {fault}\n"
        "    real(descriptor)\n"
        "os.fsync = full\n"
    )
    path = os.pathsep.join((str(mate.parent), os.environ.get("PYTHONPATH", "")))
    return run_command("dvc", "repro", cwd=mate, check=False, PYTHONPATH=path, ISOFLOP_TESTS_REAL="1")


def test_a_full_disk_leaves_the_lock_of_before(mate: Path) -> None:
    """DVC would cut dvc.lock short, and every later command would fail."""
    dvc(mate, "repro", "-q")
    before = (mate / "dvc.lock").read_text()
    (mate / "in.txt").write_text("other\n")
    done = interrupted(mate, "raise OSError(errno.ENOSPC, 'No space left on device')")
    assert "No space left on device" in done.stderr
    assert (mate / "dvc.lock").read_text() == before and not list(mate.rglob(".dvc.lock*"))


def test_a_kill_leaves_the_lock_of_before_and_no_file_that_git_would_add(mate: Path) -> None:
    dvc(mate, "repro", "-q")
    before, names = (mate / "dvc.lock").read_text(), sorted(mate.iterdir())
    (mate / "in.txt").write_text("other\n")
    assert interrupted(mate, "os.kill(os.getpid(), signal.SIGKILL)").returncode == -9
    assert (mate / "dvc.lock").read_text() == before and sorted(mate.iterdir()) == names
    (left,) = (mate / ".dvc" / "tmp").glob(".dvc.lock*")
    os.utime(left, (0, 0))
    dvc(mate, "repro", "-q")
    assert not left.exists() and (mate / "dvc.lock").read_text() != before
