"""The activation functions of ``model.activation``."""

from __future__ import annotations

from torch import nn

from isoflop.models.architecture import Architecture

_ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def activation(of: Architecture, usual: str) -> nn.Module:
    """Return a layer with the architecture's activation, or with ``usual`` if ``model.activation`` is null."""
    return _ACTIVATIONS[of.activation or usual]()
