"""``isoflop doctor`` finds what lacks in real projects, and its cures cure it."""

from __future__ import annotations

import json
import re
import shutil
import socket
import sys
import time
from pathlib import Path

import pytest
import yaml

from isoflop.cli import main as cli
from isoflop.demo.onnxruntime_web import PACKAGE
from isoflop.runtime.dvc_md5 import dvc_md5
from isoflop.runtime.stage_code import checkout, code_text
from tests.conftest import ROOT, run_command

Found = dict[str, dict[str, str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project that is not in git, of a user without a git identity and without DVC's global settings."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name in ("XDG_CONFIG_HOME", "DVC_GLOBAL_CONFIG_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, folder)
    for name in ("stages", "src"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    (folder / "code.yaml").write_text(code_text(checkout(folder)))
    (folder / "data" / "images").mkdir(parents=True)
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / PACKAGE.name).touch()
    monkeypatch.setenv("ISOFLOP_MIRROR", str(tmp_path / "mirror"))
    monkeypatch.setattr("isoflop.doctor.examining.is_active", lambda: True)
    monkeypatch.chdir(folder)
    return folder


def doctor(capsys: pytest.CaptureFixture[str], status: int) -> Found:
    assert cli.main(["doctor", "--json"]) == status
    return {finding["about"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


def follow(found: Found, about: str, cwd: Path, **places: str) -> None:
    """Do what the first command of a cure says."""
    (command, *_) = re.findall("`(.*?)`", found[about]["cure"])
    for place, value in places.items():
        command = command.replace(place, value)
    program, *rest = command.split()
    run_command(*([sys.executable, "-m", "dvc"] if program == "dvc" else [program]), *rest, cwd=cwd)


def test_each_cure_cures(
    project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = doctor(capsys, status=1)
    lacking = {about: finding["status"] for about, finding in found.items() if finding["status"] != "ok"}
    assert lacking == {"git": "warn", "dvc": "fail", "remote": "warn"}
    follow(found, "git", project)
    assert "no identity" in doctor(capsys, status=1)["git"]["found"]
    for key in ("name", "email"):
        run_command("git", "config", f"user.{key}", "someone", cwd=project)
    follow(found, "dvc", project)
    found = doctor(capsys, status=1)
    assert found["git"]["status"] == "fail" and "without a commit" in found["git"]["found"]
    follow(found, "git", project)
    run_command("git", "commit", "-q", "-m", "start", cwd=project)
    with monkeypatch.context() as patched:
        patched.setattr("isoflop.doctor.examining.is_active", lambda: False)
        unchecked = doctor(capsys, status=0)["dvc"]
        assert unchecked["status"] == "warn" and "without isoflop's checks" in unchecked["found"]
    found = doctor(capsys, status=0)
    assert found["git"]["status"] == found["dvc"]["status"] == "ok"
    follow(found, "remote", project, URL=str(tmp_path / "remote"))
    found = doctor(capsys, status=0)
    assert "corrupt" in found["remote"]["found"] and "team" in found["remote"]["found"]
    follow(found, "remote", project)
    assert all(finding["status"] == "ok" and not finding["cure"] for finding in doctor(capsys, status=0).values())


def test_mistakes_in_params_and_trainings_cut_off_are_found(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("  epochs: 30\n  max_minutes", "  epochs: 0\n  max_minutes"))
    checkpoint = project / ".isoflop" / "resume" / "abc" / "last.ckpt"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(bytes(3_000_000))
    found = doctor(capsys, status=1)
    assert found["params"]["status"] == "fail" and "recipe.epochs" in found["params"]["found"]
    assert "1 interrupted trainings (3 MB)" in found["resume"]["found"]


def test_lines_end_with_a_line_that_says_what_fails(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "fail dvc       not initialized\n               `dvc init`" in said.out
    assert said.err == "error: the pipeline cannot run here: dvc\n"


def test_outside_of_a_project_the_machine_is_looked_at(tmp_path: Path) -> None:
    said = run_command("isoflop", "doctor", cwd=tmp_path)
    assert (
        "ok   torch" in said.stdout and "warn project   no dvc.yaml in" in said.stdout and "isoflop init" in said.stdout
    )


def test_a_demo_without_its_runtime_is_said_in_time(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name in ("https_proxy", "NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", address)
        for mirror in ("", str(project), address, "http://[", str(project / "missing")):
            monkeypatch.setenv("ISOFLOP_MIRROR", mirror)
            began = time.monotonic()
            found = doctor(capsys, status=1)["demo"]
            assert (
                found["status"] == "warn" and "demo.enabled: false" in found["cure"] and PACKAGE.name in found["cure"]
            )
            assert time.monotonic() - began < 30
        run_command("git", "init", "-q", cwd=project)
        run_command("dvc", "init", "-q", cwd=project)
        out = project / "vendor" / "runtime"
        out.mkdir(parents=True)
        (out / "script.mjs").write_text("a script")
        entry = {"path": "vendor/runtime", "md5": dvc_md5(out), "hash": "md5"}
        run_command("dvc", "add", "-q", "vendor/runtime", cwd=project)  # which puts it into the cache
        (project / "dvc.lock").write_text(
            yaml.safe_dump({"schema": "2.0", "stages": {"onnxruntime_web": {"cmd": "x", "outs": [entry]}}})
        )
        assert doctor(capsys, status=0)["demo"]["found"].endswith("is present")
        shutil.rmtree(out)
        assert doctor(capsys, status=0)["demo"]["found"].endswith("is present"), "DVC's cache has it"
        shutil.rmtree(project / ".dvc" / "cache")
        assert doctor(capsys, status=0)["demo"]["status"] == "warn"
    params = project / "params.yaml"
    params.write_text(params.read_text().replace("demo:\n  enabled: true", "demo:\n  enabled: false"))
    assert "not needed" in doctor(capsys, status=0)["demo"]["found"]
