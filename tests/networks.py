"""Small real data and networks that several test files train."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import nn

from isoflop.compression.pruning import Prune
from isoflop.data.arrays import InputSpec, Split, SplitWriter, read_split
from isoflop.models.architecture import Architecture, ModelParams
from isoflop.models.families import build
from isoflop.training.recipe import Recipe

FAMILIES: tuple[str, ...] = tuple(  # but the one whose networks come from checkpoints
    family for family in get_args(ModelParams.model_fields["family"].annotation) if family != "pretrained"
)
_DEPTHS = {"cnn": 3, "resnet": 1}  # 2 of others


def digits_split(folder: Path, start: int, stop: int) -> Split:
    """The digits number ``start`` to ``stop`` as a split."""
    source = load_digits()
    images = np.rint(source.images[start:stop] * 255 / 16).astype(np.uint8)[..., None]
    with SplitWriter(folder, (8, 8, 1)) as writer:
        writer.append(images, source.target[start:stop])
        writer.finish(InputSpec([str(digit) for digit in range(10)], [0.3], [0.37], "crop"))
    return read_split(folder)


def digits_architecture(family: str = "cnn", width: int = 16) -> Architecture:
    return Architecture(family, width, _DEPTHS.get(family, 2), 4, 2, 0.0, 8, 1, 10)


def fresh_net(family: str = "cnn", width: int = 16, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return build(digits_architecture(family, width))


def recipe(**changes: Any) -> Recipe:
    values = {
        "loss": "cross_entropy",
        "label_smoothing": 0.0,
        "optimizer": "adamw",
        "learning_rate": 0.003,
        "momentum": 0.9,
        "weight_decay": 0.01,
        "class_weights": "none",
        "logit_adjustment": 0.0,
        "schedule": "cosine",
        "warmup_fraction": 0.1,
        "epochs": 3,
        "max_minutes": None,
        "batch_size": 64,
        "ema_decay": 0.0,
        "gradient_clip": 0.0,
        "flip": "none",
        "shift": 0,
        "cutout": 0,
        "infobatch": 0.0,
        "progressive_resizing": [1.0],
        "precision": "fp32",
    }
    return Recipe.model_validate(values | changes)


def no_views(split: Split) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.zeros((0, *split.images.shape), np.uint8)


def prune_params(**changes: Any) -> Prune:
    values = {"ratio": None, "macs_ratio": None, "target_speedup": None, "importance": "l2", "scope": "layer",
              "round_to": 16, "steps": 1, "epochs": 4, "learning_rate_factor": 0.5, "alpha": 0.0,
              "temperature": 2.0, "seed": 0}  # fmt: skip
    return Prune.model_validate(values | changes)
