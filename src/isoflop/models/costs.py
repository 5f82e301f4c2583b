"""Costs of a network: parameters, multiply-accumulates (MACs), and the FLOPs of training on one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class OfSquareImages(Protocol):
    """An architecture or a split: anything with the size of the images."""

    @property
    def image_size(self) -> int: ...
    @property
    def channels(self) -> int: ...


def count_parameters(net: nn.Module) -> int:
    """Return the number of parameters, including those of a stem that is not trained."""
    return sum(weight.numel() for weight in net.parameters())


def count_body_parameters(net: nn.Module) -> int:
    """Return the number of parameters without a resnet's stem, a vit's patches and positions, and the head.

    This is N in Kaplan et al. (2020). With few classes and wide layers it is close to the number of all parameters.
    """
    outside = ("stem.", "patches.", "position", "head.")
    return sum(weight.numel() for name, weight in net.named_parameters() if not name.startswith(outside))


def count_macs(net: nn.Module, images: OfSquareImages) -> int:
    """Return the MACs of a forward pass of one image, by torch's FlopCounterMode (convolutions, matrix products)."""
    was_training = net.training
    net.eval()
    with torch.no_grad():
        flops = _count(net, images.image_size, images.channels, batch=1, backward=False)
    net.train(was_training)
    return flops // 2


def count_training_flops(net: nn.Module, images: OfSquareImages, scales: Sequence[float] = (1.0,)) -> int:
    """Return the FLOPs of forward and backward for one image (2 per MAC), by torch's FlopCounterMode.

    Args:
        scales: of the image's side, each for an equal share of the training; the result is the mean over them.
    """
    batch = 2  # batch statistics need more than one value per channel
    state = {name: value.clone() for name, value in net.state_dict().items()}
    was_training = net.training
    sides = [max(1, round(scale * images.image_size)) for scale in scales]
    net.train()
    flops = sum(_count(net, side, images.channels, batch=batch, backward=True) for side in sides)
    net.zero_grad(set_to_none=True)
    net.load_state_dict(state)
    net.train(was_training)
    return flops // (batch * len(sides))


def _count(net: nn.Module, side: int, channels: int, *, batch: int, backward: bool) -> int:
    images = torch.zeros(batch, channels, side, side, device=next(net.parameters()).device)
    # unfused attention: the counter has no formula for the CPU's fused kernel
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits = net(images)
        if backward:
            logits.sum().backward()
    return int(counter.get_total_flops())
