"""The ONNX file predicts like the network, takes raw pixels, and has the same bytes in every folder."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from pydantic import ValidationError

from isoflop.compression.float16 import to_float16
from isoflop.data.arrays import Split
from isoflop.inference.benchmarking import Benchmark, benchmark
from isoflop.inference.onnx_export import Export, check_parity, export, torch_logits
from isoflop.inference.onnx_files import open_classifier, read_graph
from isoflop.inference.sessions import sessions
from isoflop.models.model_files import Model, digest, load_model, save_model
from isoflop.runtime.errors import UserError
from isoflop.runtime.stage_code import checkout, code_text
from tests.conftest import ROOT, run_command
from tests.exports import exported, quantized, trained
from tests.networks import FAMILIES, digits_split


@pytest.fixture(scope="module")
def train(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return digits_split(tmp_path_factory.mktemp("data") / "train", 0, 600)


@pytest.fixture(scope="module")
def cnn(train: Split) -> Model:
    return trained(train)


@pytest.fixture(scope="module")
def file(cnn: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(cnn, tmp_path_factory.mktemp("onnx") / "base.onnx")


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_says_what_torch_says_at_any_batch_size(train: Split, tmp_path: Path, family: str) -> None:
    model = trained(train, family, steps=20)
    classifier = open_classifier(exported(model, tmp_path / "base.onnx"))
    check_parity(model, tmp_path / "base.onnx", train.images, 1e-4)
    expected_NK = torch_logits(model, train.images[:300])
    for count in (1, 2, 300):
        np.testing.assert_allclose(classifier.logits(train.images[:count]), expected_NK[:count], atol=2e-4)
    probabilities_NK = classifier.probabilities(train.images[:300])
    np.testing.assert_allclose(probabilities_NK.sum(1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities_NK.argmax(1), expected_NK.argmax(1))


def test_a_pruned_network_is_exported_as_it_was_loaded(train: Split, tmp_path: Path) -> None:
    import torch
    import torch_pruning

    model = trained(train, width=32, steps=5)
    pruner = torch_pruning.BasePruner(
        model.net,
        torch.zeros(1, 1, 8, 8),
        torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=0.5,
        round_to=16,
        ignored_layers=[model.net.head],
    )
    pruner.step()
    save_model(model, tmp_path / "pruned")
    pruned = load_model(tmp_path / "pruned")
    exported(pruned, tmp_path / "pruned.onnx", "pruned")
    check_parity(model, tmp_path / "pruned.onnx", train.images, 1e-4)
    whole = exported(trained(train, width=32, steps=1), tmp_path / "whole.onnx")
    assert (tmp_path / "pruned.onnx").stat().st_size < 0.5 * whole.stat().st_size


def test_metadata_names_and_shapes(file: Path, cnn: Model, train: Split) -> None:
    graph = read_graph(file)
    metadata = {item.key: item.value for item in graph.metadata_props}
    assert json.loads(metadata["classes"]) == train.input_spec.classes
    assert json.loads(metadata["architecture"]) == asdict(cnn.architecture)
    assert (metadata["producer"], metadata["variant"], metadata["resize"]) == ("isoflop", "base", "crop")
    assert metadata["weights"] == digest(cnn.net)
    assert [item.name for item in graph.graph.output] == ["logits", "probabilities"]
    shape = graph.graph.input[0].type.tensor_type
    assert shape.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in shape.shape.dim] == ["batch", 8, 8, 1]
    classifier = open_classifier(file)
    assert (classifier.variant, classifier.classes) == ("base", train.input_spec.classes)
    assert (classifier.image_size, classifier.channels, classifier.resize) == (8, 1, "crop")


def test_batch_norms_are_folded_into_the_convolutions(file: Path) -> None:
    kinds = [node.op_type for node in read_graph(file).graph.node]
    assert kinds.count("Conv") == 3 and "BatchNormalization" not in kinds


@pytest.mark.parametrize("opset", [18, 23])
def test_the_opset_is_the_asked_one(train: Split, tmp_path: Path, opset: int) -> None:
    model = trained(train, "resnet", steps=2)  # Gelu is an operator since opset 20
    export(model, "base", tmp_path / "base.onnx", opset)
    versions = {item.domain: item.version for item in read_graph(tmp_path / "base.onnx").opset_import}
    assert versions[""] == opset
    check_parity(model, tmp_path / "base.onnx", train.images[:50], 1e-4)


def test_a_graph_of_one_image_at_a_time_runs_through_all_that_follows(
    cnn: Model, train: Split, file: Path, tmp_path: Path
) -> None:
    """The parity check, INT8 quantization, latency and memory also use a batch of 1."""
    export(cnn, "base", tmp_path / "base.onnx", 20, dynamic_batch=False)
    classifier = open_classifier(tmp_path / "base.onnx")
    assert classifier.batch == 1 and open_classifier(file).batch is None
    check_parity(cnn, tmp_path / "base.onnx", train.images[:50], 1e-4)
    assert np.abs(classifier.logits(train.images[:9]) - open_classifier(file).logits(train.images[:9])).max() < 1e-4
    files = [tmp_path / "base.onnx", quantized(tmp_path / "base.onnx", train)]
    times = benchmark(files, Benchmark(batch_sizes=[1, 64], threads=[1], repeats=5, warmup=0))
    assert list(times["base-int8"]) == ["batch1_threads1"]
    assert set(sessions(files, 64)) == {"base", "base-int8"}


@pytest.mark.parametrize("family", ["cnn", "resnet", "vit"])
def test_float16_is_half_the_bytes_and_says_the_same(train: Split, tmp_path: Path, family: str) -> None:
    source, half = exported(trained(train, family), tmp_path / "base.onnx"), tmp_path / "base-float16.onnx"
    for target in (half, tmp_path / "again.onnx"):
        to_float16(source, target)
    assert half.read_bytes() == (tmp_path / "again.onnx").read_bytes()
    weights = [sum(len(item.raw_data) for item in read_graph(each).graph.initializer) for each in (source, half)]
    assert weights[1] < 0.55 * weights[0]
    whole, rounded = open_classifier(source), open_classifier(half)
    assert (rounded.classes, rounded.variant) == (whole.classes, whole.variant)
    expected_NK, found_NK = whole.logits(train.images), rounded.logits(train.images)
    assert 0 < np.abs(found_NK - expected_NK).max() < 0.02 * np.abs(expected_NK).max()
    assert (found_NK.argmax(1) == expected_NK.argmax(1)).mean() > 0.99


def test_the_same_bytes_in_another_folder_and_no_trace_of_it(cnn: Model, file: Path, tmp_path: Path) -> None:
    save_model(cnn, tmp_path / "elsewhere" / "base")
    for part in ("src", "stages"):
        shutil.copytree(ROOT / part, tmp_path / "elsewhere" / part, ignore=shutil.ignore_patterns("__pycache__"))
    code = (
        "import sys; sys.path.insert(0, 'src'); from pathlib import Path; import isoflop.inference.onnx_export as o;"
        "from isoflop.models.model_files import load_model; assert str(Path.cwd()) in o.__file__;"
        "o.export(load_model(Path('base')), 'base', Path('base.onnx'), 20)"
    )
    run_command(sys.executable, "-c", code, cwd=tmp_path / "elsewhere", PYTHONHASHSEED="7")
    content = (tmp_path / "elsewhere" / "base.onnx").read_bytes()
    assert hashlib.sha256(content).digest() == hashlib.sha256(file.read_bytes()).digest()
    assert b"elsewhere" not in content and b".py" not in content and str(ROOT).encode() not in content


def test_another_network_is_no_parity(train: Split, file: Path) -> None:
    with pytest.raises(UserError) as error:
        check_parity(trained(train, steps=30), file, train.images, 1e-3)
    assert str(error.value).startswith("export.tolerance: got logits from ONNX Runtime that differ from torch's by")
    assert "predictions changed), expected at most 0.001" in str(error.value)


def test_no_validation_images_is_no_parity(cnn: Model, file: Path, train: Split) -> None:
    with pytest.raises(UserError, match="got no validation images"):
        check_parity(cnn, file, train.images[:0], 1e-3)


@pytest.mark.parametrize(
    "values", [{"opset": 17}, {"opset": 99}, {"tolerance": 0.0}, {"opset": 20.0}, {"dynamic_batch": 1}]
)
def test_a_wrong_section_is_refused(values: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Export.model_validate({"opset": 20, "dynamic_batch": True, "tolerance": 0.001} | values)


def cut(file: Path, target: Path) -> None:
    target.write_bytes(file.read_bytes()[:-1000])


def without_metadata(file: Path, target: Path) -> None:
    graph = onnx.load(file)
    del graph.metadata_props[:]
    onnx.save(graph, target)


def of_another_input(file: Path, target: Path) -> None:
    graph = onnx.load(file)
    graph.graph.output.pop()
    onnx.save(graph, target)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda file, target: None, "not found; expected an ONNX file"),
        (lambda file, target: target.mkdir(), "a folder; expected an ONNX file"),
        (lambda file, target: target.write_bytes(b""), "not a readable ONNX file ("),
        (lambda file, target: target.write_text("this is no ONNX\n"), "not a readable ONNX file ("),
        (cut, "not a readable ONNX file ("),
        (without_metadata, "got no metadata classes, resize, variant, expected a file that isoflop exported"),
        (of_another_input, "got inputs images and outputs logits, expected uint8 images and logits, probabilities"),
    ],
)  # fmt: skip
def test_what_is_no_classifier_of_ours_is_refused(file: Path, tmp_path: Path, spoil: object, message: str) -> None:
    assert callable(spoil)
    spoil(file, tmp_path / "bad.onnx")
    with pytest.raises(UserError) as error:
        open_classifier(tmp_path / "bad.onnx")
    assert str(error.value).startswith(f"{tmp_path / 'bad.onnx'}: {message}")
    assert "\n" not in str(error.value)


def test_editing_what_is_no_onnx_is_refused(file: Path, tmp_path: Path) -> None:
    cut(file, tmp_path / "bad.onnx")
    with pytest.raises(UserError, match="not a readable ONNX file"):
        read_graph(tmp_path / "bad.onnx")
    with pytest.raises(UserError, match="not found"):
        read_graph(tmp_path / "none.onnx")


def test_the_stage_reports_a_model_that_it_cannot_read_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "params.yaml").write_text("export: {opset: 20, dynamic_batch: true, tolerance: 0.001}\n")
    command = [sys.executable, "-m", "stages.export", "--model", "base", "--val", "val", "--onnx", "base.onnx"]
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    shutil.copytree(ROOT / "src", tmp_path / "src")
    (tmp_path / "code.yaml").write_text(code_text(checkout(tmp_path)))
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: export: base: not a readable model (")
    assert done.stderr.count("\n") == 1 and not (tmp_path / "base.onnx").exists()


def test_the_pool_goes_behind_what_grows_and_nothing_changes(train: Split, tmp_path: Path) -> None:
    """A norm with a negative scale is not moved before max pooling, as another pixel would become the maximum."""
    for sign, folded in ((1.0, True), (-1.0, False)):
        model = trained(train, "resnet", width=16, steps=4)
        norms = [layer for layer in model.net.modules() if isinstance(layer, torch.nn.BatchNorm2d)]
        for norm in norms:
            norm.weight.data.abs_()[0] *= sign
        file = exported(model, tmp_path / f"{folded}.onnx")
        kinds = [node.op_type for node in read_graph(file).graph.node]
        assert ("BatchNormalization" not in kinds) == folded
        check_parity(model, file, train.images, 1e-4)
