"""Read the results of a git revision or DVC experiment from git and DVC's cache, without touching the workspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.project.command_output import in_git
from isoflop.project.staleness import stale_in_lock, stale_outputs
from isoflop.runtime import plain_yaml
from isoflop.runtime.dvc_md5 import dvc_md5
from isoflop.runtime.errors import UserError

_PARAMS = ("params.yaml", "code.yaml")
_FILES = (*_PARAMS, "dvc.lock", "plots/confusion.csv", "plots/tradeoff.csv")
_FOLDERS = ("metrics", "scaling", "plots/training")
WORKSPACE = "workspace"


@dataclass(frozen=True)
class Run:
    """A revision with results: ``folder`` holds a copy of its params.yaml, metrics/ and the plots that are compared."""

    name: str
    commit: str  # abbreviated hash; empty for the workspace
    folder: Path
    stale: frozenset[str] = frozenset()  # outputs that are older than the run's parameters, code or data


def read_runs(project: Path, names: Sequence[str], scratch: Path) -> list[Run]:
    """Return the runs of git revisions and DVC experiments, in order; after a single one, the workspace follows.

    Args:
        scratch: folder for the copies of their files.

    Raises:
        UserError: a name is neither a revision nor an experiment, or its results are missing.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    in_git(project)  # raises an error that names the fix if another user owns the repository
    try:
        with Repo(str(project)) as repo:
            commits = [_resolved(repo, name) for name in names]
    except DvcException as error:
        raise UserError(f"{project}: {' '.join(str(error).split())}") from None
    runs = []
    for index, (name, commit) in enumerate(zip(names, commits, strict=True)):
        folder = scratch / str(index)
        _copy_results(project, name, commit, folder)
        runs.append(Run(name, commit[:9], folder, _stale(folder)))
    if len(runs) > 1:
        return runs
    if not any((project / "metrics").glob("*.json")):
        raise UserError(f"--compare {names[0]}: metrics: not found in the {WORKSPACE}; fix: run `dvc repro`")
    return [*runs, Run(WORKSPACE, "", project, frozenset(stale_outputs(project)))]


def _resolved(repo: Any, name: str) -> str:
    from dvc.scm import NoSCMError, RevError, resolve_rev
    from scmrepo.exceptions import SCMError

    try:
        return str(resolve_rev(repo.scm, name))
    except (RevError, SCMError):
        if not repo.scm.list_all_commits():
            raise UserError(f"--compare {name}: git has no commits; fix: run `dvc repro`, then `git commit`") from None
        raise UserError(
            f"--compare {name}: no such revision or experiment; fix: see `git log --oneline` and `dvc exp list`"
        ) from None
    except NoSCMError:
        raise UserError(f"--compare {name}: not a git repository, expected one that holds the revision") from None


def _stale(folder: Path) -> frozenset[str]:
    contents = {name: plain_yaml.parse((folder / name).read_text())[0] for name in _PARAMS if (folder / name).is_file()}
    return frozenset(stale_in_lock((folder / "dvc.lock").read_text(), contents))


def _copy_results(project: Path, name: str, commit: str, folder: Path) -> None:
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException
    from dvc_data.index import DataIndexDirError

    try:
        files = DVCFileSystem(url=str(project), rev=commit)
        if not files.isfile("dvc.lock"):
            raise UserError(
                f"--compare {name}: dvc.lock: not found in that commit; fix: run `dvc repro`, then commit dvc.lock"
            )
        wanted = [file for file in _FILES if files.isfile(file)]
        for part in _FOLDERS:
            wanted += [found for found in files.find(part)] if files.isdir(part) else []
        for file in wanted:
            target = folder / file.lstrip("/")
            if ".." in target.parts:  # a list of files in a remote may name anything
                raise UserError(f"--compare {name}: got the file {file!r} in its results, expected no '..' in a path")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(files.read_bytes(file))
            md5 = files.info(file).get("dvc_info", {}).get("md5")  # DVC reads an object without a check
            if md5 and md5 != dvc_md5(target):
                raise UserError(
                    f"--compare {name}: {file}: damaged in the cache; fix: `isoflop doctor --remove-damaged`"
                )
    except (DvcException, DataIndexDirError, OSError) as error:
        raise UserError(
            f"--compare {name}: its results are neither in the cache nor in a remote ({' '.join(str(error).split())}); "
            "fix: `dvc push` where they exist, or `dvc repro` that commit"
        ) from None
    if not any((folder / "metrics").glob("*.json")):
        raise UserError(
            f"--compare {name}: metrics: not found in that commit; fix: run `dvc repro`, then commit dvc.lock"
        )
