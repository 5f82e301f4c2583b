"""What a network costs: parameters, multiply-accumulates, and the FLOPs of training on an image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class OfSquareImages(Protocol):
    """An architecture or a split: what says how large the images are."""

    @property
    def image_size(self) -> int: ...
    @property
    def channels(self) -> int: ...


def count_parameters(net: nn.Module) -> int:
    """All numbers of the layers, those of a stem that is not trained included."""
    return sum(weight.numel() for weight in net.parameters())


def count_body_parameters(net: nn.Module) -> int:
    """Without what makes features of images (a resnet's stem, a vit's patches and positions) and logits of features.

    What Kaplan et al. (2020) call N; with few classes and wide layers it hardly differs from all of them.
    """
    outside = ("stem.", "patches.", "position", "head.")
    return sum(weight.numel() for name, weight in net.named_parameters() if not name.startswith(outside))


def count_macs(net: nn.Module, images: OfSquareImages) -> int:
    """Multiply-accumulates of one image forward, by torch's FlopCounterMode (convolutions and matrix products)."""
    was_training = net.training
    net.eval()
    with torch.no_grad():
        flops = _count(net, images.image_size, images.channels, batch=1, backward=False)
    net.train(was_training)
    return flops // 2


def count_training_flops(net: nn.Module, images: OfSquareImages, scales: Sequence[float] = (1.0,)) -> int:
    """FLOPs of forward and backward for one image (2 a multiply-accumulate), by torch's FlopCounterMode.

    The mean over ``scales`` of the image's side, which each have an equal share of the training.
    """
    batch = 2  # batch statistics need more than one value a channel
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
    # plain attention: the counter has no formula for the fused kernel of the CPU
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        logits = net(images)
        if backward:
            logits.sum().backward()
    return int(counter.get_total_flops())
