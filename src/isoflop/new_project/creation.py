"""``isoflop init``: create a project, a git and DVC repository in a new folder. On an error nothing is left behind."""

from __future__ import annotations

import contextlib
import itertools
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import yaml

from isoflop.download.image_folders import visible
from isoflop.new_project.image_size_probe import (
    PROBE,
    candidate_sizes,
    chosen_size,
    probe_image_sizes,
    probe_lines,
    write_probe,
)
from isoflop.new_project.image_survey import Survey, entries, survey, survey_lines
from isoflop.new_project.starting_params import (
    NOTHING,
    StartingParams,
    given_params,
    quick_params,
    starting_params,
    with_image_size,
)
from isoflop.new_project.starting_values import Choice, Wishes, image_size_step
from isoflop.project.command_output import command_output
from isoflop.project.presets import named_preset, presets_of_package
from isoflop.project.project_files import plot_templates, project_texts
from isoflop.runtime.errors import UserError
from isoflop.runtime.scratch import move_into, scratch_folder

_IMAGES = Path("data") / "images"  # data.path in every preset
_MOST_PROBED = 5000  # images: more take long to read; `isoflop probe` does it on request
_PROBE_S = 120.0
_DVC_CONFIG = "[core]\n    analytics = false\n    check_update = false\n"


@dataclass(frozen=True)
class NewProject:
    """A created project: what was found in the images, and which parameters were chosen."""

    folder: Path
    path: str  # data.path
    survey: Survey | None  # None: the project uses the data set of its preset
    choices: list[Choice]
    warnings: list[str]
    is_quick: bool


def create_project(
    folder: Path, images: Path | None, *, preset: str | None, copy: bool, quick: bool, wishes: Wishes = NOTHING
) -> NewProject:
    """Create a project in ``folder`` (new or empty): params.yaml for ``images``, dvc.yaml, code.yaml, a first commit.

    Args:
        images: a folder or archive of images; None: the data set that the preset names.
        preset: the source of all parameters that do not depend on the images; None: `images`, or `digits` without
            images.
        copy: copy the images into the project, where DVC tracks them; else ``data.path`` refers to their location.
        quick: choose parameters for a first quick run; the project gets the presets `quick` and `whole`.
        wishes: values of params.yaml that the user gave. Without an image size, images that are much larger than the
            preset's are probed (``image_size_probe``).

    Raises:
        UserError: ``folder`` is not empty; git is missing or has no identity; the preset is unknown; or the images are
            missing, of one class, too few, or in a folder that contains ``folder``.
    """
    _check_place(folder, images)
    found: Survey | None = None
    chosen = named_preset(presets_of_package(), preset or ("images" if images else "digits"))
    start, path = StartingParams(chosen.content.decode(), []), _IMAGES.as_posix()
    with _created_whole(folder) as partial:
        _start_git(partial)
        for name, text in project_texts().items():
            (partial / name).write_text(text)
        if images is None:
            _keep_folder(partial / _IMAGES)  # dvc.yaml names it as a dependency, whatever the source
            start = given_params(start.text, wishes)
        else:
            found = survey(images)
            path = _copied_name(images) if copy else _lasting_path(images, folder)
            wishes = replace(
                wishes, from_scratch=wishes.from_scratch or preset is not None
            )  # a preset decides the start
            start = starting_params(start.text, found, path, wishes)
            if wishes.image_size is None and not any(choice.key == "model.pretrained" for choice in start.choices):
                start = _probed(start, found, partial)
        (partial / "params.yaml").write_text(start.text)
        choices = {choice.key: choice for choice in [*start.choices, *(_make_quick(partial) if quick else [])]}
        command_output(["dvc", "init"], partial)
        (partial / ".dvc" / "config").write_text(_DVC_CONFIG)
        (partial / ".dvc" / "plots").mkdir(exist_ok=True)
        for name, text in plot_templates().items():
            (partial / name).write_text(text)
        if images is not None and found is not None and copy:
            _copy(images, found, partial / path)
            command_output(["dvc", "add", path], partial)  # with -q it keeps the reason of an error to itself
        _check(partial)
        command_output(["git", "add", "-A"], partial)
        command_output(["git", "commit", "-q", "-m", "isoflop init"], partial)
    return NewProject(
        folder, path, found, list(choices.values()), [*start.warnings, *_repository_around(folder)], quick
    )


def show(project: NewProject) -> None:
    """Print what was found, what was chosen and why, and what to do next."""
    if project.survey is not None:
        print("\n".join(survey_lines(project.survey)))
    else:
        print("No --images given: the project uses the data set of its preset (data.source in params.yaml).")
    chosen = []
    for why, choices in itertools.groupby(project.choices, key=lambda choice: choice.why):
        values = ", ".join(f"{choice.key}: {choice.value}" for choice in choices)
        chosen.append(f"  {values} ({why})")
    if project.survey is not None:
        chosen.append(f"  data.path: {project.path} ({_where(project.path)})")
    print(f"Created the project {project.folder}.", *(["Values chosen in params.yaml:"] if chosen else []))
    print(*chosen, sep="\n", end="\n" if chosen else "")
    for warning in project.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    print("Next steps:")
    print(f"  cd {shlex.quote(str(project.folder))} && dvc repro && isoflop summary")
    study = "" if _is_pretrained(project) else "; the study runs last: `dvc repro report demo` leaves it out"
    print(f"    runs the pipeline and prints the results{study}")
    if project.is_quick:
        print("  isoflop preset whole && dvc repro")
        print("    replaces the quick parameters with the full ones and runs the pipeline again")
    print("  git add -A && git commit -m 'First results'")
    print("    records the results; with a DVC remote, `dvc push` uploads the data and models")


