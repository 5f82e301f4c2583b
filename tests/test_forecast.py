"""The forecast stage: what the law expects at train.width, how sure it is, and when it should not be believed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from isoflop.errors import UserError
from isoflop.params import load_params
from stages import forecast
from tests.conftest import ROOT
from tests.test_scaling import loss_at, run_stage, size, write_runs


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("law")
    run_stage(write_runs(folder / "runs"), folder / "out")
    return folder / "out" / "law.json"


def forecasted(law: Path, width: int, file: Path) -> dict[str, Any]:
    forecast.main(forecast.Params(width=width), law, file)
    return dict(json.loads(file.read_text()))


def test_a_width_of_the_study(law: Path, tmp_path: Path) -> None:
    found = forecasted(law, 16, tmp_path / "forecast.json")
    assert (found["width"], found["parameters"], found["in_study"]) == (16, size(16), True)
    assert found["unique_images"] == 1220 and found["epochs"] == 12
    assert found["low"] < found["val_nll"] < found["high"]
    assert found["val_nll"] == pytest.approx(loss_at(16, 1220), rel=0.05)
    assert found["extrapolation"] == pytest.approx(size(16) / size(32), rel=1e-5)


def test_a_new_width_has_its_exact_size_and_is_flagged_when_far(law: Path, tmp_path: Path) -> None:
    near = forecasted(law, 48, tmp_path / "near.json")
    far = forecasted(law, 256, tmp_path / "far.json")
    assert (near["parameters"], far["parameters"]) == (size(48), size(256))
    assert not near["in_study"] and not far["in_study"]
    assert "extrapolation" not in near["flags"]
    assert far["flags"][-1] == "extrapolation" and far["trusted"] is False
    assert far["val_nll"] < near["val_nll"]
    assert (far["high"] / far["low"]) > (near["high"] / near["low"])


def test_the_same_law_gives_the_same_bytes(law: Path, tmp_path: Path) -> None:
    forecasted(law, 20, tmp_path / "one.json")
    forecasted(law, 20, tmp_path / "two.json")
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


def test_fractions_that_stop_short_of_the_whole_split_are_flagged(tmp_path: Path) -> None:
    run_stage(write_runs(tmp_path / "runs", fractions=(0.125, 0.25, 0.5)), tmp_path)
    found = forecasted(tmp_path / "law.json", 16, tmp_path / "forecast.json")
    assert found["unique_images"] == 1220
    assert "more_images_than_studied" in found["flags"]


def test_a_law_without_noise_has_no_interval(tmp_path: Path) -> None:
    run_stage(write_runs(tmp_path / "runs", (4, 8, 12), (1.0,), seeds=1), tmp_path, (4, 8, 12))
    found = forecasted(tmp_path / "law.json", 16, tmp_path / "forecast.json")
    assert (found["low"], found["high"], found["trusted"]) == (None, None, False)
    assert "no_noise_estimate" in found["flags"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"axes": []}', '{"values": [1], "replicates": [], "axes": ["x"]}'])
def test_what_is_no_law_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "law.json").write_text(text)
    with pytest.raises(UserError, match=r"law\.json: not a readable law"):
        forecasted(tmp_path / "law.json", 16, tmp_path / "forecast.json")
    with pytest.raises(UserError, match=r"none\.json: not a readable law"):
        forecasted(tmp_path / "none.json", 16, tmp_path / "forecast.json")


def test_a_wrong_width_is_refused(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    assert "  width: 32\n" in text
    (tmp_path / "params.yaml").write_text(text.replace("  width: 32\n", "  width: 0\n"))
    with pytest.raises(UserError, match=r"train\.width: found 0 \(integer\), expected greater than 0"):
        load_params(forecast.Params, tmp_path / "params.yaml")
