"""Outputs of the pipeline that git tracks: DVC refuses to cache them, after their stage has run."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

from isoflop.runtime.damage import locked_outputs
from isoflop.runtime.errors import UserError

_LOCK = Path("dvc.lock")
_NAMED = 3  # outputs in a message


def check_not_in_git(outputs: Iterable[Path]) -> None:
    """Check that git tracks none of the outputs of a stage, before it runs.

    Raises:
        UserError: git tracks one; the fix covers all outputs in dvc.lock.
    """
    if outputs_in_git(Path(), [output.as_posix() for output in outputs]):
        every = {output.as_posix() for output in outputs} | locked_outputs(_LOCK).keys()
        raise UserError(tracked_in_words(outputs_in_git(Path(), every)))


def tracked_in_words(tracked: list[str]) -> str:
    """Return what git tracks, and the command that ends it."""
    named = ", ".join(tracked[:_NAMED]) + (f" and {len(tracked) - _NAMED} more" if len(tracked) > _NAMED else "")
    return f"git tracks {named}, which DVC caches and refuses to overwrite; fix: {untracking(tracked)}"


def untracking(tracked: list[str]) -> str:
    """Return the command that takes outputs out of git and leaves the files."""
    return f"`git rm -r -q --cached {shlex.join(tracked)} && git commit -q -m 'Outputs belong to DVC'`"


def outputs_in_git(project: Path, outputs: Iterable[str] | None = None) -> list[str]:
    """Return the outputs of ``project`` that git tracks although DVC caches them, sorted; none outside git.

    Args:
        outputs: paths relative to ``project``; None: all outputs of dvc.yaml.
    """
    names = _cached(project) if outputs is None else set(outputs)
    if not names or not (tracked := _listed(project, sorted(names))):
        return []
    found = {name for name in names if any(file == name or file.startswith(f"{name}/") for file in tracked)}
    return sorted(found & _cached(project))  # one with `cache: false` may be in git


def _listed(project: Path, names: list[str]) -> list[str]:
    command = ["git", "ls-files", "-z", "--", *names]
    try:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, errors="surrogateescape")
    except OSError:
        return []
    return [name for name in done.stdout.split("\0") if name and Path(name).name != ".gitignore"]


def _cached(project: Path) -> set[str]:
    """Return the outputs that DVC caches; none if it cannot read ``project``."""
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(project)) as repo:
            root = Path(repo.root_dir)
            return {Path(out.fs_path).relative_to(root).as_posix() for out in repo.index.outs if out.use_cache}
    except DvcException:
        return set()
