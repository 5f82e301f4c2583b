"""What the study's networks ship as, measured on real ONNX files in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from isoflop.compression.quantization import Quantize
from isoflop.compression.study_formats import _change, discard_other_networks, study_formats
from isoflop.compression.variants import BASE
from isoflop.data.arrays import Split
from isoflop.inference.benchmarking import Benchmark
from isoflop.inference.onnx_export import Export, export
from isoflop.models.costs import count_macs, count_parameters
from isoflop.models.model_files import Model, load_model, save_model
from isoflop.runtime.files import write_json
from isoflop.scaling.formats import read_formats
from tests.networks import digits_architecture, digits_split, fresh_net

INT8 = Quantize(
    activations="static", method="minmax", percentile=99.9, calibration_images=20, max_accuracy_drop=1.0,
    keep_last_layer_float=True, portable=False,
)  # fmt: skip
TIMING = Benchmark(batch_sizes=[8, 1], threads=[1], repeats=5, warmup=1)
EXPORT = Export(opset=18, dynamic_batch=True, tolerance=1e-3)


@pytest.fixture(scope="module")
def val(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return digits_split(tmp_path_factory.mktemp("data") / "val", 0, 60)


def trained(width: int, val: Split) -> Model:
    """A network after three steps, so that no tensor has the value that it starts with."""
    net = fresh_net(width=width).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    images_NCHW = torch.from_numpy(np.array(val.images)).permute(0, 3, 1, 2) / 255
    for _ in range(3):
        optimizer.zero_grad()
        functional.cross_entropy(net(images_NCHW), torch.from_numpy(np.array(val.labels)).long()).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return Model(net.eval(), digits_architecture(width=width), val.input_spec)


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory, val: Split) -> Path:
    """One network, of width 4; all runs of width 6 diverged."""
    folder = tmp_path_factory.mktemp("networks")
    save_model(trained(4, val), folder / "width-4")
    (folder / "width-6").mkdir()
    return folder


@pytest.fixture(scope="module")
def found(networks: Path, val: Split) -> dict[str, Any]:
    return study_formats(networks, [6, 4], val, val, EXPORT, INT8, TIMING)


def test_both_files_of_a_width_are_measured_and_those_of_twice_the_largest(
    found: dict[str, Any], networks: Path, val: Split, tmp_path: Path
) -> None:
    assert set(found["widths"]) == {"4"} and set(found["untrained"]) == {"8"} and found["val_images"] == 60
    model = load_model(networks / "width-4")
    block, twice = found["widths"]["4"], found["untrained"]["8"]
    export(model, BASE, tmp_path / "base.onnx", 18)
    assert block["float"]["bytes"] == (tmp_path / "base.onnx").stat().st_size, "as stage export writes the base"
    assert block["parameters"] == count_parameters(model.net) < twice["parameters"]
    assert block["macs"] == count_macs(model.net, model.architecture) < twice["macs"]
    for form in ("float", "int8"):
        assert block[form]["bytes"] < twice[form]["bytes"] and min(block[form]["latency_ms"], 1) > 0
        assert set(twice[form]) == {"bytes", "latency_ms"}, "random weights have no accuracy to forecast"
    assert twice["int8"]["bytes"] < twice["float"]["bytes"]
    export(trained(8, val), BASE, tmp_path / "twice.onnx", 18)
    of_trained = (tmp_path / "twice.onnx").stat().st_size
    assert twice["float"]["bytes"] == pytest.approx(of_trained, abs=20), "bytes depend on the width alone"
    assert found["conditions"]["headline"] == "batch1_threads1" and "runs_batch8_threads1" not in found["conditions"]


def test_the_change_by_int8_is_that_of_the_two_files(found: dict[str, Any]) -> None:
    block = found["widths"]["4"]
    before, after, change = block["float"], block["int8"], block["change"]
    assert change["accuracy"] == pytest.approx(after["val_accuracy"] - before["val_accuracy"], abs=2e-6)
    assert change["log_nll"] == pytest.approx(np.log(after["val_nll"] / before["val_nll"]), abs=1e-5)
    assert change["accuracy_error"] > 0 and 0 < change["log_nll_error"] < 0.1 and change["layers_in_float"] == 0


def test_the_standard_errors_are_those_of_repeated_draws(val: Split) -> None:
    """Of images, for two classifiers that err on partly the same ones."""
    rng, draws = np.random.default_rng(0), []
    labels = rng.integers(0, 10, 400)
    for _ in range(200):
        float_NK = (rng.normal(size=(400, 10)) + 2 * np.eye(10)[labels]).astype(np.float32)
        int8_NK = float_NK + np.float32(0.4) * rng.normal(size=(400, 10)).astype(np.float32)
        nll_FN = np.stack([np.log(np.exp(one).sum(1)) - one[np.arange(400), labels] for one in (float_NK, int8_NK)])
        draws.append(_change(float_NK, int8_NK, nll_FN, Split(val.images[np.zeros(400, int)], labels, val.input_spec)))
    for name in ("accuracy", "log_nll"):
        spread = np.std([draw[name] for draw in draws])
        assert np.mean([draw[f"{name}_error"] for draw in draws]) == pytest.approx(spread, rel=0.15)


def test_a_study_without_networks_or_of_few_widths_forecasts_no_files(
    found: dict[str, Any], networks: Path, val: Split, tmp_path: Path
) -> None:
    nothing = study_formats(networks, [6], val, val, EXPORT, INT8, TIMING)
    for content in (nothing, found):
        write_json(tmp_path / "formats.json", content)
        assert read_formats(tmp_path / "formats.json") is None


def test_networks_of_other_widths_are_deleted(tmp_path: Path) -> None:
    for name in ("width-4", "width-6", "other"):
        (tmp_path / name).mkdir()
    discard_other_networks(tmp_path, [6, 8])
    assert sorted(one.name for one in tmp_path.iterdir()) == ["other", "width-6"]
