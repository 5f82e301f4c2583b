"""Plain convolutional network: ``depth`` convolutions with pooling; their channels double from ``width`` on."""

from __future__ import annotations

from torch import Tensor, nn

from isoflop.models.activations import activation
from isoflop.models.architecture import Architecture

_SMALLEST_SIDE = 2  # pixels; pooling stops here


class Cnn(nn.Module):
    def __init__(self, of: Architecture) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before, side = of.channels, of.image_size
        for index in range(of.depth):
            after = of.width * 2 ** min(index, 3)
            convolution = nn.Conv2d(before, after, 3, padding=1, bias=False)
            layers += [convolution, nn.BatchNorm2d(after), activation(of, "relu")]
            if side // 2 >= _SMALLEST_SIDE:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            before = after
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(of.dropout)
        self.head = nn.Linear(before, of.num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features_BC = self.features(images_BCHW).mean((2, 3))
        logits_BK: Tensor = self.head(self.dropout(features_BC))
        return logits_BK
