"""Normalization: the mean and standard deviation per channel, and how a network's input is computed from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from isoflop.data.arrays import InputSpec
from isoflop.runtime.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor


def fixed_normalization(name: str, channels: int) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation per channel: ``symmetric`` maps [0, 1] to [-1, 1], other names keep [0, 1]."""
    value, scale = (0.5, 0.5) if name == "symmetric" else (0.0, 1.0)
    return [value] * channels, [scale] * channels


def checkpoint_normalization(description: Path) -> tuple[list[float], list[float]] | None:
    """Return mean and standard deviation per channel that a pretrained network was trained with; None without one.

    Raises:
        UserError: ``description``, which the stage ``weights`` wrote, is missing or damaged.
    """
    try:
        content = json.loads(description.read_text())
        return (content["mean"], content["std"]) if "mean" in content else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{description}: not a readable description ({error}); fix: `dvc repro weights`") from None


class Statistics:
    """Mean and standard deviation per channel. Sums are integers, so the result does not depend on the batches."""

    def __init__(self, channels: int) -> None:
        self._pixels = 0
        self._sums = np.zeros(channels, np.uint64)
        self._squares = np.zeros(channels, np.uint64)

    def add(self, images_NHWC: npt.NDArray[np.uint8]) -> None:
        values_PC = images_NHWC.reshape(-1, images_NHWC.shape[-1])
        histogram = np.stack([np.bincount(channel, minlength=256) for channel in values_PC.T]).astype(np.uint64)
        levels = np.arange(256, dtype=np.uint64)
        self._pixels += len(values_PC)
        self._sums += histogram @ levels
        self._squares += histogram @ levels**2

    def mean_and_std(self) -> tuple[list[float], list[float]]:
        """Return them on the scale where 255 is 1. The standard deviation of a constant channel is 1, not 0."""
        means, stds = [], []
        for total, squares in zip(self._sums.tolist(), self._squares.tolist(), strict=True):
            variance = (self._pixels * squares - total**2) / self._pixels**2
            means.append(round(total / self._pixels / 255, 6))
            stds.append(round(variance**0.5 / 255, 6) or 1.0)
        return means, stds


def normalize(images_BHWC: Tensor, input_spec: InputSpec) -> Tensor:
    """Convert pixels uint8 [B, H, W, C] to a network's input float32 [B, C, H, W], (p / 255 - mean) / std.

    The ONNX export traces this function, so the exported graph normalizes in the same way.
    """
    import torch

    images_BCHW = images_BHWC.permute(0, 3, 1, 2).float()  # permute first: ONNX Runtime is faster on planes
    scale_C11 = torch.tensor([1 / (255 * std) for std in input_spec.std], device=images_BHWC.device).view(-1, 1, 1)
    shift_C11 = torch.tensor(
        [-mean / std for mean, std in zip(input_spec.mean, input_spec.std, strict=True)], device=images_BHWC.device
    ).view(-1, 1, 1)
    return images_BCHW * scale_C11 + shift_C11
