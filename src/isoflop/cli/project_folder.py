"""The project that a command works on: the folder with dvc.yaml at or above the working directory."""

from __future__ import annotations

import os
from pathlib import Path

from isoflop.runtime.errors import UserError


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
