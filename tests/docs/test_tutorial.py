"""The tutorial does what it says: each of its commands is run, in order, and shows what the page shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, commit, copy_project
from tests.pages import DOCS, blocks, prose, run_block, unseen

TUTORIAL = DOCS / "tutorial.md"


def test_the_tutorial_runs_and_shows_what_it_says(tmp_path: Path) -> None:
    """In the smoke preset's time, with the variants of the default."""
    project = copy_project(tmp_path / "isoflop")
    smoke, default = (yaml.safe_load((ROOT / "presets" / f"{name}.yaml").read_text()) for name in ("smoke", "digits"))
    (project / "params.yaml").write_text(yaml.safe_dump(smoke | {"variants": default["variants"]}, sort_keys=False))
    commit(project, "the default's variants")
    here = project
    for block in blocks(TUTORIAL.read_text(), "console"):
        here = run_block(block, here)
    assert here.name == "colleague", "the page ends in the second clone"


@pytest.mark.parametrize(
    ("shown", "missed"),
    [
        (["base … 1.00×", "law"], None),
        (["law", "base"], "base"),
        (["base 94 %"], None),
        (["base … kB"], "base … kB"),
        (["base.94"], "base.94"),
    ],
)
def test_shown_lines_are_looked_for_in_order(shown: list[str], missed: str | None) -> None:
    assert unseen(shown, "variant\nbase    94 %  1.00×\nlaw L = E\n") == missed


def test_every_command_of_the_page_is_in_a_block_that_runs() -> None:
    """A prompt elsewhere would look tested and not be."""
    text = TUTORIAL.read_text()
    assert len(blocks(text, "console")) > 10
    assert not re.findall(r"^\$ ", prose(text), flags=re.MULTILINE)
