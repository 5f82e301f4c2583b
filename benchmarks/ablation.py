"""Ablation of the CIFAR-10 recipe: the preset with one part changed at a time.

``python -m benchmarks.ablation [--data data/prepared] [--width 64] [--epochs 4] [--seeds 0] [--only NAME ...]`` trains
presets/cifar10.yaml once per change, and prints a line of JSON for each: validation accuracy and NLL, and seconds in
training steps. The test split is not used.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from isoflop.data.arrays import Split, read_split
from isoflop.data.loading import all_images
from isoflop.models.architecture import ModelParams, architecture
from isoflop.models.initialization import initialized
from isoflop.training.cpu import processor
from isoflop.training.fitting import fit
from isoflop.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]


def plain_stem(net: nn.Module) -> None:
    net.get_submodule("stem").reset_parameters()  # type: ignore[operator]
    net.get_parameter("stem.weight").requires_grad_(True)


def plain_filters(net: nn.Module) -> None:
    for layer in net.get_submodule("features").modules():
        if isinstance(layer, nn.Conv2d):
            layer.reset_parameters()


def plain_head(net: nn.Module) -> None:
    net.get_submodule("head").reset_parameters()  # type: ignore[operator]


def frozen_scales(net: nn.Module) -> None:
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.requires_grad_(False)


CHANGES: dict[str, dict[str, Any] | Callable[[nn.Module], None]] = {
    "none": {},
    "stem random and trained": plain_stem,
    "filters random, not dirac": plain_filters,
    "head random, not 0": plain_head,
    "batch norm scales frozen": frozen_scales,
    "SGD with momentum, learning rate 0.02": {"optimizer": "momentum", "learning_rate": 0.02, "momentum": 0.9},
    "AdamW, learning rate 0.004": {"optimizer": "adamw", "learning_rate": 0.004, "momentum": 0.9, "weight_decay": 0.01},
    "random flip": {"flip": "random"},
    "no shift": {"shift": 0},
    "cutout of 8 pixels": {"cutout": 8},
    "no label smoothing": {"label_smoothing": 0.0},
    "moving average of the weights, 0.99": {"ema_decay": 0.99},
    "cosine schedule, warm-up 0.1": {"schedule": "cosine", "warmup_fraction": 0.1},
    "no progressive resizing": {"progressive_resizing": [1.0]},
    "no InfoBatch": {"infobatch": 0.0},
}  # fmt: skip


def measure(name: str, width: int, epochs: int, seed: int, train: Split, val: Split) -> dict[str, Any]:
    params = yaml.safe_load((ROOT / "presets" / "cifar10.yaml").read_text())
    change = CHANGES[name]
    changed = change if isinstance(change, dict) else {}
    recipe = Recipe.model_validate(params["recipe"] | {"epochs": epochs, "max_minutes": None} | changed)
    images = all_images(train, np.zeros((0, *train.images.shape), np.uint8))
    net = initialized(architecture(ModelParams.model_validate(params["model"]), width, train), images, seed)
    if callable(change):
        change(net)
    fitted = fit(net, images, val, recipe, width=width, seed=seed, validate_every=epochs, progress=False)
    return {
        "changed": name,
        "seed": seed,
        "accuracy": fitted.val_accuracy,
        "nll": round(fitted.val_nll, 4),
        "seconds": round(fitted.seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/prepared"))
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="+", choices=CHANGES, default=list(CHANGES), metavar="NAME")
    options = parser.parse_args()
    train, val = read_split(options.data / "train"), read_split(options.data / "val")
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()[0]
    print(json.dumps({"device": device, "torch": torch.__version__, "width": options.width, "epochs": options.epochs}))
    for seed in options.seeds:
        for name in options.only:
            print(json.dumps(measure(name, options.width, options.epochs, seed, train, val)), flush=True)


if __name__ == "__main__":
    main()
