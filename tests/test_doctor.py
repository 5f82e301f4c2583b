"""``isoflop doctor`` finds what lacks in real projects, and its cures cure it."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from isoflop import cli
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
    shutil.copytree(ROOT / "stages", folder / "stages")
    (folder / "data" / "images").mkdir(parents=True)
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


def test_each_cure_cures(project: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
    assert "1 trainings were cut off (3 MB)" in found["killed"]["found"]


def test_lines_end_with_a_line_that_says_what_fails(
    project: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    assert cli.main(["doctor"]) == 1
    said = capsys.readouterr()
    assert "fail dvc       not initialized here\n               `dvc init`" in said.out
    assert said.err == "error: the pipeline cannot run here: dvc\n"


def test_outside_of_a_project_the_machine_is_looked_at(tmp_path: Path) -> None:
    said = run_command("isoflop", "doctor", cwd=tmp_path)
    assert "ok   torch" in said.stdout and "warn project   none at" in said.stdout and "isoflop init" in said.stdout
