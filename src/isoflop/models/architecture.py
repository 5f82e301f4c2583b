"""What builds a network: the section ``model``, the width, and the shape of the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from isoflop.data.arrays import Split
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section


class ModelParams(Section):
    """Section ``model``: the family, and its shape apart from the width. ``heads`` and ``patch_size`` are of vit."""

    family: Literal["mlp", "cnn", "resnet", "vit"]  # a module each in isoflop.models.families
    depth: int = Field(ge=1, le=64)  # hidden layers, convolutions, residual units a stage, transformer blocks
    heads: int = Field(ge=1, le=64)  # of attention; they divide 4 widths
    patch_size: int = Field(ge=1, le=256)  # pixels, side; it divides prepare.image_size
    dropout: float = Field(ge=0, lt=1)  # share of activations set to 0
    activation: Literal["relu", "gelu", "silu"] | None  # null: relu for mlp and cnn, gelu for resnet and vit

    def cross_check(self, params: Mapping[str, Any], file: Path) -> list[str]:
        """Raise UserError if the patches of a vit do not tile the prepared images."""
        self.check_patches(params["prepare"]["image_size"])
        return []

    def check_patches(self, image_size: int) -> None:
        """Raise UserError if the patches of a vit do not tile images of ``image_size`` pixels a side."""
        if self.family == "vit" and image_size % self.patch_size:
            raise UserError(
                f"params.yaml: model.patch_size: got {self.patch_size}, expected a divisor of the image size "
                f"{image_size}"
            )


@dataclass(frozen=True)
class Architecture:
    """Everything that builds an untrained network; ``width`` scales every hidden layer linearly."""

    family: str
    width: int
    depth: int
    heads: int
    patch_size: int
    dropout: float
    image_size: int
    channels: int
    num_classes: int
    activation: str | None = None  # the family's usual


def architecture(model: ModelParams, width: int, data: Split) -> Architecture:
    """The network of the section ``model`` at ``width`` for the images and classes of ``data``.

    Raises:
        UserError: a vit whose patches do not tile the image or whose heads do not divide its embedding (4 widths).
    """
    size = data.image_size
    model.check_patches(size)
    built = Architecture(
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
    check_heads(built, f"width {width}")
    return built


def check_heads(built: Architecture, width: str) -> None:
    """Raise UserError if the heads of a vit do not divide its embedding, 4 times the width that ``width`` describes."""
    if built.family == "vit" and (4 * built.width) % built.heads:
        raise UserError(
            f"params.yaml: model.heads: found {built.heads}, expected a divisor of {4 * built.width} (4 x {width})"
        )
