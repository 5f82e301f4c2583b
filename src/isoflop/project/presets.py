"""Presets: whole params.yaml files in ``presets/``, written over params.yaml only where nothing is lost.

A project that `isoflop init` made has none of its own, and takes those of the installed package.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.project.command_output import command_output
from isoflop.project.project_files import package_folder, runs_installed_code
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_atomically

_FOLDER = "presets"
_PARAMS = "params.yaml"


@dataclass(frozen=True)
class Preset:
    """A file of ``presets/``: its name, its first comment line and its bytes."""

    name: str
    description: str
    content: bytes


def read_presets(project: Path) -> list[Preset]:
    """All presets of ``project``, by name.

    Raises:
        UserError: there are none.
    """
    folder = project / _FOLDER
    if not folder.is_dir() and runs_installed_code(project):
        return presets_of_package()
    if not (presets := _presets_in(folder)):
        raise UserError(f"{folder}: found no presets, expected files NAME.yaml")
    return presets


def presets_of_package() -> list[Preset]:
    """Those that the installed package carries, by name."""
    return _presets_in(package_folder() / _FOLDER)


def apply_preset(project: Path, name: str, *, force: bool) -> Preset:
    """Write the preset ``name`` to params.yaml of ``project``, whole or not at all.

    Raises:
        UserError: no such preset (the nearest is named), or params.yaml holds changes that neither git's HEAD nor a
            preset has, and ``force`` is not given.
    """
    presets = read_presets(project)
    chosen = named_preset(presets, name)
    target = project / _PARAMS
    if not force and target.exists() and not _is_kept(project, target.read_bytes(), presets):
        raise UserError(
            f"{_PARAMS}: has changes that are neither committed nor a preset; commit them, or give --force to lose them"
        )
    write_atomically(target, chosen.content)
    return chosen


def named_preset(presets: Sequence[Preset], name: str) -> Preset:
    """
    Raises:
        UserError: no such preset; the nearest is named.
    """
    by_name = {preset.name: preset for preset in presets}
    if name not in by_name:
        nearest = difflib.get_close_matches(name, by_name, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"expected one of {', '.join(by_name)}"
        raise UserError(f"preset {name!r}: unknown; {hint}")
    return by_name[name]


def _presets_in(folder: Path) -> list[Preset]:
    files = sorted(folder.glob("*.yaml"))
    return [Preset(file.stem, _description(file.read_bytes()), file.read_bytes()) for file in files]


def _is_kept(project: Path, content: bytes, presets: Sequence[Preset]) -> bool:
    values = _values(content)
    if any(_values(preset.content) == values for preset in presets):
        return True
    with contextlib.suppress(UserError):  # no git on this machine, no commit, or no such file in it
        return bool(_values(command_output(["git", "show", f"HEAD:./{_PARAMS}"], project).encode()) == values)
    return False


def _values(content: bytes) -> Any:
    """What a params.yaml says, however it is written: `dvc exp run` rewrites it. What is no YAML is itself."""
    import yaml

    try:
        return yaml.safe_load(content)
    except yaml.YAMLError:
        return content


def _description(content: bytes) -> str:
    first = content.decode("utf-8", "replace").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
