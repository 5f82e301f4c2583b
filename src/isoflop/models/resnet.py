"""Residual network for small images: a whitening stem and three stages of width, 2 * width and 4 * width channels.

It follows the fast CIFAR-10 networks of K. Jordan ("94% on CIFAR-10 in 3.29 Seconds", 2024): a stem of 2x2 filters that
whiten the patches and are not trained, then stages of convolution, pool, norm and GELU. Where those have plain units,
these are residual, so that the depth can grow. The stem's size does not depend on the width.
"""

from __future__ import annotations

from torch import Tensor, nn

from isoflop.models.activations import activation
from isoflop.models.architecture import Architecture

_SMALLEST_SIDE = 2  # pixels; pooling stops here
_PATCH = 2  # pixels, side


def _convolution(before: int, after: int) -> nn.Conv2d:
    """A convolution that starts as the identity on its inputs (Zagoruyko and Komodakis 2017, "DiracNets")."""
    layer = nn.Conv2d(before, after, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[: min(before, after)])
    return layer


class _Residual(nn.Module):
    def __init__(self, channels: int, of: Architecture) -> None:
        super().__init__()
        norm, acts = nn.BatchNorm2d(channels), activation(of, "gelu")
        self.body = nn.Sequential(_convolution(channels, channels), norm, acts)

    def forward(self, x: Tensor) -> Tensor:
        added: Tensor = x + self.body(x)
        return added


class Resnet(nn.Module):
    def __init__(self, of: Architecture) -> None:
        super().__init__()
        self.stem = nn.Conv2d(of.channels, 2 * _PATCH**2 * of.channels, _PATCH)
        self.stem.weight.requires_grad_(False)  # isoflop.models.initialization sets it
        layers: list[nn.Module] = [activation(of, "gelu")]
        before, side = self.stem.out_channels, of.image_size - _PATCH + 1
        for after in (of.width, 2 * of.width, 4 * of.width):
            layers.append(_convolution(before, after))
            if side // 2 >= _SMALLEST_SIDE:
                layers.append(nn.MaxPool2d(2))
                side //= 2
            layers += [nn.BatchNorm2d(after), activation(of, "gelu"), *(_Residual(after, of) for _ in range(of.depth))]
            before = after
        self.features = nn.Sequential(*layers)
        self.dropout = nn.Dropout(of.dropout)
        self.head = nn.Linear(before, of.num_classes)

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features_BC = self.features(self.stem(images_BCHW)).amax((2, 3))
        logits_BK: Tensor = self.head(self.dropout(features_BC))
        return logits_BK
