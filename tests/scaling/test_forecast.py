"""The stages forecast and score: predicted loss and accuracy, their intervals, and flags on untrusted forecasts."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from isoflop.runtime.errors import UserError
from isoflop.runtime.params import load_params
from isoflop.scaling import forecasting
from stages import forecast, score
from tests.conftest import ROOT
from tests.scaling_runs import loss_at, run_stage, size, write_formats, write_measurements, write_runs


@pytest.fixture(scope="module")
def law(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("law")
    run_stage(write_runs(folder / "runs"), folder / "out")
    return folder / "out" / "law.json"


def forecasted(
    law: Path, width: int, file: Path, epochs: int = 12, predict: list[int] | None = None, fraction: float = 1.0
) -> dict[str, Any]:
    params = forecast.Params(width=width, fraction=fraction, epochs=epochs, predict=predict or [])
    forecast.main(params, law, write_formats(file.parent / "formats.json"), file)
    return dict(json.loads(file.read_text()))


def test_a_width_of_the_study(law: Path, tmp_path: Path) -> None:
    found = forecasted(law, 16, tmp_path / "forecast.json")
    assert (found["width"], found["parameters"], found["in_study"]) == (16, size(16), True)
    assert found["unique_samples"] == 1220 and found["epochs"] == 12
    assert found["low"] < found["val_nll"] < found["high"]
    assert found["val_nll"] == pytest.approx(loss_at(16, 1220), rel=0.05)
    assert found["extrapolation"] == pytest.approx(size(16) / size(32), rel=1e-5)


def test_a_new_width_has_its_exact_size_and_a_far_extrapolation_is_flagged(law: Path, tmp_path: Path) -> None:
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


def test_a_study_without_the_full_split_is_flagged(tmp_path: Path) -> None:
    run_stage(write_runs(tmp_path / "runs", fractions=(0.125, 0.25, 0.5)), tmp_path)
    found = forecasted(tmp_path / "law.json", 16, tmp_path / "forecast.json")
    assert found["unique_samples"] == 1220
    assert "more_samples_than_studied" in found["flags"]


def test_a_law_without_noise_has_no_interval(tmp_path: Path) -> None:
    run_stage(write_runs(tmp_path / "runs", (4, 8, 12), (1.0,), seeds=1), tmp_path, (4, 8, 12))
    found = forecasted(tmp_path / "law.json", 16, tmp_path / "forecast.json")
    assert (found["low"], found["high"], found["trusted"]) == (None, None, False)
    assert "no_noise_estimate" in found["flags"]


def test_other_widths_and_the_accuracy_are_forecast_too(law: Path, tmp_path: Path) -> None:
    found = forecasted(law, 16, tmp_path / "forecast.json", predict=[8, 48])
    assert list(found["widths"]) == ["8", "48"]
    alone = forecasted(law, 48, tmp_path / "alone.json")
    assert found["widths"]["48"] == {name: alone[name] for name in found["widths"]["48"]}
    for block in (found, *found["widths"].values()):
        assert block["val_accuracy_low"] < block["val_accuracy"] < block["val_accuracy_high"]
        assert block["val_accuracy"] == pytest.approx(
            1 - 0.3 * block["val_nll"], abs=0.02
        )  # the accuracy in write_runs


def test_longer_training_is_forecast_if_the_study_varies_the_epochs(tmp_path: Path) -> None:
    run_stage(write_runs(tmp_path / "runs", epochs=(6, 12, 24)), tmp_path / "out")
    law = tmp_path / "out" / "law.json"
    short, long, far = (forecasted(law, 16, tmp_path / "f.json", epochs) for epochs in (6, 24, 48))
    assert short["val_nll"] > long["val_nll"] > far["val_nll"]
    assert (short["epochs"], long["epochs"], far["epochs"]) == (6, 24, 48)
    assert "longer_than_studied" in far["flags"] and "longer_than_studied" not in long["flags"]
    assert long["val_nll"] == pytest.approx(loss_at(16, 1220, 24), rel=0.05)


def test_longer_training_is_flagged_if_the_study_does_not_vary_the_epochs(law: Path, tmp_path: Path) -> None:
    found = forecasted(law, 16, tmp_path / "forecast.json", epochs=30)
    assert found["epochs"] == 12 and "longer_than_studied" in found["flags"]


def test_the_score_compares_the_forecast_with_the_training(law: Path, tmp_path: Path) -> None:
    expected = forecasted(law, 16, tmp_path / "forecast.json")
    for loss, inside in ((expected["val_nll"], True), (2 * expected["high"], False)):
        train = {"val_nll": loss, "val_accuracy": 0.5, "epochs": 12}
        (tmp_path / "train.json").write_text(json.dumps(train))
        variants, latency, choice = write_measurements(tmp_path)
        score.main(tmp_path / "forecast.json", tmp_path / "train.json", variants, latency, choice,
                   tmp_path / "score.json")  # fmt: skip
        scored = json.loads((tmp_path / "score.json").read_text())
        assert scored["inside"] is inside and scored["actual"] == pytest.approx(loss, rel=1e-5)
        assert scored["relative_error"] == pytest.approx(expected["val_nll"] / loss - 1, abs=1e-5)
        assert scored["accuracy_inside"] is False and scored["accuracy_predicted"] == expected["val_accuracy"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"fits": []}', '{"fits": [{"form": [["x"]], "values": [1]}]}'])
def test_a_malformed_law_is_an_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "law.json").write_text(text)
    with pytest.raises(UserError, match=r"law\.json: not a readable law"):
        forecasted(tmp_path / "law.json", 16, tmp_path / "forecast.json")
    with pytest.raises(UserError, match=r"none\.json: not a readable law"):
        forecasted(tmp_path / "none.json", 16, tmp_path / "forecast.json")


def test_an_invalid_width_is_an_error(tmp_path: Path) -> None:
    text = (ROOT / "params.yaml").read_text()
    assert "  width: 32\n" in text
    (tmp_path / "params.yaml").write_text(text.replace("  width: 32\n", "  width: 0\n"))
    with pytest.raises(UserError, match=r"train\.width: got 0 \(integer\), expected greater than or equal to 1"):
        load_params(forecast.Params, tmp_path / "params.yaml")


def test_both_files_of_a_new_width_are_forecast_and_scored(law: Path, tmp_path: Path) -> None:
    expected = forecasted(law, 16, tmp_path / "forecast.json", predict=[48])
    files = expected["widths"]["48"]["formats"]
    assert files["float"]["bytes"]["predicted"] == pytest.approx(4 * size(48) + 2_000, abs=2)
    assert files["int8"]["latency_ms"]["predicted"] == pytest.approx(0.01 + 3e-6 * size(48), rel=0.01)
    for bands in files.values():
        assert all(band["low"] < band["predicted"] < band["high"] for band in bands.values())
    loss = expected["widths"]["48"]["val_nll"]
    assert files["float"]["val_nll"]["predicted"] == pytest.approx(loss)
    assert files["int8"]["val_nll"]["predicted"] == pytest.approx(loss * math.exp(0.01), rel=1e-4)
    (tmp_path / "train.json").write_text(json.dumps({"val_nll": 0.3, "val_accuracy": 0.9, "epochs": 12}))

    def scored(shipped: str = "base-int8", **changes: float) -> dict[str, Any]:
        accuracy = {"val_accuracy": expected["val_accuracy"]}
        variants, latency, choice = write_measurements(tmp_path, shipped, **(accuracy | changes))
        score.main(tmp_path / "forecast.json", tmp_path / "train.json", variants, latency, choice,
                   tmp_path / "score.json")  # fmt: skip
        return dict(json.loads((tmp_path / "score.json").read_text()))

    good = scored()
    assert good["shipped"] == {"variant": "base-int8", "held": True} and good["formats"]["int8"]["bytes"]["inside"]
    assert scored(bytes=10)["shipped"]["held"] is False
    assert scored(val_accuracy=0.1)["formats"]["float"]["val_accuracy"]["inside"] is False
    assert scored("distilled")["shipped"] == {"variant": "distilled", "held": None}


def test_a_fraction_of_the_images_is_forecast(law: Path, tmp_path: Path) -> None:
    found = forecasted(law, 16, tmp_path / "forecast.json", fraction=0.5)
    assert found["unique_samples"] == 610
    assert found["val_nll"] == pytest.approx(loss_at(16, 610), rel=0.05)


@pytest.mark.parametrize("content", ["{", "{}", '{"widths": {"8": {}, "12": {}, "16": {}}}'])
def test_malformed_formats_are_an_error(law: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "formats.json").write_text(content)
    with pytest.raises(UserError, match=r"formats\.json: not readable \(.*\); fix: run `dvc repro formats`"):
        forecasting.forecast(law, tmp_path / "formats.json", 16, [], 12)


def test_a_study_with_two_networks_forecasts_no_files(law: Path, tmp_path: Path) -> None:
    file = write_formats(tmp_path / "formats.json", (8, 16))
    assert forecasting.forecast(law, file, 16, [], 12)["formats"] == {"float": None, "int8": None}
