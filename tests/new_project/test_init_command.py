"""``isoflop init`` and ``isoflop upgrade``: a mistake is one line and leaves nothing; git ignores what they write."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.repo import Repo

from isoflop.cli import main as cli
from isoflop.new_project.starting_values import Wishes
from isoflop.runtime.git_tracking import outputs_in_git
from tests.conftest import ROOT, commit, run_command
from tests.pictures import take_pictures

PRESET = (ROOT / "presets" / "images.yaml").read_text()

RANDOM = Wishes(from_scratch=True)  # random weights, whatever is installed


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run `isoflop init`, which fails; return its error, a single line."""
    assert cli.main(["init", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    take_pictures(tmp_path / "photos", ("a", "b"), 8)
    return tmp_path


def test_each_mistake_is_one_line_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_pictures(place / "few", ("a", "b"), 2)
    (place / "none").mkdir()
    (place / "none" / "readme.txt").write_text("hello")
    (place / "flat").mkdir()
    (place / "broken" / "a").mkdir(parents=True)
    (place / "broken" / "b").mkdir()
    (place / "one" / "a").mkdir(parents=True)
    for folder, count in (("flat", 3), ("one/a", 3), ("broken/a", 8), ("broken/b", 8)):
        for number in range(count):
            (place / folder / f"{number}.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    take_pictures(place / "half", ("a", "so so"), 8)
    for file in (place / "half" / "so so").rglob("no *"):
        file.write_bytes(b"")
    take_pictures(place / "many", tuple(f"kind {number:03}" for number in range(20)), 2)
    take_pictures(place / "loop", ("a", "b"), 8)
    (place / "loop" / "a" / "up").symlink_to("..")
    with zipfile.ZipFile(place / "twice.zip", "w") as archive:
        archive.writestr("photos.zip", b"PK")
    (place / "full").mkdir()
    (place / "full" / "thesis.tex").write_text("mine")
    (place / "photos.zip").write_bytes(b"PK no archive")
    before = sorted(path for path in place.rglob("*"))
    for arguments, said in [
        (
            ["new", "--images", "fotos"],
            "error: --images 'fotos': got a path that does not exist, expected a folder, zip",
        ),
        (["new", "--images", "none"], "error: --images 'none': got no images, expected one folder of images for"),
        (["new", "--images", "flat"], "error: --images 'flat': got 3 images but no folders in it"),
        (["new", "--images", "one"], "error: --images 'one': got one class, 'a', expected folders for at least two"),
        (
            ["new", "--images", "few"],
            "error: --images: got too few images: 'a' (2), 'b' (2), expected at least 5 of each class; "
            "fix: add images to these folders, or remove them",
        ),
        (
            ["new", "--images", "many"],
            "error: --images: got too few images: 'kind 000' (2), 'kind 001' (2), 'kind 002' (2) and 17 m",
        ),
        (
            ["new", "--images", "half"],
            "error: --images 'half': class 'so so': none of its images can be read, for example 'so so/deep",
        ),
        (
            ["new", "--images", "loop"],
            "error: loop/a/up: got a link to '..', expected a file or a link to a file in loop; fix: rem",
        ),
        (
            ["new", "--images", "broken"],
            "error: --images 'broken': none of 16 sampled images can be read, for example 'a/0.jpg'",
        ),
        (["new", "--images", "photos.zip"], "error: photos.zip: got a damaged file or no archive"),
        (
            ["new", "--images", "twice.zip"],
            "error: --images 'twice.zip': got no images, expected one folder of images for each class; "
            "fix: unpack the archive 'photos.zip' in it",
        ),
        (
            ["full", "--images", "photos"],
            "error: full: got a folder that contains 'thesis.tex', expected a new or empty folder",
        ),
        (["photos.zip", "--images", "photos"], "error: photos.zip: got a file, expected a new or empty folder"),
        (["no/where", "--images", "photos"], "error: no/where: got no folder "),
        (["photos/new", "--images", "photos"], "error: photos/new: got a folder inside the images' folder photos"),
        (["new", "--preset", "imags", "--images", "photos"], "error: preset 'imags': unknown; did you mean 'images'?"),
        (["new", "--copy"], "error: --copy: got no --images"),
    ]:
        assert refused(capsys, *arguments).startswith(said)
        assert sorted(path for path in place.rglob("*")) == before, arguments
    monkeypatch.setenv("PATH", str(place))
    assert refused(capsys, "new", "--images", "photos").startswith("error: git: not installed; fix: install git")


def test_images_that_may_not_be_read_are_named_with_the_cure(place: Path) -> None:
    # root can read everything unless it drops its capabilities
    lower = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    if lower and not shutil.which("setpriv"):
        pytest.skip("run by root, without setpriv of util-linux")
    (place / "photos" / "b").chmod(0)
    try:
        done = run_command(*lower, "isoflop", "init", "new", "--images", "photos", cwd=place, check=False)
    finally:
        (place / "photos" / "b").chmod(0o755)
    assert done.returncode == 1
    assert (
        done.stderr == "error: --images 'photos': got no permission to read 'photos/b'; fix: `chmod -R u+rX photos`\n"
    )
    assert not list(place.glob("*new*"))


def test_in_another_repository_it_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command("git", "init", "-q", "mine", cwd=place)
    warning = f"warning: {place}/mine/new is a git repository inside the repository {place}/mine; fix: add /new/ to"
    for ignored, said in (("", True), ("/new/\n", False)):
        (place / "mine" / ".gitignore").write_text(ignored)
        assert cli.main(["init", "mine/new", "--images", "photos"]) == 0
        assert (warning in capsys.readouterr().err) == said
        shutil.rmtree(place / "mine" / "new")


def test_a_first_look_and_the_way_back_to_the_whole(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["init", "new", "--images", "photos", "--quick"]) == 0
    said = capsys.readouterr().out
    assert "recipe.epochs: 60 (instead of 120;" in said and "isoflop preset whole && dvc repro" in said
    monkeypatch.chdir(place / "new")
    assert run_command("git", "status", "--porcelain", cwd=Path()).stdout == ""
    assert yaml.safe_load(Path("params.yaml").read_text())["recipe"]["epochs"] == 60
    for name, epochs in (("whole", 120), ("quick", 60)):
        assert cli.main(["preset", name]) == 0 and cli.main(["check"]) == 0
        params = yaml.safe_load(Path("params.yaml").read_text())
        assert params["recipe"]["epochs"] == epochs and params["data"]["path"] == "../photos"


def test_without_an_identity_the_cure_is_named(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(place / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (place / "gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    said = refused(capsys, "new", "--images", "photos")
    assert said.startswith("error: git: got no identity for the first commit; fix: `git config --global user.name ")
    assert not (place / "new").exists() and not list(place.glob(".new*"))


def test_a_folder_that_is_empty_is_taken_and_a_project_is_not(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "new").mkdir()
    with contextlib.chdir(place / "new"):
        assert cli.main(["init", ".", "--images", str(place / "photos")]) == 0
        assert Path("params.yaml").is_file(), "the folder is still the one that the shell is in"
    assert f"data.path: {place / 'photos'} (your images stay there" in capsys.readouterr().out, (
        "absolute, as it was given"
    )
    assert run_command("git", "status", "--porcelain", cwd=place / "new").stdout == ""
    assert not list(place.glob(".new*"))
    assert refused(capsys, "new", "--images", "photos").startswith(
        "error: new: got an existing project, expected a new"
    )


def test_upgrade_keeps_changes_of_the_graph_or_asks(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["init", "new", "--images", "photos"]) == 0
    project = place / "new"
    monkeypatch.chdir(project)
    graph, code = project / "dvc.yaml", project / "code.yaml"
    original, recorded = graph.read_text(), code.read_text()
    mine = original.replace("report: report\n", "report: report\n      mine: here\n")
    graph.write_text(mine)
    code.write_text(recorded.replace("  train: ", "  train: 0"))
    capsys.readouterr()
    assert cli.main(["upgrade"]) == 0
    assert capsys.readouterr().out == "changed code: train; run `dvc repro`\n"
    assert graph.read_text() == mine and code.read_text() == recorded

    digest = yaml.safe_load(recorded)["graph"]
    code.write_text(recorded.replace(digest, "0" * 64))  # as if another version had written dvc.yaml
    for arguments, said in [
        (["upgrade"], "error: dvc.yaml: made by another version of isoflop and then edited; fix: "),
        (["upgrade", "--force"], "error: dvc.yaml: got uncommitted edits, which --force would lose"),
    ]:
        assert cli.main(arguments) == 1
        assert capsys.readouterr().err.startswith(said) and graph.read_text() == mine
    commit(project, "my graph")
    assert cli.main(["upgrade", "--force"]) == 0
    assert graph.read_text() == original and code.read_text() == recorded


def test_upgrade_is_not_for_a_checkout(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(ROOT / "presets" / "smoke.yaml", tmp_path / "params.yaml")
    (tmp_path / "data" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "dvc.yaml").read_bytes()
    assert cli.main(["upgrade"]) == 0
    assert capsys.readouterr().out == "up to date: a checkout has its own dvc.yaml and code.yaml\n"
    assert (tmp_path / "dvc.yaml").read_bytes() == before and not (tmp_path / "code.yaml").exists()


def test_git_ignores_every_output_and_nothing_else_whatever_the_user_ignores(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`git add -A` after a run that failed, before DVC wrote its own ignores, takes no photo and no weight."""
    (place / "ignored").write_text("data/\n*.lock\n*.yaml\n*.dvc\npresets\n")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.excludesFile")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(place / "ignored"))
    assert cli.main(["init", "new", "--images", "photos", "--copy", "--quick"]) == 0
    monkeypatch.chdir(place / "new")
    tracked = set(run_command("git", "ls-files", cwd=Path()).stdout.split())
    assert {"params.yaml", "dvc.yaml", "code.yaml", "data/images.dvc", "presets/whole.yaml", ".dvc/config"} <= tracked
    assert not [name for name in tracked if name.startswith("data/images/")]
    with Repo() as repo:
        outputs = [Path(out.fs_path).relative_to(Path().resolve()) for out in repo.index.outs if out.use_cache]
    assert len(outputs) > 20
    for output in outputs:
        if output != Path("data/images"):
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text("made")
    Path("dvc.lock").write_text("schema: '2.0'\n")
    status = subprocess.run(["git", "status", "--porcelain", "-uall"], capture_output=True, text=True, check=True)
    assert status.stdout == "?? dvc.lock\n"
    run_command("git", "add", "-f", "metrics", "models", cwd=Path())
    capsys.readouterr()
    assert cli.main(["doctor", "--json"]) == 1
    found = {one["about"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    assert found["outputs"]["found"].startswith("git tracks metrics/base.json, metrics/data.json, metrics/")
    (cure,) = re.findall("`(.*?)`", found["outputs"]["cure"])
    subprocess.run(cure.partition(" && ")[0], shell=True, check=True)
    assert outputs_in_git(Path()) == []


def test_a_relative_path_is_named_where_dvc_does_not_find_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for images, warned in (("photos", True), (str(place / "photos"), False)):
        assert cli.main(["init", f"new{warned}", "--images", images]) == 0
        assert ("`dvc exp run --temp` and `--queue` need an absolute path" in capsys.readouterr().out) == warned
        monkeypatch.chdir(place / f"new{warned}")
        assert cli.main(["check"]) == 0
        assert ("data.path: got the relative path ../photos out of the project" in capsys.readouterr().err) == warned
        monkeypatch.chdir(place)
