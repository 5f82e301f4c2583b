"""Load time, peak memory and audit of ONNX files, each measured in a separate process."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.inference.sessions import sessions
from isoflop.runtime.errors import UserError
from tests.exports import exported, quantized, trained
from tests.networks import digits_split


def test_a_block_for_each_file(tmp_path: Path) -> None:
    train = digits_split(tmp_path / "train", 0, 300)
    narrow = exported(trained(train, "mlp", width=8), tmp_path / "narrow.onnx")
    wide = exported(trained(train, "mlp", width=1024, steps=2), tmp_path / "wide.onnx")
    found = sessions([narrow, wide, quantized(narrow, train)], batch=64)
    assert list(found) == ["narrow", "wide", "narrow-int8"]
    assert found["wide"]["peak_memory_mb"] > found["narrow"]["peak_memory_mb"] + 4  # 1024 x 1024 floats, at least
    assert all(block["load_ms"] > 0 for block in found.values())
    assert (found["narrow"]["int8_layers"], found["narrow-int8"]["int8_layers"]) == (0, 2)


def test_a_file_that_cannot_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"none")
    with pytest.raises(UserError, match=r"broken\.onnx: could not be measured .*not a readable ONNX file"):
        sessions([tmp_path / "broken.onnx"], batch=1)
