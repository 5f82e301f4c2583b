"""The families of classifiers. Each takes normalized images float [B, C, H, W] and returns logits [B, K].

Every hidden layer's size is a constant times the width, so the number of parameters is a polynomial of degree 2 in it.
The last layer is always ``head``; forward passes read sizes off their tensors, so that a pruned network runs unchanged.
"""

from __future__ import annotations

from torch import nn

from isoflop.models.architecture import Architecture
from isoflop.models.cnn import Cnn
from isoflop.models.mlp import Mlp
from isoflop.models.resnet import Resnet
from isoflop.models.vit import Vit

_FAMILIES: dict[str, type[Mlp | Cnn | Resnet | Vit]] = {"mlp": Mlp, "cnn": Cnn, "resnet": Resnet, "vit": Vit}


def build(architecture: Architecture) -> nn.Module:
    """A network with the weights that torch's current random state gives."""
    return _FAMILIES[architecture.family](architecture)
