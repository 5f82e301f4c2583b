"""docs/params.md says what the schemas say, of every key."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import yaml

from isoflop.project.params_reference import DEFAULTS, REFERENCE, field_comments
from isoflop.training.recipe import Recipe
from tests.conftest import ROOT, run_command
from tests.staleness import leaves


def test_the_page_is_current() -> None:
    """By the command that the page names, in a process of its own."""
    command = sys.executable, "-m", "isoflop.project.params_reference", "--check"
    run_command(*command, cwd=ROOT, PYTHONPATH=str(ROOT / "src"))


def test_every_key_is_there_with_words() -> None:
    params = yaml.safe_load((ROOT / DEFAULTS).read_text())
    params["variants"] = dict.fromkeys(params["variants"])  # whose entries are the preset's own
    params["augment"]["policy"] = None
    rows = {line.split("`")[1]: line for line in (ROOT / REFERENCE).read_text().splitlines() if line.startswith("| `")}
    assert set(rows) == {".".join(map(str, path)) for path in leaves(params)}
    wordless = [
        name for name, row in rows.items() if any(not cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1])
    ]
    assert wordless == [], "a comment behind the field in its schema says what it is"


def test_a_comment_belongs_to_the_field_that_ends_on_its_line() -> None:
    comments = field_comments(Recipe)
    assert comments["momentum"] == "of momentum and muon; beta 1 of adam and adamw"
    assert "ends with 1.0" in comments["progressive_resizing"], "a field of several lines"


def test_a_changed_schema_makes_the_page_stale(tmp_path: Path) -> None:
    for name in ("src", "stages", "docs", "presets"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    schema = tmp_path / "src" / "isoflop" / "shipping" / "choosing.py"
    text = schema.read_text()
    old = "max_latency_ms: float | None = Field(gt=0, le=1e9)"
    assert old in text
    schema.write_text(text.replace(old, "max_latency_ms: float | None = Field(gt=0, le=9)"))
    command = (sys.executable, "-m", "isoflop.project.params_reference")
    here = {"cwd": tmp_path, "PYTHONPATH": str(tmp_path / "src")}
    done = run_command(*command, "--check", check=False, **here)  # type: ignore[arg-type]
    assert done.returncode == 1
    cure = "fix: `python -m isoflop.project.params_reference`"
    assert done.stderr == f"error: {REFERENCE}: differs from the schemas; {cure}\n"
    run_command(*command, **here)  # type: ignore[arg-type]
    assert "number above 0 and at most 9, or null" in (tmp_path / REFERENCE).read_text()
