"""Clones of a project: what DVC ran in them, and whether two have the same outputs."""

from __future__ import annotations

import re
from pathlib import Path

from tests.conftest import run_command


def executed(output: str) -> set[str]:
    """The stages that DVC ran, by name."""
    return set(re.findall(r"Running stage '([^']+)'", output))


def second_clone(first: Path) -> Path:
    """Clone B: from git alone, with an empty cache."""
    target = first.parent / "second"
    run_command("git", "clone", "-q", str(first), str(target), cwd=first.parent)
    return target


def same_outputs(first: Path, second: Path) -> None:
    for file in ("ship/model.onnx", "metrics/variants.json", "models/base/weights.safetensors", "report/index.html"):
        assert (first / file).read_bytes() == (second / file).read_bytes()
