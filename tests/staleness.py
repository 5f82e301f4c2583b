"""Every value of params.yaml, and the stages that DVC finds stale when one changes."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def leaves(tree: Any, prefix: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of every value; lists count as one value, but a list of mappings is entered."""
    if isinstance(tree, dict):
        for name, value in tree.items():
            yield from leaves(value, (*prefix, name))
    elif isinstance(tree, list) and tree and isinstance(tree[0], dict):
        for index, value in enumerate(tree):
            yield from leaves(value, (*prefix, index))
    else:
        yield prefix


def stale(project: Path) -> set[str]:
    """The stages whose parameters or command `dvc status` finds changed; what it says of files is not asked."""
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo

    with warnings.catch_warnings(), Repo(str(project)) as repo, repo.lock:
        warnings.simplefilter("ignore")  # DVC's own dependencies warn
        # a stage of another folder than the current one is named with the path of its dvc.yaml before it
        return {
            stage.addressing.rsplit(":", 1)[-1]
            for stage in repo.index.stages
            if stage.changed_stage()
            or any(isinstance(dependency, ParamsDependency) and dependency.status() for dependency in stage.deps)
        }
