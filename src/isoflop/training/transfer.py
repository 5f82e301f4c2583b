"""Fine-tuning of pretrained weights: the head first, then all layers, the first ones at the lowest learning rate.

Head first: Kumar et al. 2022 (LP-FT). Rates by layer: Howard and Ruder 2018, "Universal Language Model Fine-tuning";
Clark et al. 2020, "ELECTRA", for the geometric form.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from isoflop.training.optimizers import first_order, learning_rate_factor
from isoflop.training.recipe import Recipe, Train

HEAD_ALONE = 10.0  # factor of the head's learning rate while it is trained alone: it starts at 0
_LEVELS = 12  # learning rates from the first to the last layer
_SMALL_BATCH = 64  # images; batch statistics of fewer are noisier than those of the checkpoint


@dataclass(frozen=True)
class Tuning:
    """How pretrained weights are trained further."""

    head_fraction: float  # of the training, in which only the head is trained
    first_layer_rate: float  # learning rate of the first layer over the last
    freezes_norms: bool  # batch norms keep their statistics

    def is_whole(self, progress: float) -> bool:
        """Whether all layers are trained after the fraction ``progress`` of the training."""
        return progress >= self.head_fraction


def tuning(train: Train, batch_size: int) -> Tuning:
    """Return the values of ``train.finetuning`` for steps of ``batch_size`` images."""
    section, devices = train.finetuning, train.devices if isinstance(train.devices, int) else 1
    at_once = batch_size // (train.accumulate_grad_batches * devices * train.nodes)
    freezes = {"always": True, "never": False, "auto": at_once < _SMALL_BATCH}[section.freeze_norms]
    return Tuning(section.head_fraction, section.first_layer_rate, freezes)


def tuned_optimizer(net: nn.Module, recipe: Recipe, how: Tuning) -> tuple[Optimizer, list[bool]]:
    """Return the optimizer with a group per level of layers, and whether each group is the head's.

    The rate of the head and of the last layer is ``recipe.learning_rate``, whatever the width.
    """
    groups: dict[tuple[int, bool], list[nn.Parameter]] = {}
    layers = [
        (name, layer) for name, layer in net.named_modules() if any(True for _ in layer.parameters(recurse=False))
    ]
    body = max(1, sum(not _is_head(name) for name, _ in layers) - 1)
    for index, (name, layer) in enumerate(layers):
        level = _LEVELS if _is_head(name) else min(_LEVELS - 1, _LEVELS * index // body)
        for weight in layer.parameters(recurse=False):
            groups.setdefault((level, weight.ndim > 1), []).append(weight)
    options: list[dict[str, Any]] = []
    for (level, decays), weights in groups.items():
        share = 1 - min(level, _LEVELS - 1) / (_LEVELS - 1)
        rate = recipe.learning_rate * how.first_layer_rate**share
        options.append({"params": weights, "lr": rate, "weight_decay": recipe.weight_decay if decays else 0.0})
    return first_order(options, recipe), [level == _LEVELS for level, _ in groups]


def rate_factors(
    recipe: Recipe, how: Tuning, heads: list[bool], progress: Callable[[int], float]
) -> list[Callable[[int], float]]:
    """Return the factor of each group's learning rate by step: warm-up and schedule start again with all layers."""

    def factor(step: int, is_head: bool) -> float:
        done, alone = progress(step), how.head_fraction
        if how.is_whole(done):
            return learning_rate_factor(recipe, (done - alone) / (1 - alone))
        return HEAD_ALONE * learning_rate_factor(recipe, done) if is_head else 0.0

    return [lambda step, is_head=is_head: factor(step, is_head) for is_head in heads]  # type: ignore[misc]


def set_phase(net: nn.Module, how: Tuning, progress: float, *, is_alone: bool) -> None:
    """Prepare ``net`` for the next step: which layers have gradients, and which batch norms update their statistics.

    ``is_alone``: the process trains without others. DDP expects gradients of the same weights at each step; there the
    factor 0 of the learning rate holds the body.
    """
    whole = how.is_whole(progress)
    for layer in net.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train(whole and not how.freezes_norms)
    for name, weight in net.named_parameters():
        weight.requires_grad_(whole or not is_alone or _is_head(name))


def _is_head(name: str) -> bool:
    return name == "head" or name.startswith("head.")
