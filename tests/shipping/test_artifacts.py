"""The shipped model as an artifact in dvc.yaml: GTO registers versions as git tags, and DVC fetches them by name."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

from dvc.repo import Repo

from tests.conftest import commit, run_command


def test_a_registered_version_is_fetched_by_name_from_a_clone(smoke: Path, tmp_path: Path) -> None:
    project = tmp_path / "project"
    shutil.copytree(smoke, project, symlinks=True)
    run_command("dvc", "remote", "add", "-d", "team", str(tmp_path / "remote"), cwd=project)
    commit(project, "add the team's remote")
    run_command("dvc", "push", "ship", cwd=project)
    run_command("git", "config", "user.name", "test", cwd=project)
    run_command("git", "config", "user.email", "test@example.invalid", cwd=project)
    run_command("gto", "register", "classifier", "--version", "v1.0.0", cwd=project)
    run_command("gto", "assign", "classifier", "--version", "v1.0.0", "--stage", "prod", cwd=project)
    assert "classifier@v1.0.0" in run_command("git", "tag", cwd=project).stdout.split()
    with warnings.catch_warnings(), Repo(str(project)) as repo:
        warnings.simplefilter("ignore")  # from DVC's own dependencies
        artifact = repo.artifacts.read()["dvc.yaml"]["classifier"]
    assert (artifact.type, artifact.path) == ("model", "ship/model.onnx")

    clone = tmp_path / "clone"
    run_command("git", "clone", "-q", str(project), str(clone), cwd=tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for chosen in (("--rev", "v1.0.0"), ("--stage", "prod")):
        out = elsewhere / f"{chosen[1]}.onnx"
        run_command("dvc", "artifacts", "get", str(clone), "classifier", *chosen, "-o", str(out), cwd=elsewhere)
        assert out.read_bytes() == (smoke / "ship/model.onnx").read_bytes()
