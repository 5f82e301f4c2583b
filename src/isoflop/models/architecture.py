"""The architecture of a network: the section ``model``, the width, and the shape of the data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from isoflop.data.arrays import Split
from isoflop.download.pretrained import NONE, parsed_source
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section

PUBLISHED_WIDTH = 32  # of an efficientnet_lite: the channels of its stem in the published networks
_FAMILY_OF = {NONE: "", "package": "efficientnet_lite", "hub": "pretrained", "folder": "pretrained"}


def _is_source(text: str) -> str:
    parsed_source(text)
    return text


PretrainedSource = Annotated[str, Field(max_length=500), AfterValidator(_is_source)]


class ModelParams(Section):
    """Section ``model``: the family, and its shape apart from the width. ``heads`` and ``patch_size`` apply to vit."""

    family: Literal[
        "mlp", "cnn", "resnet", "vit", "efficientnet_lite", "pretrained"
    ]  # kind of network, see isoflop.models.families; pretrained: that of the checkpoint
    depth: int = Field(ge=1, le=64)  # hidden layers, convolutions, residual units per stage, or transformer blocks
    heads: int = Field(ge=1, le=64)  # attention heads; a divisor of 4 * width
    patch_size: int = Field(ge=1, le=256)  # side of a patch, pixels; a divisor of prepare.image_size
    dropout: float = Field(ge=0, lt=1)  # probability that an activation is set to 0
    activation: (
        Literal["relu", "gelu", "silu"] | None
    )  # null: relu for mlp and cnn, gelu for resnet and vit, relu6 for efficientnet_lite
    pretrained: PretrainedSource  # first weights: none, package:efficientnet-lite0, hub:OWNER/NAME@COMMIT, folder:PATH

    def cross_check(self, params: Mapping[str, Any], file: Path) -> list[str]:
        """Raise UserError if the patches of a vit do not tile the prepared images, or a section does not apply to the
        pretrained network."""
        self.check_patches(params["prepare"]["image_size"])
        if wrong := [*self._misfits(), *self._does_not_apply(params)]:
            raise UserError("; ".join(f"{file}: {mistake}" for mistake in wrong))
        return []

    def _misfits(self) -> Iterator[str]:
        """Yield a message if the family is not that of the pretrained weights."""
        expected = _FAMILY_OF[parsed_source(self.pretrained).kind]
        if self.pretrained == NONE and self.family == "pretrained":
            yield "model.pretrained: got none with model.family pretrained, expected hub:OWNER/NAME@COMMIT or folder:…"
        elif expected and self.family != expected:
            yield f"model.family: got {self.family}, expected {expected} with model.pretrained {self.pretrained}"
        elif expected and self.activation:
            yield f"model.activation: got {self.activation}, expected null with model.pretrained {self.pretrained}"

    def _does_not_apply(self, params: Mapping[str, Any]) -> Iterator[str]:
        """Yield a message for each value that is meant for networks of this project's own shapes or random weights."""
        train, width = params["train"], PUBLISHED_WIDTH
        if self.pretrained != NONE:
            if params["recipe"]["optimizer"] == "muon":
                yield "recipe.optimizer: got muon, which rescales the weights, expected adamw with model.pretrained"
            if train["privacy"]["epsilon"] is not None:
                yield "train.privacy.epsilon: got a budget, expected null with model.pretrained"
            if self.family == "efficientnet_lite" and train["width"] != width:
                yield f"train.width: got {train['width']}, expected {width}, that of model.pretrained {self.pretrained}"
        if self.family == "pretrained":
            for kind in ("distill", "prune", "qat"):
                if names := list(params["variants"][kind]):
                    yield (
                        f"variants.{kind}: got {', '.join(names)}, expected {{}} with model.family pretrained, whose "
                        "layers keep their sizes"
                    )

    def check_patches(self, image_size: int) -> None:
        """Raise UserError if the patches of a vit do not tile images of ``image_size`` pixels a side."""
        if self.family == "vit" and image_size % self.patch_size:
            raise UserError(
                f"params.yaml: model.patch_size: got {self.patch_size}, expected a divisor of the image size "
                f"{image_size}"
            )


@dataclass(frozen=True)
class Architecture:
    """Everything that is needed to build an untrained network; every hidden layer is linear in ``width``."""

    family: str
    width: int
    depth: int
    heads: int
    patch_size: int
    dropout: float
    image_size: int
    channels: int
    num_classes: int
    activation: str | None = None  # None: the family's usual one


@dataclass(frozen=True)
class FromCheckpoint(Architecture):
    """An architecture whose shape comes from a checkpoint: ``config`` is what its family builds the network from."""

    config: dict[str, Any] = field(default_factory=dict)


def architecture(model: ModelParams, width: int, data: Split, config: dict[str, Any] | None = None) -> Architecture:
    """Return the architecture of the section ``model`` at ``width`` for the images and classes of ``data``.

    Args:
        config: of a checkpoint.

    Raises:
        UserError: the patches of a vit do not tile the image, or its heads do not divide its embedding (4 * width).
    """
    size = data.image_size
    model.check_patches(size)
    shape = (
        model.family,
        width,
        model.depth,
        model.heads,
        model.patch_size,
        model.dropout,
        size,
        data.channels,
        data.num_classes,
        model.activation,
    )
    built = Architecture(*shape) if config is None else FromCheckpoint(*shape, config=config)
    check_heads(built, f"width {width}")
    return built


def check_heads(built: Architecture, width: str) -> None:
    """Check that the heads of a vit divide its embedding, which is 4 times the width; ``width`` describes the latter.

    Raises:
        UserError: they do not.
    """
    if built.family == "vit" and (4 * built.width) % built.heads:
        raise UserError(
            f"params.yaml: model.heads: got {built.heads}, expected a divisor of {4 * built.width} (4 x {width})"
        )
