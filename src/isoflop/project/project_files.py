"""What a project gets from the installed package: the graph, wired to the package's stages, and the code's digests.

The package carries the repository's own dvc.yaml, presets and ignore files. In a checkout they lie at its top.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

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
    """Where the package has its dvc.yaml and presets/."""
    package = installed().package
    inside = package / "template"
    return inside if inside.is_dir() else package.parents[1]


def runs_installed_code(project: Path) -> bool:
    """Whether ``project`` runs the stages of the installed package, and not stages of its own."""
    return (project / CODE_FILE).is_file() and not has_own_stages(project)


def project_texts() -> dict[str, str]:
    """The files of a new project that are the same in every one, by name."""
    graph = wired_graph((package_folder() / _GRAPH).read_text())
    ignored = {name: (package_folder() / name).read_text() for name in _IGNORE_FILES}
    return {_GRAPH: graph, CODE_FILE.name: code_text(installed(), isoflop=version(), graph=_digest(graph)), **ignored}


def plot_templates() -> dict[str, str]:
    """What dvc.yaml's plots are drawn by, by name; for a folder in which `dvc init` has run."""
    files = sorted((package_folder() / _PLOTS).glob("*.json"))
    return {(_PLOTS / file.name).as_posix(): file.read_text() for file in files}


def wired_graph(text: str) -> str:
    """Return a checkout's dvc.yaml as a project without code has it: commands run the installed modules, and no stage
    writes code.yaml."""
    from isoflop.project.yaml_text import dump_graph, load

    lines = (line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    content = load("".join(lines).replace("python -m stages.", f"python -m {STAGES_PACKAGE}."))
    del content["stages"][CODE_STAGE]
    return _HEAD + dump_graph(content)


def upgrade(project: Path, *, force: bool) -> list[str]:
    """Write dvc.yaml and code.yaml of ``project`` for the installed package; returns the stages whose code changed.

    A dvc.yaml with changes of the user's stays as it is where the package's own is the one that it was made from.

    Raises:
        UserError: ``project`` has stages of its own, or its dvc.yaml has changes that would be lost, and ``force`` is
            not given or git does not have them either.
    """
    if has_own_stages(project):
        raise UserError(f"{project}: has stages/ of its own, expected a project that `isoflop init` made")
    files = project_texts()
    there = (project / _GRAPH).read_text()
    recorded = recorded_code(project) if (project / CODE_FILE).exists() else {}
    changed = stale_stages(project) if recorded else installed().stage_names()
    is_edited = _digest(there) not in (recorded.get("graph"), _digest(files[_GRAPH]))
    keeps = is_edited and recorded.get("graph") == _digest(files[_GRAPH])
    if is_edited and not keeps:
        if not force:
            raise UserError(
                f"{_GRAPH}: has changes of yours, and isoflop {version()} has another graph than it was made from; "
                f"--force writes that one, and `git diff {_GRAPH}` then shows what to bring back"
            )
        if not _is_committed(project, there):
            raise UserError(f"{_GRAPH}: has changes that are not committed, which --force would lose; commit them")
    written = {CODE_FILE.name: files[CODE_FILE.name]} | ({} if keeps else {_GRAPH: files[_GRAPH]})
    (project / _PLOTS).mkdir(parents=True, exist_ok=True)
    for name, text in (written | plot_templates()).items():
        write_atomically(project / name, text)
    return changed


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _is_committed(project: Path, text: str) -> bool:
    with contextlib.suppress(UserError):
        return command_output(["git", "show", f"HEAD:./{_GRAPH}"], project) == text
    return False
