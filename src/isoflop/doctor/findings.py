"""Findings of ``isoflop doctor``, and those about the results of a project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from isoflop.project.staleness import causes_in_words, stale_outputs
from isoflop.runtime.errors import UserError
from isoflop.runtime.git_tracking import outputs_in_git, untracking

_NAMED = 6  # outputs in a message


@dataclass(frozen=True)
class Finding:
    """``fail``: the pipeline cannot run; ``warn``: it can run, but something will not work."""

    about: str
    status: Literal["ok", "warn", "fail"]
    found: str
    cure: str = ""


def some(named: Sequence[Path | str]) -> str:
    """Return the first few names, and the number of the others."""
    return ", ".join(map(str, named[:_NAMED])) + (f" and {len(named) - _NAMED} more" if len(named) > _NAMED else "")


def outputs(project: Path) -> Finding:
    """Find outputs that git tracks: a stage that writes one stops."""
    if tracked := outputs_in_git(project):
        return Finding("outputs", "fail", f"git tracks {some(tracked)}, which DVC caches", untracking(tracked))
    return Finding("outputs", "ok", "git tracks none of them")


def results(project: Path) -> Finding:
    """Find results that are older than the parameters, code or data."""
    try:
        stale = stale_outputs(project)
    except UserError as error:
        return Finding("results", "warn", f"not checked: {error}"[:300])
    if stale:
        stages = sorted({one.stage for one in stale.values()})
        found = f"{causes_in_words(stale.values())} changed after these ran: {', '.join(stages)}"
        return Finding("results", "warn", found, "`dvc repro` updates them")
    return Finding("results", "ok", "none is older than its parameters, code and data")
