"""What ``isoflop doctor --remove-damaged`` deletes: damaged objects and their copies, and nothing of anybody else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from isoflop.runtime.damage import changed_outputs, copies, damaged_objects, remove

GOOD = b"the weights"


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


class Project:
    """A project of one output, and its cache."""

    def __init__(self, folder: Path) -> None:
        self.root, self.cache = folder / "project", folder / "cache"
        self.objects = self.cache / "files" / "md5"
        self.root.mkdir()
        self.objects.mkdir(parents=True)

    def store(self, content: bytes, suffix: str = "") -> Path:
        """Add an object of this content."""
        name = md5(content) + suffix
        file = self.objects / name[:2] / name[2:]
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)
        return file

    def lock(self, path: str, stored: Path) -> None:
        outs = [{"path": path, "md5": stored.parent.name + stored.name}]
        (self.root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": {"train": {"outs": outs}}}))

    def damaged_file(self, path: str = "model.bin", content: bytes = b"the weighty") -> Path:
        """Store GOOD, list it as the output ``path``, and damage the object."""
        stored = self.store(GOOD)
        self.lock(path, stored)
        stored.write_bytes(content)
        return stored

    def clean(self) -> list[Path]:
        """Remove what is damaged and return what was deleted."""
        damaged = damaged_objects(self.cache)
        files = [*copies(self.root, damaged), *damaged]
        remaining = remove(files)
        return [file for file in files if file not in remaining]


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_copy_of_a_damaged_object_is_deleted_with_it(project: Project) -> None:
    stored = project.damaged_file()
    copy = project.root / "model.bin"
    copy.write_bytes(stored.read_bytes())
    assert project.clean() == [copy, stored]
    assert not copy.exists() and not stored.exists()


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_to_an_emptied_object_is_deleted_with_it(project: Project, link: Callable[[Path, Path], None]) -> None:
    stored = project.damaged_file(content=b"")
    link(stored, project.root / "model.bin")
    assert project.clean() == [project.root / "model.bin", stored]


def test_work_of_others_in_an_output_stays(project: Project) -> None:
    """The object was cut to nothing: an empty file, or a file of the same content elsewhere, is not a copy."""
    stored = project.store(GOOD)
    listed = project.store(json.dumps([{"relpath": "weights", "md5": md5(GOOD)}]).encode(), ".dir")
    project.lock("model", listed)
    stored.write_bytes(b"changed")
    model = project.root / "model"
    model.mkdir()
    (model / "weights").touch()
    (model / ".gitkeep").touch()
    (model / "notes.txt").write_text("three hours")
    (model / "backup").write_bytes(b"changed")
    assert project.clean() == [stored]
    (model / "weights").write_bytes(b"changed")
    stored.write_bytes(b"changed")
    assert project.clean() == [model / "weights", stored]
    assert {path.name for path in model.iterdir()} == {".gitkeep", "notes.txt", "backup"}


@pytest.mark.parametrize("form", ["../outside/{}", "{absolute}/{}", "sub/../../outside/{}", "linked/{}"])
def test_nothing_outside_of_the_project_is_deleted(project: Project, tmp_path: Path, form: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (project.root / "linked").symlink_to(outside)
    stored = project.damaged_file(form.format("model.bin", absolute=outside))
    (outside / "model.bin").write_bytes(stored.read_bytes())
    assert project.clean() == [stored]
    assert (outside / "model.bin").exists()


def test_a_list_of_files_cannot_name_files_outside_of_its_output(project: Project) -> None:
    listed = project.store(json.dumps([{"relpath": "../own.txt", "md5": md5(GOOD)}]).encode(), ".dir")
    stored = project.store(GOOD)
    project.lock("model", listed)
    stored.write_bytes(b"changed")
    (project.root / "model").mkdir()
    (project.root / "own.txt").write_bytes(b"changed")
    assert project.clean() == [stored]
    assert (project.root / "own.txt").exists()


def test_links_are_deleted_and_their_targets_untouched(project: Project, tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("private")
    key.chmod(0o600)
    stored = project.damaged_file()
    stored.unlink()
    stored.symlink_to(key)
    assert project.clean() == [stored]
    assert key.read_text() == "private" and key.stat().st_mode & 0o777 == 0o600


def test_a_linked_folder_of_the_cache_is_not_entered(project: Project, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / ("0" * 30)).write_text("somebody's")
    (project.objects / "ab").symlink_to(outside)
    assert project.clean() == []
    assert (outside / ("0" * 30)).exists()


def test_pipes_and_folders_in_place_of_objects_do_not_block_or_disappear(project: Project) -> None:
    pipe, folder = project.objects / "ab" / ("0" * 30), project.objects / "ab" / ("1" * 30)
    folder.mkdir(parents=True)
    (folder / "own.txt").touch()
    os.mkfifo(pipe)
    assert project.clean() == [pipe]
    assert (folder / "own.txt").exists() and list(remove([folder])) == [folder]


def test_outputs_that_are_pipes_do_not_block(project: Project) -> None:
    project.damaged_file()
    os.mkfifo(project.root / "model.bin")
    assert changed_outputs(project.root) == []
