"""Structure and statistics of the benchmark. Times are not tested, because other processes run alongside the tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from isoflop.inference import benchmarking
from isoflop.inference.benchmarking import Benchmark, benchmark, speedup_interval
from isoflop.inference.onnx_files import cores
from isoflop.runtime.errors import UserError
from tests.exports import exported, quantized, trained
from tests.networks import digits_split


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("onnx")
    train = digits_split(folder / "train", 0, 300)
    base = exported(trained(train, steps=2), folder / "base.onnx")
    return [base, quantized(base, train, method="minmax")]


def params(**changes: Any) -> Benchmark:
    values = {"batch_sizes": [1, 4], "threads": [1], "repeats": 12, "warmup": 1}
    return Benchmark.model_validate(values | changes)


def test_a_cell_for_each_batch_size_and_number_of_threads(files: list[Path]) -> None:
    blocks = benchmark(files, params(batch_sizes=[4, 1, 4], threads=[1, 2, 4096]))
    assert list(blocks) == ["base", "base-int8", "conditions"]
    counts = sorted({min(count, cores()) for count in (1, 2, 4096)})
    cells = [f"batch{batch}_threads{count}" for count in counts for batch in (1, 4)]
    assert list(blocks["base"]) == list(blocks["base-int8"]) == cells
    for name in ("base", "base-int8"):
        for cell, times in blocks[name].items():
            assert 0 < times["p50_ms"] <= times["p95_ms"] <= times["p99_ms"]
            batch = int(cell.removeprefix("batch").split("_")[0])
            assert times["images_per_s"] == pytest.approx(1000 * batch / times["p50_ms"], rel=0.01)
            assert (
                times["speedup_low"] <= times["speedup"] * 1.001 and times["speedup"] <= times["speedup_high"] * 1.001
            )
    assert {times["speedup"] for times in blocks["base"].values()} == {1.0}
    json.dumps(blocks, allow_nan=False)


def test_conditions(files: list[Path]) -> None:
    conditions = benchmark(files, params())["conditions"]
    assert conditions["headline"] == "batch1_threads1"
    assert conditions["cores"] == cores() and conditions["cpu"]
    assert conditions["runs_batch4_threads1"] == 15  # 12 rounded up to whole turns of 5
    lines = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    assert all(flag in lines for flag in conditions["flags"].split())
    assert ("avx2" in lines.split()) == ("avx2" in conditions["flags"].split())


def test_a_slow_network_gets_fewer_repeats(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarking, "_MOST_S_A_CELL", 0.0)
    conditions = benchmark(files, params(repeats=1000))["conditions"]
    assert conditions["runs_batch1_threads1"] == 20


def test_the_interval_of_a_ratio_covers_it_and_narrows_with_more_turns() -> None:
    rng = np.random.default_rng(0)

    def interval(turns: int) -> tuple[float, float]:
        return speedup_interval(2 * rng.lognormal(0, 0.2, (turns, 5)), rng.lognormal(0, 0.2, (turns, 5)))

    few, many = interval(10), interval(1000)
    assert few[0] < 2 < few[1] and many[0] < 2 < many[1]
    assert many[1] - many[0] < (few[1] - few[0]) / 3


def test_what_slows_all_for_a_while_does_not_widen_the_ratio() -> None:
    slow_T1 = np.repeat([1.0, 4.0], 20)[:, None]
    times_TR = slow_T1 * np.random.default_rng(0).normal(1, 0.01, (40, 5))
    low, high = speedup_interval(2 * times_TR, times_TR)
    assert low == high == pytest.approx(2)
    assert speedup_interval(times_TR, times_TR) == (1, 1)


def test_what_cannot_be_timed_together_is_refused(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="got the names base, base, expected unique names"):
        benchmark([files[0], files[0]], params())
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x07")
    with pytest.raises(UserError, match=r"bad\.onnx: "):
        benchmark([files[0], tmp_path / "bad.onnx"], params())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"threads": [0]}, "threads.0\n  Input should be greater than or equal to 1"),
        ({"threads": []}, "at least 1 item"),
        ({"batch_sizes": [1, -2]}, "batch_sizes.1\n  Input should be greater than or equal to 1"),
        ({"batch_sizes": 1}, "valid list"),
        ({"repeats": 0}, "greater than or equal to 1"),
        ({"warmup": -1}, "greater than or equal to 0"),
    ],
)
def test_a_wrong_section_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        params(**changes)
    assert message in str(error.value)
