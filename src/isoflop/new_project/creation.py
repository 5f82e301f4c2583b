"""``isoflop init``: a project of one's own in a new folder, with a git and a DVC repository, whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from isoflop.new_project.image_survey import Survey, entries, survey, survey_lines
from isoflop.new_project.starting_params import Choice, StartingParams, quick_params, starting_params
from isoflop.project.command_output import command_output
from isoflop.project.presets import named_preset, presets_of_package
from isoflop.project.project_files import plot_templates, project_texts
from isoflop.runtime.errors import UserError

_IMAGES = Path("data") / "images"  # data.path of every preset
_DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"


@dataclass(frozen=True)
class NewProject:
    """What was found, chosen and laid."""

    folder: Path
    path: str  # data.path
    survey: Survey | None  # None: a preset with a data set of its own
    choices: list[Choice]
    warnings: list[str]
    is_quick: bool


def create_project(folder: Path, images: Path | None, *, preset: str | None, copy: bool, quick: bool) -> NewProject:
    """Lay a project in ``folder``, new or empty: params.yaml for ``images``, dvc.yaml, code.yaml, a first commit.

    Args:
        images: a folder or archive; None: those that the preset names.
        preset: where what the images do not decide comes from; None: `images`, or `digits` without any.
        copy: put the images into the project, for DVC to keep; else ``data.path`` names them where they are.
        quick: for a first look; the project then has presets of its own, `quick` and `whole`.

    Raises:
        UserError: there is something in ``folder``; no git, or no identity for it; no such preset; the images are
            missing, of one class, too few, or lie around ``folder``.
    """
    _check_place(folder, images)
    found: Survey | None = None
    chosen = named_preset(presets_of_package(), preset or ("images" if images else "digits"))
    start, path = StartingParams(chosen.content.decode(), []), _IMAGES.as_posix()
    with _laid_beside(folder) as partial:
        _start_git(partial)
        for name, text in project_texts().items():
            (partial / name).write_text(text)
        if images is None:
            _keep_folder(partial / _IMAGES)  # DVC looks at it, whatever the source
        else:
            found = survey(images)
            path = _copied_name(images) if copy else _lasting_path(images, folder)
            start = starting_params(start.text, found, path)
        (partial / "params.yaml").write_text(start.text)
        choices = {choice.key: choice for choice in [*start.choices, *(_make_quick(partial) if quick else [])]}
        command_output(["dvc", "init", "-q"], partial)
        (partial / ".dvc" / "config").write_text(_DVC_CONFIG)
        (partial / ".dvc" / "plots").mkdir(exist_ok=True)
        for name, text in plot_templates().items():
            (partial / name).write_text(text)
        if images is not None and found is not None and copy:
            _copy(images, found, partial / path)
            command_output(["dvc", "add", "-q", path], partial)
        _check(partial)
        command_output(["git", "add", "-A"], partial)
        command_output(["git", "commit", "-q", "-m", "isoflop init"], partial)
    return NewProject(
        folder, path, found, list(choices.values()), [*start.warnings, *_repository_around(folder)], quick
    )


def show(project: NewProject) -> None:
    """What was found, what was chosen and why, and what to do next."""
    if project.survey is not None:
        print("\n".join(survey_lines(project.survey)))
    else:
        print("Without --images, so for a data set of the preset's: data.source in params.yaml names it.")
    for choice in project.choices:
        print(f"  {choice.key}: {choice.value} ({choice.why})")
    if project.survey is not None:
        print(f"  data.path: {project.path} ({_where(project.path)})")
    for warning in project.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print(f"Next: cd {shlex.quote(str(project.folder))} && dvc repro && isoflop summary")
    print("(`dvc repro ship` leaves out the scaling study, the report and the demo)")
    if project.is_quick:
        print("After this first look, all of it: isoflop preset whole && dvc repro")
    print("Then keep what came out: git add -A && git commit -m 'First results'; `dvc push`, once there is a remote")


def _make_quick(project: Path) -> list[Choice]:
    """Cut params.yaml down for a first look, and lay both as presets of the project."""
    whole = (project / "params.yaml").read_text()
    quick = quick_params(whole)
    (project / "presets").mkdir()
    for file, text in (("presets/whole.yaml", whole), ("presets/quick.yaml", quick.text), ("params.yaml", quick.text)):
        (project / file).write_text(text)
    return quick.choices


def _repository_around(folder: Path) -> Iterator[str]:
    """A warning, where ``folder`` lies in a git repository that does not ignore it."""
    place = folder.resolve()
    try:
        around = Path(command_output(["git", "rev-parse", "--show-toplevel"], place.parent).strip())
    except UserError:
        return
    try:
        command_output(["git", "check-ignore", "-q", str(place)], place.parent)
    except UserError:
        line = f"/{place.relative_to(around.resolve()).as_posix()}/"
        yield (
            f"{place} lies in the git repository at {around}, and is one of its own; add {line} to {around}/.gitignore"
        )


def _where(path: str) -> str:
    if path.startswith(_IMAGES.parts[0] + "/"):
        return "kept by DVC: `dvc push` and `dvc pull` carry them to a teammate, once there is a remote"
    return "where they are: a teammate needs them at the same place; with --copy DVC keeps and shares them"


def _check_place(folder: Path, images: Path | None) -> None:
    if not shutil.which("git"):
        raise UserError("git: not installed; install git (`apt install git`, `brew install git`)")
    if (folder / "dvc.yaml").is_file() and (folder / "code.yaml").is_file():
        raise UserError(
            f"{folder}: a project already; another name, or without it, lays one anew; `isoflop upgrade` in it "
            "brings it to the installed version"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: found a file, expected a new or an empty folder")
    if folder.is_dir() and (inside := sorted(path.name for path in folder.iterdir())):
        raise UserError(f"{folder}: found {inside[0]!r} in it, expected a new or an empty folder")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"{folder}: found no folder {folder.absolute().parent} to make it in")
    if images and images.is_dir() and folder.resolve().is_relative_to(images.resolve()):
        raise UserError(f"{folder}: lies in the images' folder {images}, and what it makes would be images of it")


@contextlib.contextmanager
def _laid_beside(folder: Path) -> Iterator[Path]:
    """A new folder beside ``folder`` that takes its place where all goes well, and is gone where not.

    What is in it goes into a ``folder`` that is there, which may be where the user's shell stands, or a mount.
    """
    final = folder.resolve()
    partial = final.with_name(f".{final.name}.partial{os.getpid()}")
    partial.mkdir()
    try:
        yield partial
        if final.exists():
            _move_into(partial, final)
        else:
            os.rename(partial, final)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _move_into(partial: Path, empty: Path) -> None:
    try:
        for path in sorted(partial.iterdir()):
            shutil.move(path, empty / path.name)
    except BaseException:
        for path in empty.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise


def _start_git(partial: Path) -> None:
    command_output(["git", "init", "-q", "-b", "main"], partial)
    try:
        command_output(["git", "var", "GIT_COMMITTER_IDENT"], partial)
    except UserError:
        raise UserError(
            "git: found no identity for the first commit; `git config --global user.name 'Your Name'` and "
            "`git config --global user.email you@…` set one"
        ) from None


def _lasting_path(images: Path, folder: Path) -> str:
    """As it was given: absolute, or relative, which then is to the project."""
    if images.is_absolute():
        return images.as_posix()
    there = images.absolute().parent.resolve() / images.name if images.name else images.resolve()
    return Path(os.path.relpath(there, folder.resolve())).as_posix()


def _copied_name(images: Path) -> str:
    return (_IMAGES if images.is_dir() else _IMAGES.with_name(images.name)).as_posix()


def _copy(images: Path, found: Survey, target: Path) -> None:
    if images.is_file():
        target.parent.mkdir(parents=True)
        shutil.copy(images, target)
        return
    for entry in entries(images):
        if entry.name in found.places:
            (target / entry.name).parent.mkdir(parents=True, exist_ok=True)
            with entry.open() as source, (target / entry.name).open("wb") as copied:
                shutil.copyfileobj(source, copied)


def _keep_folder(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / ".gitkeep").touch()  # git keeps no empty folder


def _check(project: Path) -> None:
    from isoflop.project.checking import check, stage_schemas

    with contextlib.chdir(project):  # data.path holds here, too: it is beside where the project will be
        check(stage_schemas(project).values())
