"""Multi-layer perceptron: ``depth`` hidden layers of 8 * width units on the flattened image."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from isoflop.models.activations import activation
from isoflop.models.architecture import Architecture


class Mlp(nn.Module):
    takes_any_size = False

    def __init__(self, of: Architecture) -> None:
        super().__init__()
        sizes = [of.channels * of.image_size**2, *[8 * of.width] * of.depth]
        layers: list[nn.Module] = []
        for before, after in pairwise(sizes):
            layers += [nn.Linear(before, after), activation(of, "relu"), nn.Dropout(of.dropout)]
        self.hidden = nn.Sequential(*layers)
        self.head = nn.Linear(sizes[-1], of.num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        logits_BK: Tensor = self.head(self.hidden(images_BCHW.flatten(1)))
        return logits_BK
