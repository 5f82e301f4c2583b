"""The audit of real graphs: fully fused graphs, and warnings where ONNX Runtime cannot fuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.data.arrays import Split
from isoflop.inference.audit import audit
from isoflop.runtime.errors import UserError
from tests.exports import exported, quantized, trained
from tests.networks import digits_split


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return digits_split(tmp_path_factory.mktemp("audited") / "train", 0, 300)


@pytest.mark.parametrize(("family", "layers"), [("cnn", 4), ("mlp", 3)])
def test_a_family_with_relu_is_fused_whole(train: Split, tmp_path: Path, family: str, layers: int) -> None:
    """In INT8, all layers but the last are quantized, and nothing runs in float between them."""
    source = exported(trained(train, family, width=16), tmp_path / "net.onnx")
    found = audit(source)
    assert (found.int8_layers, found.float_layers, found.warnings) == (0, layers, [])
    found = audit(quantized(source, train))
    assert (found.int8_layers, found.float_layers, found.warnings) == (layers - 1, 1, [])


@pytest.mark.parametrize(("family", "inside"), [("resnet", ["Gelu"]), ("vit", ["Gelu", "LayerNormalization"])])
def test_what_runs_in_float_between_layers_is_told(
    train: Split, tmp_path: Path, family: str, inside: list[str]
) -> None:
    source = exported(trained(train, family, width=8), tmp_path / "net.onnx")
    assert audit(source).warnings == []
    found = audit(quantized(source, train))
    (islands,) = [
        warning
        for warning in found.warnings
        if "run in float between INT8 layers, with a conversion each way" in warning
    ]
    assert all(kind in islands for kind in inside) and "BatchNormalization" not in found.operators


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"broken\.onnx: not a readable ONNX file"):
        audit(tmp_path / "broken.onnx")
    with pytest.raises(UserError, match="not found"):
        audit(tmp_path / "absent.onnx")
