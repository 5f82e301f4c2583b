"""The activation functions that a network can be built with."""

from __future__ import annotations

from torch import nn

from isoflop.models.architecture import Architecture

_ACTIVATIONS: dict[str, type[nn.ReLU | nn.GELU | nn.SiLU]] = {"relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


def activation(of: Architecture, usual: str) -> nn.Module:
    """A layer of the architecture's activation, or of the family's ``usual`` one where it names none."""
    return _ACTIVATIONS[of.activation or usual]()
