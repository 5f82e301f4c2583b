"""EfficientNet-Lite: inverted bottlenecks with ReLU6 and without squeeze-excite, so that INT8 loses little accuracy.

Liu 2020, "Higher accuracy on vision models with EfficientNet-Lite", after Tan and Le 2019, "EfficientNet". At width 32
the channels are the published ones; at other widths they are scaled by width / 32.
"""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional

from isoflop.models.activations import activation
from isoflop.models.architecture import PUBLISHED_WIDTH, Architecture, FromCheckpoint

LITE = {  # name → factor of the channels, factor of the blocks, image size in pixels
    "lite0": (1.0, 1.0, 224),
    "lite1": (1.0, 1.1, 240),
    "lite2": (1.1, 1.2, 260),
    "lite3": (1.2, 1.4, 280),
    "lite4": (1.4, 1.8, 300),
}
_STAGES = (  # blocks, kernel size, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
_LAST = 1280  # channels before the head


class _Convolution(nn.Conv2d):
    """A convolution padded as in TensorFlow: by half of what is missing before the image, and by the rest after it."""

    def __init__(self, before: int, after: int, side: int = 1, stride: int = 1, groups: int = 1) -> None:
        super().__init__(before, after, side, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        side, stride = self.kernel_size[0], self.stride[0]
        height, width = (max(0, -(-size // stride) * stride - stride + side - size) for size in input.shape[2:])
        if height or width:
            input = functional.pad(input, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(input)


def _normed(layer: _Convolution, of: Architecture | None) -> list[nn.Module]:
    return [layer, nn.BatchNorm2d(layer.out_channels, eps=1e-3), *([activation(of, "relu6")] if of else [])]


class _Block(nn.Module):
    def __init__(self, before: int, after: int, side: int, stride: int, expansion: int, of: Architecture) -> None:
        super().__init__()
        wide = expansion * before
        self.adds = stride == 1 and before == after
        self.body = nn.Sequential(
            *(_normed(_Convolution(before, wide), of) if expansion > 1 else []),
            *_normed(_Convolution(wide, wide, side, stride, groups=wide), of),
            *_normed(_Convolution(wide, after), None),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.adds else y


class EfficientnetLite(nn.Module):
    def __init__(self, of: Architecture) -> None:
        super().__init__()
        name = of.config["name"] if isinstance(of, FromCheckpoint) else "lite0"
        wider, deeper, _ = LITE[name]

        def scaled(channels: float) -> int:
            return max(1, round(channels * of.width / PUBLISHED_WIDTH))

        before = scaled(PUBLISHED_WIDTH)
        layers = _normed(_Convolution(of.channels, before, 3, 2), of)
        for stage, (count, side, stride, expansion, channels) in enumerate(_STAGES):
            after = scaled(_multiple_of_8(channels * wider))
            # the first and the last stage have one block in every variant
            blocks = math.ceil(deeper * count) if 0 < stage < len(_STAGES) - 1 else count
            for block in range(blocks):
                layers.append(_Block(before, after, side, 1 if block else stride, expansion, of))
                before = after
        self.features = nn.Sequential(*layers, *_normed(_Convolution(before, scaled(_LAST)), of))
        self.dropout = nn.Dropout(of.dropout)
        self.head = nn.Linear(scaled(_LAST), of.num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features_BC = self.features(images_BCHW).mean((2, 3))
        logits_BK: Tensor = self.head(self.dropout(features_BC))
        return logits_BK


def _multiple_of_8(channels: float) -> int:
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
