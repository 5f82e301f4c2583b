"""Fake quantization: layers that compute in float with values rounded as the INT8 graph will round them.

Weights: INT8 by output channel, -127 to 127, after the batch norm that follows is folded in, as ONNX Runtime's kernels
store them. Layer inputs: UINT8, 0 to 255, over a range that is a moving average over the batches. The gradient of the
rounding is 1 where nothing is clipped (straight-through estimator; Krishnamoorthi 2018, "Quantizing deep convolutional
networks for efficient inference", after Jacob et al. 2018). Nothing of it remains in the network afterwards: it is
exported, calibrated and quantized like any other, so its graph has the same fused kernels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

_MOVING_AVERAGE = 0.05  # weight of a batch's range in the moving average


@contextmanager
def fake_quantized(net: nn.Module) -> Iterator[None]:
    """Within the context, all layers of ``net`` but the head compute with fake-quantized weights and inputs, and the
    batch norms are frozen at their running statistics."""
    head = net.get_submodule("head")
    layers = [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear) and layer is not head]
    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    after = _norm_after(net)
    hooks = []
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", _FakeQuantizedWeight(after.get(layer)), unsafe=True)
        layer.register_buffer("input_range", torch.full((2,), math.nan))  # a buffer, so that checkpoints hold it
        hooks.append(layer.register_forward_pre_hook(_fake_quantize_input))
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
            del layer.input_range
            parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


class _FakeQuantizedWeight(nn.Module):
    """A weight as the INT8 graph stores it: multiplied by the scale of the norm that follows, rounded, and divided by
    that scale again, because the norm itself is still applied."""

    def __init__(self, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self._norm = [norm]  # in a list, so that it is not registered as a submodule

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


def _fake_quantize_input(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The layer's input, rounded to 256 levels over the moving average of the batches' ranges."""
    x, *rest = inputs
    of_batch = torch.stack([x.detach().amin().clamp_max(0), x.detach().amax().clamp_min(0)]).float()
    kept = layer.get_buffer("input_range")
    averaged = torch.lerp(kept, of_batch, _MOVING_AVERAGE) if layer.training else kept
    low, high = current = torch.where(kept.isnan(), of_batch, averaged)
    kept.copy_(current)
    scale = ((high - low) / 255).clamp_min(1e-8)
    zero = (-low / scale).round().clamp(0, 255).to(torch.int32)
    rounded = torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, 255)
    return (rounded.to(x.dtype), *rest)


def _norm_after(net: nn.Module) -> dict[nn.Module, nn.BatchNorm2d]:
    """The batch norm that follows each convolution, directly or after a pool."""
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
