"""JSON that commands print is JSON, whatever a stage or a stranger's model measured."""

from __future__ import annotations

import json
import re

from isoflop.runtime.files import json_text
from tests.conftest import ROOT


def test_numbers_that_are_not_finite_become_null() -> None:
    text = json_text({"a": [float("nan"), (1.5, float("-inf"))], "b": {"c": float("inf"), "d": "NaN"}})
    assert json.loads(text, parse_constant=str) == {"a": [None, [1.5, None]], "b": {"c": None, "d": "NaN"}}


def test_each_command_prints_its_json_so() -> None:
    commands = [*(ROOT / "src" / "isoflop" / "cli").glob("*.py"), *(ROOT / "src" / "isoflop" / "doctor").glob("*.py")]
    assert not [file.name for file in commands if re.search(r"print\(\s*json\.dumps", file.read_text())]
    assert any("print(json_text(" in file.read_text() for file in commands)
