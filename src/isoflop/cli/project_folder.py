"""The project that a command works on: the folder with dvc.yaml at or above the working directory."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from isoflop.runtime.damage import locked_outputs
from isoflop.runtime.errors import UserError
from isoflop.runtime.terminal import printable


def find_project(start: Path) -> Path:
    """Return the nearest folder from ``start`` upward that contains dvc.yaml.

    Raises:
        UserError: there is none.
    """
    project = project_around(start)
    if project is None:
        raise UserError(f"{start}: got no dvc.yaml here or in a parent folder; fix: run this in a project")
    return project


def project_around(start: Path) -> Path | None:
    """Return the nearest folder from ``start`` upward that contains dvc.yaml, or None."""
    return next((folder for folder in (start, *start.parents) if (folder / "dvc.yaml").is_file()), None)


def project_here() -> Path:
    """Return the project around the working directory, relative to it, so that messages show short paths.

    Raises:
        UserError: there is none.
    """
    return Path(os.path.relpath(find_project(Path.cwd())))


def refuse_outputs(project: Path, file: Path, option: str) -> None:
    """Refuse a file or folder to write that is an output of the pipeline of ``project``, in one, or around one.

    Raises:
        UserError: DVC would take the file for a change of that output.
    """
    for output in locked_outputs(project / "dvc.lock"):
        made, wanted = (project / output).absolute(), file.absolute()  # not resolved: outputs may be links into a cache
        if wanted.is_relative_to(made) or made.is_relative_to(wanted):
            raise UserError(f"{option}: got {file}, where the pipeline writes {output}; fix: choose another path")


def warn_if_stale(*paths: Path) -> None:
    """Print a warning for each output of the pipeline, of those that a command reads, that is stale."""
    from isoflop.project.staleness import staleness_warning  # slow for a command that prints its help

    for warning in dict.fromkeys(map(staleness_warning, paths)):
        if warning:
            print(f"warning: {printable(warning)}", file=sys.stderr)
