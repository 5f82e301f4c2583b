"""Removing channels of a network by importance, in place, and settling what is left: of pruning, without training."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from isoflop.data.loading import TrainingImages
    from isoflop.models.architecture import Architecture

_IMPORTANCE_IMAGES = 1024  # whose gradients say what a channel is worth
_NORM_IMAGES = 2048  # whose activations the norms take their statistics from again
_NORM_BATCH = 256


def channel_remover(
    net: nn.Module, built: Architecture, ratio: float, *, importance: str, scope: str, round_to: int, steps: int = 1
) -> Callable[[TrainingImages | None], None]:
    """What removes the next share of channels from ``net``, in place, each time it is called.

    Each layer keeps a multiple of ``round_to``. Of a vit only the hidden layers of its MLPs are pruned, so that its
    heads stay whole.
    """
    import torch
    import torch_pruning

    from isoflop.models.vit import Vit

    example = torch.zeros(1, built.channels, built.image_size, built.image_size)
    # a stem whitens the patches: it is as small as that takes
    ignored = [net.get_submodule(name) for name, _ in net.named_children() if name in ("head", "stem")]
    unwrapped = [(net.position.weight, 2)] if isinstance(net, Vit) else None  # outside of known layers, axis
    ignored += [net.get_submodule(name) for name in getattr(net, "keeps_channels", ())]
    by_gradient = importance == "taylor"
    importances = torch_pruning.importance

    class Pruner(torch_pruning.pruner.BasePruner):  # type: ignore[misc]
        def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
            # its own rounds few channels down to none, which it then refuses, and the layer stays whole
            kept = current_channels - n_pruned
            return max(current_channels - max(round_to, kept - kept % round_to), 0)

    pruner: Any = Pruner(
        net,
        example,
        importance=importances.GroupTaylorImportance() if by_gradient else importances.GroupMagnitudeImportance(p=2),
        global_pruning=scope == "global",
        pruning_ratio=ratio,
        iterative_steps=steps,
        round_to=round_to,
        ignored_layers=ignored,
        unwrapped_parameters=unwrapped,
    )

    def remove(images: TrainingImages | None) -> None:
        if by_gradient and images is not None:
            _take_gradients(net, images)
        pruner.step()
        net.zero_grad(set_to_none=True)

    return remove


def _take_gradients(net: nn.Module, images: TrainingImages) -> None:
    """Leave in ``net`` the gradients of the mean loss over some training images, of each class as many."""
    import torch
    from torch.nn.functional import cross_entropy

    from isoflop.compression.calibration import in_turns
    from isoflop.data.normalization import normalize

    numbers = images.indices[in_turns(images.split.labels[images.indices], _IMPORTANCE_IMAGES)]
    net.zero_grad(set_to_none=True)
    for start in range(0, len(numbers), 256):
        some = numbers[start : start + 256]
        batch = normalize(torch.from_numpy(images.split.images[some]), images.split.input_spec)
        labels = torch.from_numpy(images.split.labels[some]).long()
        (cross_entropy(net(batch), labels, reduction="sum") / len(numbers)).backward()  # type: ignore[no-untyped-call]


def recalibrate_batch_norms(net: nn.Module, images: TrainingImages) -> None:
    """Give the batch norms the statistics of what reaches them now."""
    import torch
    from torch import nn

    from isoflop.data.normalization import normalize

    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain mean over the batches
    numbers = np.random.default_rng(0).permutation(images.indices)[:_NORM_IMAGES]  # files lie sorted by class
    whole = max(len(numbers) - len(numbers) % _NORM_BATCH, min(len(numbers), _NORM_BATCH))  # a short batch counts alike
    net.train()
    with torch.no_grad():
        for start in range(0, whole if norms else 0, _NORM_BATCH):
            some = np.sort(numbers[start : start + _NORM_BATCH])
            net(normalize(torch.from_numpy(images.split.images[some]), images.split.input_spec))
    net.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def channels(net: nn.Module) -> dict[str, int]:
    """Outputs of every convolution and linear layer, by name."""
    from torch import nn

    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    return {name: layer.weight.shape[0] for name, layer in layers.items()}