def _is_pretrained(project: NewProject) -> bool:
    return any(choice.key == "model.pretrained" for choice in project.choices)


def _probed(start: StartingParams, found: Survey, partial: Path) -> StartingParams:
    """Choose the image size by short trainings if the images are much larger than the preset's size."""
    params = yaml.safe_load(start.text)
    size, side = params["prepare"]["image_size"], found.sides[1]
    sizes = candidate_sizes(size, side, image_size_step(params))
    if max(sizes) == size or len(found.places) > _MOST_PROBED:
        return start
    print(f"Probing image sizes {', '.join(map(str, sizes))} with short trainings, about {_PROBE_S / 60:.0f} minutes:")
    try:
        with contextlib.chdir(partial):
            measured = probe_image_sizes(params, sizes, _PROBE_S)
    except UserError as error:  # such as too few images for the probe's splits
        print(f"The probe failed: {error}")
        return start
    if len(measured) < 2:
        print(f"Only {size} pixels fit into the time; `isoflop probe --minutes 10` measures more.")
        return start
    chosen = chosen_size(measured)
    write_probe(measured, chosen, partial / PROBE)
    print(*probe_lines(measured, chosen), sep="\n")
    why = f"the smallest probed size within one standard error of the lowest NLL; {PROBE} has the measurements"
    return with_image_size(start, chosen.image_size, why)


def _make_quick(project: Path) -> list[Choice]:
    """Reduce params.yaml for a first quick run, and write the presets `whole` and `quick`."""
    whole = (project / "params.yaml").read_text()
    quick = quick_params(whole)
    (project / "presets").mkdir()
    for file, text in (("presets/whole.yaml", whole), ("presets/quick.yaml", quick.text), ("params.yaml", quick.text)):
        (project / file).write_text(text)
    return quick.choices


def _repository_around(folder: Path) -> Iterator[str]:
    """Yield a warning if ``folder`` is inside another git repository that does not ignore it."""
    project = folder.resolve()
    try:
        outer = Path(command_output(["git", "rev-parse", "--show-toplevel"], project.parent).strip())
    except UserError:
        return
    try:
        command_output(["git", "check-ignore", "-q", str(project)], project.parent)
    except UserError:
        line = f"/{project.relative_to(outer.resolve()).as_posix()}/"
        yield f"{project} is a git repository inside the repository {outer}; fix: add {line} to {outer}/.gitignore"


def _where(path: str) -> str:
    if path.startswith(_IMAGES.parts[0] + "/"):
        return "a copy of your images, tracked by DVC; with a DVC remote, `dvc push` and `dvc pull` share them"
    elsewhere = "" if Path(path).is_absolute() else "; `dvc exp run --temp` and `--queue` need an absolute path"
    return f"your images stay there, and teammates need them at the same path{elsewhere}; --copy lets DVC share them"


def _check_place(folder: Path, images: Path | None) -> None:
    if not shutil.which("git"):
        raise UserError("git: not installed; fix: install git (`apt install git`, `brew install git`)")
    for given in (folder, *([images] if images else [])):
        if (shown := visible(str(given))) != str(given):
            raise UserError(f"'{shown}': got a name with control characters or not in UTF-8; fix: rename the folder")
    if (folder / "dvc.yaml").is_file() and (folder / "code.yaml").is_file():
        raise UserError(
            f"{folder}: got an existing project, expected a new or empty folder; fix: choose another name, or run "
            "`isoflop upgrade` in the project to update it to the installed version"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: got a file, expected a new or empty folder")
    if folder.is_dir() and (inside := sorted(path.name for path in folder.iterdir())):
        raise UserError(f"{folder}: got a folder that contains {inside[0]!r}, expected a new or empty folder")
    if not folder.absolute().parent.is_dir():
        raise UserError(f"{folder}: got no folder {folder.absolute().parent}, expected an existing parent folder")
    if images and images.is_dir() and folder.resolve().is_relative_to(images.resolve()):
        raise UserError(
            f"{folder}: got a folder inside the images' folder {images}, expected one outside: the project's pictures "
            "would become images of the data set"
        )


@contextlib.contextmanager
def _created_whole(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder next to ``folder``. It becomes ``folder`` on success and is deleted on an error.

    If ``folder`` exists, it is filled and not replaced: it may be a mount or the working directory of the shell.
    """
    final = folder.resolve()
    with scratch_folder(final.parent, final.name) as partial:
        yield partial
        move_into(partial, final)


def _start_git(partial: Path) -> None:
    command_output(["git", "init", "-q", "-b", "main"], partial)
    try:
        command_output(["git", "var", "GIT_COMMITTER_IDENT"], partial)
    except UserError:
        raise UserError(
            "git: got no identity for the first commit; fix: `git config --global user.name 'Your Name'` and "
            "`git config --global user.email you@…`"
        ) from None


def _lasting_path(images: Path, folder: Path) -> str:
    """Return data.path for images that stay in their location: absolute if given so, else relative to the project."""
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

    with contextlib.chdir(project):  # a relative data.path is valid here, too: the final folder has the same parent
        check(stage_schemas(project).values())
