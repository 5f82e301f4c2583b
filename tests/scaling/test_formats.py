"""What networks ship as: bytes, latency and INT8's change as functions of width, with intervals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from isoflop.runtime.files import write_json
from isoflop.scaling.formats import FORMATS, Formats, read_formats
from tests.scaling_runs import WIDTHS, size, write_formats


@pytest.fixture
def formats(tmp_path: Path) -> Formats:
    found = read_formats(write_formats(tmp_path / "formats.json"))
    assert found is not None
    return found


def test_bytes_are_a_quadratic_with_a_narrow_interval(formats: Formats) -> None:
    at = np.array([10.0, 64.0])
    found = formats.size("float", at)
    assert found.predicted == pytest.approx([4 * size(10) + 2_000, 4 * size(64) + 2_000], abs=1)
    relative = (found.high - found.low) / found.predicted
    assert (relative > 0).all() and relative[1] < 0.01


def test_three_widths_determine_bytes_but_no_interval(tmp_path: Path) -> None:
    found = read_formats(write_formats(tmp_path / "formats.json", (8, 12, 16)))
    assert found is not None
    band = found.size("int8", np.array([24.0]))
    assert band.predicted == pytest.approx([size(24) + 40 * 24 + 6_000], abs=1) and np.isnan(band.high).all()
    assert found.widest("int8", None, size(24) + 40 * 24 + 6_001) == 24  # the prediction decides


def test_latency_takes_the_form_that_predicts_the_largest_network(formats: Formats) -> None:
    at = np.array([48.0])
    affine = formats.latency("float", at)
    assert affine.predicted == pytest.approx([0.01 + 6e-6 * size(48)], rel=0.01)
    assert affine.low[0] < affine.predicted[0] < affine.high[0]
    macs = formats.macs
    power = Formats(**(vars(formats) | {"latency_of": {"float": 1e-4 * macs**0.5, "int8": macs}}))
    assert power.latency("float", at).predicted == pytest.approx([1e-4 * (6 * size(48)) ** 0.5], rel=0.01)
    noisy = macs * np.exp([0.2, -0.2, 0.2, -0.2, 0.2])
    wide = Formats(**(vars(formats) | {"latency_of": {"float": noisy, "int8": macs}})).latency("float", at)
    assert np.log(wide.high / wide.low) > 2 * np.log(affine.high / affine.low)


def test_the_interval_of_a_latency_holds_new_widths(formats: Formats) -> None:
    """Of latencies that are affine with 5 % of noise, about 95 % of new ones are inside; 90 % at least."""
    rng, held = np.random.default_rng(0), []
    for _ in range(200):
        truth = 0.01 + 1e-6 * formats.macs
        noisy = truth * np.exp(0.05 * rng.standard_normal(len(WIDTHS)))
        found = Formats(**(vars(formats) | {"latency_of": {"float": noisy, "int8": truth}}))
        band = found.latency("float", np.array([48.0]))
        new = (0.01 + 6e-6 * size(48)) * np.exp(0.05 * rng.standard_normal())
        held.append(bool(band.low[0] <= new <= band.high[0]))
    assert 0.9 <= np.mean(held) <= 1.0


def test_int8_changes_by_a_constant_or_by_a_line(formats: Formats) -> None:
    at = np.array([64.0])
    assert formats.int8_accuracy(at).predicted == pytest.approx([-0.002])
    rising = 0.01 * np.log(formats.widths)
    line = Formats(**(vars(formats) | {"log_nll_change": rising, "log_nll_error": np.full(len(WIDTHS), 1e-5)}))
    assert line.int8_log_nll(at).predicted == pytest.approx([0.01 * np.log(64)])


def test_the_widest_network_keeps_the_limit_with_its_interval(formats: Formats) -> None:
    for form in ("float", "int8"):
        width = formats.widest(form, 0.1, None)
        assert width is not None
        ends = formats.latency(form, np.array([width, width + 1.0])).high
        assert ends[0] <= 0.1 < ends[1]
    assert formats.widest("float", 1e-6, None) is None
    assert formats.widest("float", None, 1e15) == 65_536


def test_an_untrained_network_adds_bytes_and_latency_alone(tmp_path: Path) -> None:
    file = write_formats(tmp_path / "formats.json", (8, 12, 16, 24, 48))
    whole = read_formats(file)
    content = json.loads(file.read_text())
    block = content["widths"].pop("48")
    write_json(file, content)
    small = read_formats(file)
    known = {name: block[name] for name in ("macs", "parameters")}
    sizes = {form: {name: block[form][name] for name in ("bytes", "latency_ms")} for form in ("float", "int8")}
    write_json(file, content | {"untrained": {"48": known | sizes}})
    found = read_formats(file)
    assert whole is not None and small is not None and found is not None
    at = np.array([20.0, 32.0])
    for form in FORMATS:
        assert found.latency(form, at).high.tolist() == whole.latency(form, at).high.tolist()
        assert found.size(form, at).high.tolist() == whole.size(form, at).high.tolist()
        inside, beyond = (one.latency(form, at).high[1] for one in (found, small))
        assert inside < beyond, "width 32 is interpolated"
    assert found.widths.tolist() == [8, 12, 16, 24] == small.timed.tolist()
    assert found.int8_accuracy(at).high.tolist() == small.int8_accuracy(at).high.tolist()
