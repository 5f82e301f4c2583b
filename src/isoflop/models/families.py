"""The families of networks. Each takes normalized images float [B, C, H, W] and returns logits [B, K].

The size of each hidden layer is a constant times the width, so the number of parameters is quadratic in the width. The
last layer is always ``head``. Forward passes read sizes from their tensors, so that a pruned network runs unchanged.
"""

from __future__ import annotations

from torch import nn

from isoflop.models.architecture import Architecture
from isoflop.models.backbone import Backbone
from isoflop.models.cnn import Cnn
from isoflop.models.efficientnet_lite import EfficientnetLite
from isoflop.models.mlp import Mlp
from isoflop.models.resnet import Resnet
from isoflop.models.vit import Vit

_FAMILIES: dict[str, type[Mlp | Cnn | Resnet | Vit | EfficientnetLite | Backbone]] = {
    "mlp": Mlp,
    "cnn": Cnn,
    "resnet": Resnet,
    "vit": Vit,
    "efficientnet_lite": EfficientnetLite,
    "pretrained": Backbone,
}


def build(architecture: Architecture) -> nn.Module:
    """Return a network whose weights are drawn from torch's global random state."""
    return _FAMILIES[architecture.family](architecture)
