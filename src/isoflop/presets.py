"""Presets: whole params.yaml files in ``presets/``, written over params.yaml only where nothing is lost."""

from __future__ import annotations

import difflib
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.errors import UserError

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
    files = sorted((project / _FOLDER).glob("*.yaml"))
    if not files:
        raise UserError(f"{project / _FOLDER}: found no presets, expected files NAME.yaml")
    return [Preset(file.stem, _description(file.read_bytes()), file.read_bytes()) for file in files]


def apply_preset(project: Path, name: str, *, force: bool) -> Preset:
    """Write the preset ``name`` to params.yaml of ``project``, whole or not at all.

    Raises:
        UserError: no such preset (the nearest is named), or params.yaml holds changes that neither git's HEAD nor a
            preset has, and ``force`` is not given.
    """
    presets = {preset.name: preset for preset in read_presets(project)}
    if name not in presets:
        nearest = difflib.get_close_matches(name, presets, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]!r}?" if nearest else f"expected one of {', '.join(presets)}"
        raise UserError(f"preset {name!r}: unknown; {hint}")
    target = project / _PARAMS
    if not force and target.exists() and not _is_kept(project, target.read_bytes(), list(presets.values())):
        raise UserError(
            f"{_PARAMS}: has changes that are neither committed nor a preset; commit them, or give --force to lose them"
        )
    partial = project / f".{_PARAMS}.partial"
    try:
        partial.write_bytes(presets[name].content)
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return presets[name]


def _is_kept(project: Path, content: bytes, presets: list[Preset]) -> bool:
    values = _values(content)
    if any(_values(preset.content) == values for preset in presets):
        return True
    try:
        head = subprocess.run(["git", "show", f"HEAD:./{_PARAMS}"], cwd=project, capture_output=True)
    except FileNotFoundError:  # no git on this machine, so it holds nothing
        return False
    return head.returncode == 0 and _values(head.stdout) == values


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
