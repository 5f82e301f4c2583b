"""The probe of image sizes: which sizes, which is chosen, and what it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from isoflop.cli import main as cli
from isoflop.new_project import image_size_probe
from isoflop.new_project.image_size_probe import Size, candidate_sizes, chosen_size
from tests.conftest import ROOT
from tests.pictures import take_pictures


def test_the_candidates_are_multiples_around_the_size_up_to_the_images_own() -> None:
    assert candidate_sizes(64, 3000, 4) == [32, 64, 96, 128]
    assert candidate_sizes(64, 100, 4) == [32, 64, 96]
    assert candidate_sizes(28, 30, 4) == [16, 28] and candidate_sizes(64, 3000, 16) == [32, 64, 96, 128]


def size(pixels: int, nll: float, spread: float = 0.0) -> Size:
    noise = np.random.default_rng(pixels).standard_normal(400)
    losses = nll + spread * (noise - noise.mean())
    return Size(pixels, 0.5, float(losses.mean()), 1.0, 1.0, losses)


def test_the_smallest_size_within_one_standard_error_of_the_best_is_chosen() -> None:
    assert chosen_size([size(32, 1.0), size(64, 0.5), size(96, 0.5001, 0.5)]).image_size == 64
    assert chosen_size([size(32, 0.51, 0.3), size(64, 0.5, 0.3)]).image_size == 32  # 0.01 is within the noise
    assert chosen_size([size(32, 0.9, 0.3), size(64, 0.5, 0.3)]).image_size == 64


def test_a_project_is_probed_and_the_size_applied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(image_size_probe, "_STEPS", 8)
    params = yaml.safe_load((ROOT / "presets" / "images.yaml").read_text())
    params["data"]["path"] = str(take_pictures(tmp_path / "photos", count=20, sides=(30, 40)))
    params["model"].update(family="cnn", depth=2)
    params["prepare"]["image_size"] = 8
    params["recipe"].update(optimizer="adamw", learning_rate=0.01, batch_size=16)
    (tmp_path / "dvc.yaml").touch()
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["probe", "--sizes", "8", "16", "--apply"]) == 0
    shown = capsys.readouterr().out
    probe = json.loads((tmp_path / "probe.json").read_text())
    assert [row["image_size"] for row in probe["sizes"]] == [8, 16] and probe["steps"] == 8
    assert 14 < probe["val_images"] < 24 and all(row["latency_ms"] > 0 for row in probe["sizes"])
    assert yaml.safe_load((tmp_path / "params.yaml").read_text())["prepare"]["image_size"] == probe["chosen"]
    assert f"{probe['chosen']}" in next(line for line in shown.splitlines() if line.endswith("chosen"))
    assert cli.main(["probe", "--sizes", "8"]) == 1
    assert "--sizes: got [8], expected at least two different image sizes" in capsys.readouterr().err
