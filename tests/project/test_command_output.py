"""Programs that are called, and a repository that git refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.cli import main as cli
from isoflop.project.command_output import command_output, in_git
from isoflop.report.revisions import read_runs
from isoflop.runtime.errors import UserError
from tests.conftest import run_command


def test_a_folder_is_in_git_or_not(tmp_path: Path) -> None:
    assert not in_git(tmp_path)
    run_command("git", "init", "-q", cwd=tmp_path)
    (tmp_path / "deeper").mkdir()
    assert in_git(tmp_path) and in_git(tmp_path / "deeper")


def test_a_repository_of_another_user_is_an_error_and_never_silence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_command("git", "init", "-q", cwd=tmp_path)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # as git's own tests do
    cure = f"fix: `git config --global --add safe.directory {tmp_path}`"
    with pytest.raises(UserError, match="dubious ownership") as refused:
        in_git(tmp_path)
    assert cure in str(refused.value) and "\n" not in str(refused.value)
    with pytest.raises(UserError, match="dubious ownership"):
        read_runs(tmp_path, ["HEAD"], tmp_path / "scratch")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["doctor"]) == 1
    found = capsys.readouterr().out
    assert "fail git" in found and "safe.directory" in found


def test_a_message_has_no_password_of_a_remote(tmp_path: Path) -> None:
    url = "https://ada:s3cret@host/x?sig=TOKEN"
    with pytest.raises(UserError) as caught:
        command_output(["git", "clone", url, "a b", "c", "d"], tmp_path)
    assert "git clone https://…@host/x?… a b" in str(caught.value)
    assert "s3cret" not in str(caught.value) and "TOKEN" not in str(caught.value)
