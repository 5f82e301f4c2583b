"""`isoflop check --cost`: estimates from training steps of the real networks."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from isoflop.cli import main as cli
from isoflop.cli.cost import _interpolated
from isoflop.training.step_probe import Speed
from tests.conftest import ROOT, copy_project


def test_minutes_and_memory_of_every_training_are_estimated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project = copy_project(tmp_path / "project", preset="smoke")
    monkeypatch.chdir(project)
    assert cli.main(["check", "--cost", "--json"]) == 0
    costs = {cost["stage"]: cost for cost in json.loads(capsys.readouterr().out)["cost"]}
    text = (ROOT / "presets" / "smoke.yaml").read_text()
    named = {"distill@distilled", "prune@pruned", "qat@qat", "train", "study (sweep)"}
    assert named <= set(costs) and re.search("distilled: ", text)
    for stage in named:
        assert 0 < costs[stage]["minutes"] < 60 and 50 < costs[stage]["memory_mb"] < 10_000
    assert costs["benchmark (at most)"]["memory_mb"] is costs["study (formats, at most)"]["memory_mb"] is None
    assert 0.5 < costs["study (formats, at most)"]["minutes"] < 2


def test_speeds_between_widths_are_interpolated() -> None:
    speeds = {8: Speed(0.001, 100.0, 1.0), 32: Speed(0.004, 1600.0, 1.0)}
    assert _interpolated(speeds, 8, "seconds_per_image") == 0.001
    assert _interpolated(speeds, 16, "seconds_per_image") == pytest.approx(0.002)
    assert _interpolated(speeds, 16, "flops_per_image") == pytest.approx(400)
    assert _interpolated(speeds, 64, "seconds_per_image") == pytest.approx(0.008)
    assert _interpolated({8: speeds[8]}, 16, "seconds_per_image") == 0.001
