"""Presets are listed and written, and never over work that is kept nowhere else."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from isoflop.project.checking import check, stage_schemas
from isoflop.project.presets import apply_preset, read_presets
from isoflop.runtime.errors import UserError
from tests.conftest import ROOT, commit, run_command

MINE = "train:\n  width: 77\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A committed project with two presets, whose params.yaml is neither of them."""
    (tmp_path / "presets").mkdir()
    (tmp_path / "presets" / "digits.yaml").write_text("# The digits.\ntrain:\n  width: 32\n")
    (tmp_path / "presets" / "cifar10.yaml").write_text("train:\n  width: 64\n")
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    (tmp_path / "params.yaml").write_text("train:\n  width: 1\n")
    (tmp_path / ".gitignore").write_text("*.partial*\n")
    run_command("git", "init", "-q", cwd=tmp_path)
    commit(tmp_path, "start")
    return tmp_path


def test_presets_come_with_their_first_comment_line(project: Path) -> None:
    assert [(preset.name, preset.description) for preset in read_presets(project)] == [
        ("cifar10", ""),
        ("digits", "The digits."),
    ]


def test_a_preset_is_written_over_what_is_committed_and_over_another_preset(project: Path) -> None:
    for name in ("digits", "cifar10"):
        apply_preset(project, name, force=False)
        assert (project / "params.yaml").read_bytes() == (project / "presets" / f"{name}.yaml").read_bytes()
    assert not list(project.glob(".params*")), "the partial file is left behind"


def test_a_preset_is_written_where_there_is_no_params_yaml(project: Path) -> None:
    (project / "params.yaml").unlink()
    apply_preset(project, "digits", force=False)
    assert "width: 32" in (project / "params.yaml").read_text()


def test_changes_that_are_kept_nowhere_else_are_not_overwritten(project: Path) -> None:
    (project / "params.yaml").write_text(MINE)
    said = r"^params\.yaml: got changes that are neither committed nor in a preset; fix: "
    with pytest.raises(UserError, match=said):
        apply_preset(project, "digits", force=False)
    assert (project / "params.yaml").read_text() == MINE
    run_command("git", "add", "params.yaml", cwd=project)  # staged is not committed: the next add would lose it
    with pytest.raises(UserError):
        apply_preset(project, "digits", force=False)
    commit(project, "my width")
    apply_preset(project, "digits", force=False)


def test_force_overwrites_them(project: Path) -> None:
    (project / "params.yaml").write_text(MINE)
    apply_preset(project, "digits", force=True)
    assert "width: 32" in (project / "params.yaml").read_text()


def test_outside_git_only_presets_are_safe_to_overwrite(project: Path, tmp_path: Path) -> None:
    apply_preset(project, "digits", force=False)
    (project / ".git").rename(tmp_path / "elsewhere")
    apply_preset(project, "cifar10", force=False)
    (project / "params.yaml").write_text(MINE)
    with pytest.raises(UserError):
        apply_preset(project, "digits", force=False)


@pytest.mark.parametrize(
    ("name", "hint"),
    [("digit", "did you mean 'digits'?"), ("zzz", "expected one of cifar10, digits"), ("../dvc", "expected one of")],
)
def test_an_unknown_preset_names_the_nearest(project: Path, name: str, hint: str) -> None:
    with pytest.raises(UserError) as error:
        apply_preset(project, name, force=True)
    assert str(error.value).startswith(f"preset {name!r}: unknown; ") and hint in str(error.value)


def test_a_checkout_without_presets(tmp_path: Path) -> None:
    (tmp_path / "stages").mkdir()
    with pytest.raises(UserError, match="got no presets"):
        read_presets(tmp_path)


@pytest.mark.parametrize("name", sorted(file.stem for file in (ROOT / "presets").glob("*.yaml")))
def test_every_preset_of_this_project_is_described_and_valid(name: str, tmp_path: Path) -> None:
    (preset,) = [preset for preset in read_presets(ROOT) if preset.name == name]
    assert preset.description
    shutil.copy(ROOT / "presets" / f"{name}.yaml", tmp_path / "params.yaml")
    (tmp_path / "data" / "images").mkdir(parents=True)
    check(stage_schemas(ROOT).values(), tmp_path / "params.yaml")
