"""Files that a project takes from the installed package: the graph, wired to its stages, and the code digests.

The package contains the dvc.yaml, presets and ignore files of the repository. In a checkout they are at its root.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

from isoflop.project.command_output import command_output
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_atomically
from isoflop.runtime.stage_code import (
    CODE_FILE,
    CODE_STAGE,
    STAGES_PACKAGE,
    code_text,
    has_own_stages,
    installed,
    recorded_code,
    stale_stages,
    version,
)

_GRAPH = "dvc.yaml"
_PLOTS = Path(".dvc") / "plots"
_IGNORE_FILES = (".gitignore", ".dvcignore")
_HEAD = """\
# The graph of isoflop. Its stages are modules of the installed package, and code.yaml has a digest of their code.
# `isoflop upgrade` writes both files for another version, and refuses if that would lose your changes.
"""


def package_folder() -> Path:
    """Return the folder of the package's dvc.yaml and presets/."""
    package = installed().package
    inside = package / "template"
    return inside if inside.is_dir() else package.parents[1]


def runs_installed_code(project: Path) -> bool:
    """Return whether ``project`` runs the stages of the installed package, not its own."""
    return not has_own_stages(project)


def project_texts() -> dict[str, str]:
    """Return the text of each file that all new projects share, by name."""
    graph = wired_graph((package_folder() / _GRAPH).read_text())
    ignored = {name: (package_folder() / name).read_text() for name in _IGNORE_FILES}
    return {_GRAPH: graph, CODE_FILE.name: code_text(installed(), isoflop=version(), graph=_digest(graph)), **ignored}


def plot_templates() -> dict[str, str]:
    """Return the plot templates that dvc.yaml names, by path; they need a folder in which `dvc init` has run."""
    files = sorted((package_folder() / _PLOTS).glob("*.json"))
    return {(_PLOTS / file.name).as_posix(): file.read_text() for file in files}


def wired_graph(text: str) -> str:
    """Return a checkout's dvc.yaml as a project without code has it: commands run the installed modules and import
    nothing from the project's folder (``-P``), where a cache may have put it, and no stage writes code.yaml."""
    from isoflop.project.yaml_text import dump_graph, load

    lines = (line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    content = load("".join(lines).replace("python -m stages.", f"python -P -m {STAGES_PACKAGE}."))
    del content["stages"][CODE_STAGE]
    return _HEAD + dump_graph(content)


def upgrade(project: Path, *, force: bool) -> list[str]:
    """Write dvc.yaml and code.yaml of ``project`` for the installed package; return the stages whose code changed.

    An edited dvc.yaml stays if it was made from the dvc.yaml that the package has now.

    Raises:
        UserError: ``project`` has its own stages, or the upgrade would lose edits of dvc.yaml that are not committed or
            for which ``force`` is not set.
    """
    if has_own_stages(project):
        raise UserError(f"{project}: got a checkout with its own stages/, expected a project of `isoflop init`")
    files = project_texts()
    there = (project / _GRAPH).read_text()
    recorded: dict[str, Any] = {}
    with contextlib.suppress(UserError):  # missing or damaged: all of it is written
        recorded = recorded_code(project)
    changed = stale_stages(project) if recorded else installed().stage_names()
    is_edited = _digest(there) not in (recorded.get("graph"), _digest(files[_GRAPH]))
    keeps = is_edited and recorded.get("graph") == _digest(files[_GRAPH])
    if is_edited and not keeps:
        if not force:
            raise UserError(
                f"{_GRAPH}: made by another version of isoflop and then edited; fix: "
                f"`isoflop upgrade --force` writes the new one, then `git diff {_GRAPH}` shows your edits"
            )
        if not _is_committed(project, there):
            raise UserError(f"{_GRAPH}: got uncommitted edits, which --force would lose; fix: commit them")
    graph = {} if keeps else {_GRAPH: files[_GRAPH]}
    # code.yaml last: it records which dvc.yaml was written, so that a kill in between is not taken for an edit
    written = graph | plot_templates() | {CODE_FILE.name: files[CODE_FILE.name]}
    (project / _PLOTS).mkdir(parents=True, exist_ok=True)
    for name, text in written.items():
        write_atomically(project / name, text)
    return changed


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_committed(project: Path, text: str) -> bool:
    with contextlib.suppress(UserError):
        return command_output(["git", "show", f"HEAD:./{_GRAPH}"], project) == text
    return False
