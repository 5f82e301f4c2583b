"""Presets: complete params.yaml files in ``presets/``, written over params.yaml only if that loses nothing.

A project that `isoflop init` created has no presets of its own and uses those of the installed package.
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
    """A file in ``presets/``: name, first comment line, content."""

    name: str
    description: str
    content: bytes


def read_presets(project: Path) -> list[Preset]:
    """Return all presets of ``project``, sorted by name.

    Raises:
        UserError: it has none.
    """
    folder = project / _FOLDER
    if not folder.is_dir() and runs_installed_code(project):
        return presets_of_package()
    if not (presets := _presets_in(folder)):
        raise UserError(f"{folder}: got no presets, expected files NAME.yaml")
    return presets


def presets_of_package() -> list[Preset]:
    """Return the presets of the installed package, sorted by name."""
    return _presets_in(package_folder() / _FOLDER)


def apply_preset(project: Path, name: str, *, force: bool) -> Preset:
    """Write the preset ``name`` to params.yaml of ``project``, atomically.

    Raises:
        UserError: there is no such preset (the message names the nearest), or params.yaml has changes that are in
            neither git's HEAD nor a preset, and ``force`` is not set.
    """
    presets = read_presets(project)
    chosen = named_preset(presets, name)
    target = project / _PARAMS
    if not force and target.exists() and not _is_kept(project, target.read_bytes(), presets):
        raise UserError(
            f"{_PARAMS}: got changes that are neither committed nor in a preset; fix: commit them (--force loses them)"
        )
    write_atomically(target, chosen.content)
    return chosen


def named_preset(presets: Sequence[Preset], name: str) -> Preset:
    """Return the preset of that name.

    Raises:
        UserError: there is no such preset; the message names the nearest.
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
    with contextlib.suppress(UserError):  # git is not installed, or HEAD has no such file
        return bool(_values(command_output(["git", "show", f"HEAD:./{_PARAMS}"], project).encode()) == values)
    return False


def _values(content: bytes) -> Any:
    """Return the values of a params.yaml, because `dvc exp run` changes its layout; content that is not YAML as is."""
    import yaml

    try:
        return yaml.safe_load(content)
    except yaml.YAMLError:
        return content


def _description(content: bytes) -> str:
    first = content.decode("utf-8", "replace").partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""
