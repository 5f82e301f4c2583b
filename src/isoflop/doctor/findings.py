"""Findings of ``isoflop doctor``, and those about the results of a project."""

from __future__ import annotations

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


def outputs(project: Path) -> Finding:
    """Find outputs that git tracks: a stage that writes one stops."""
    if tracked := outputs_in_git(project):
        named = ", ".join(tracked[:_NAMED]) + (f" and {len(tracked) - _NAMED} more" if len(tracked) > _NAMED else "")
        return Finding("outputs", "fail", f"git tracks {named}, which DVC caches", untracking(tracked))
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
