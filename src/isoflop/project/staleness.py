"""Which results are stale: computed from other parameters, code or data than those that are there now.

DVC compares each stage with its own inputs. What follows from a stale stage is stale, too.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from isoflop.runtime import plain_yaml
from isoflop.runtime.errors import UserError

_CHANGES = {"modified", "new"}  # of a dependency; a deleted file says nothing about the results
_Locked = Mapping[str, Any]  # the stages of a dvc.lock


def stale_outputs(project: Path) -> dict[str, str]:
    """Return the stale outputs in the workspace of ``project``: path → stage.

    Empty outside a DVC repository, and where DVC cannot write its lock.

    Raises:
        UserError: dvc.yaml is invalid, or another DVC command is running.
    """
    if not (project / ".dvc").is_dir() or not (project / "dvc.lock").is_file():
        return {}
    import networkx
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(project)) as repo:
            changed = {_name(key) for key, changes in repo.status().items() if _is_changed(changes)}
            graph = repo.index.graph
            found = {stage for stage in graph if _name(stage.addressing) in changed}
            found |= {later for stage in found for later in networkx.ancestors(graph, stage)}
            in_order = [stage for stage in repo.index.stages if stage in found]
            outs = {os.path.relpath(out.fs_path, repo.root_dir): stage for stage in in_order for out in stage.outs}
    except OSError as error:
        if error.errno in (errno.EROFS, errno.EACCES):  # DVC locks a project before it looks
            return {}
        raise
    except DvcException as error:
        raise UserError(f"dvc status: {' '.join(str(error).split())}") from None
    locked = read_lock((project / "dvc.lock").read_text())  # a stage that is not in it has no results
    return {Path(out).as_posix(): stage.name for out, stage in outs.items() if getattr(stage, "name", None) in locked}


def stale_in_lock(lock: str, contents: Mapping[str, Any]) -> dict[str, str]:
    """Return the stale outputs of a commit: path → stage, as far as its own files tell.

    Args:
        lock: the text of its dvc.lock.
        contents: its parameter files, parsed, by name.
    """
    stages = read_lock(lock)
    made = {out["path"]: (name, out.get("md5")) for name, stage in stages.items() for out in stage.get("outs", [])}
    stale = {name for name, stage in stages.items() if _differs(stage, made, contents)}
    while later := {
        name
        for name, stage in stages.items()
        if name not in stale and any(maker in stale for dep in stage.get("deps", []) for maker in _makers(dep, made))
    }:
        stale |= later
    return {path: name for path, (name, _) in made.items() if name in stale}


def read_lock(text: str) -> _Locked:
    """Return the stages of a dvc.lock; none if it is damaged, which DVC reports."""
    try:
        return dict(plain_yaml.parse(text)[0]["stages"])  # like DVC: PyYAML reads 1e-05 as a string
    except (KeyError, TypeError, ValueError):
        return {}


def stale_note(stages: Iterable[str]) -> str:
    """Return a sentence that names stale stages and the command that updates them."""
    named = list(dict.fromkeys(stages))
    shown = ", ".join(named[:6]) + (f" and {len(named) - 6} more" if len(named) > 6 else "")
    return f"the parameters, code or data changed after {shown} ran; fix: `dvc repro` updates the results"


def _name(address: str) -> str:
    """dvc.yaml of another folder than the current one stands before the name of the stage."""
    return address.rsplit(":", 1)[-1]


def _is_changed(changes: Iterable[Any]) -> bool:
    """Return whether the status of a stage, as DVC lists it, has more than missing files."""
    for change in changes:
        if not isinstance(change, dict):  # "changed command", "changed checksum"
            return True
        for inner in change.values():
            states = inner.values() if isinstance(inner, dict) else [inner]
            flat = [one for state in states for one in (state.values() if isinstance(state, dict) else [state])]
            if _CHANGES & set(map(str, flat)):
                return True
    return False


def _differs(stage: Mapping[str, Any], made: Mapping[str, tuple[str, Any]], contents: Mapping[str, Any]) -> bool:
    for dep in stage.get("deps", []):
        if dep["path"] in made and dep.get("md5") != made[dep["path"]][1]:
            return True
    return any(
        _value(contents[file], key) != value
        for file, values in stage.get("params", {}).items()
        if file in contents
        for key, value in values.items()
    )


def _makers(dep: Mapping[str, Any], made: Mapping[str, tuple[str, Any]]) -> list[str]:
    path = dep["path"]
    return [
        name
        for out, (name, _) in made.items()
        if out == path or out.startswith(f"{path}/") or path.startswith(f"{out}/")
    ]


def _value(content: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content
