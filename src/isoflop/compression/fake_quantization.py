"""Quantization-aware training: the network is trained further with the rounding that its 8-bit graph will do.

Weights are rounded as ONNX Runtime's kernels hold them: by output channel to -127..127, after the batch norm that
follows is folded into them. What enters a layer is rounded to 0..255 over a range that follows the batches. Gradients
pass the rounding unchanged where nothing is clipped (Krishnamoorthi 2018, "Quantizing deep convolutional networks for
efficient inference", after Jacob et al. 2018). The network that comes out is one like any other: its export is
calibrated and quantized as every other's, so that its graph has the same fused kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_FOLLOWS = 0.05  # of a batch's range that the range takes over


@contextmanager
def rounding(net: nn.Module) -> Iterator[None]:
    """While it lasts, the layers of ``net`` but the head compute with rounded weights and inputs, and the batch norms
    with the statistics that they have."""
    head = net.get_submodule("head")
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear) and layer is not head]
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    after = _norm_after(net)
    hooks = []
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _RoundedWeight(after.get(layer)), unsafe=True)
        layer.register_buffer("input_ends", torch.full((2,), math.nan))  # in the checkpoint of a killed training
        hooks.append(layer.register_forward_pre_hook(_rounded_inputs))
    for norm in norms:
        norm.eval()
        norm.train = lambda mode=True, norm=norm: norm  # type: ignore[method-assign, misc]
    try:
        yield
    finally:
        for norm in norms:
            del norm.train
        for hook in hooks:
            hook.remove()
        for layer in layers:
            del layer.input_ends
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


class _RoundedWeight(nn.Module):
    """A weight as the 8-bit graph holds it: rounded after the scale of the norm that follows, and that taken off again,
    for the norm itself is still to come."""

    def __init__(self, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self._norm = [norm]  # in a list: not a module of this one's

    def forward(self, weight: Tensor) -> Tensor:
        shape = (-1, *[1] * (weight.ndim - 1))
        (norm,) = self._norm
        folded: Tensor | float = 1.0
        if norm is not None:
            assert norm.running_var is not None
            scale = norm.weight / torch.sqrt(norm.running_var + norm.eps)
            folded = torch.where(scale.abs() < 1e-8, torch.ones_like(scale), scale).detach().view(shape)
        wide = (weight * folded).float()
        largest = wide.detach().flatten(1).abs().amax(1).clamp_min(1e-8)
        zero = torch.zeros_like(largest, dtype=torch.int32)
        rounded = torch.fake_quantize_per_channel_affine(wide, largest / 127, zero, 0, -127, 127)
        return (rounded / folded).to(weight.dtype)


def _rounded_inputs(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """What enters a layer, rounded to 256 levels between ends that follow the batches' own."""
    x, *rest = inputs
    of_batch = torch.stack([x.detach().amin().clamp_max(0), x.detach().amax().clamp_min(0)]).float()
    kept = layer.get_buffer("input_ends")
    followed = torch.lerp(kept, of_batch, _FOLLOWS) if layer.training else kept
    low, high = ends = torch.where(kept.isnan(), of_batch, followed)
    kept.copy_(ends)
    scale = ((high - low) / 255).clamp_min(1e-8)
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    rounded = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255)
    return (rounded.to(x.dtype), *rest)


def _norm_after(net: nn.Module) -> dict[nn.Module, nn.BatchNorm2d]:
    """For each convolution the batch norm that its outputs go to, directly or through a pool."""
    found: dict[nn.Module, nn.BatchNorm2d] = {}
    for block in net.modules():
        if isinstance(block, nn.Sequential):
            last: nn.Module | None = None
            for layer in block:
                if isinstance(layer, nn.Conv2d):
                    last = layer
                elif isinstance(layer, nn.BatchNorm2d) and last is not None:
                    found[last] = layer
                if not isinstance(layer, nn.Conv2d | nn.MaxPool2d):
                    last = None
    return found
