"""Channel removal, the part of pruning without training: remove channels in place and recalibrate batch norms."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from isoflop.data.loading import TrainingImages
    from isoflop.models.architecture import Architecture

_IMPORTANCE_IMAGES = 1024  # for the gradients that the importance is computed from
_NORM_IMAGES = 2048  # for the statistics of the batch norms
_NORM_BATCH = 256


def channel_remover(
    net: nn.Module, built: Architecture, ratio: float, *, importance: str, scope: str, round_to: int, steps: int = 1
) -> Callable[[TrainingImages | None], None]:
    """A function that removes the next share of channels from ``net``, in place, each time it is called.

    After ``steps`` calls the share ``ratio`` is gone. Each layer keeps a multiple of ``round_to`` channels. A vit loses
    channels only in the hidden layers of its MLPs, so that its heads stay whole.
    """
    import torch
    import torch_pruning

    from isoflop.models.vit import Vit

    example = torch.zeros(1, built.channels, built.image_size, built.image_size)
    # a whitening stem needs all of its channels
    ignored = [net.get_submodule(name) for name, _ in net.named_children() if name in ("head", "stem")]
    # a parameter outside of the layers that torch-pruning knows, and its axis of channels
    unwrapped = [(net.position.weight, 2)] if isinstance(net, Vit) else None
    ignored += [net.get_submodule(name) for name in getattr(net, "keeps_channels", ())]
    by_gradient = importance == "taylor"
    importances = torch_pruning.importance

    class Pruner(torch_pruning.pruner.BasePruner):  # type: ignore[misc]
        def _round_to(self, n_pruned: int, current_channels: int, round_to: int) -> int:
            # the library's own rounds a few channels down to none, refuses that, and leaves the layer as it was
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
    """Leave in ``net`` the gradients of the mean loss over training images, balanced over the classes."""
    import torch
    from torch.nn.functional import cross_entropy

    from isoflop.compression.calibration import in_turns
    from isoflop.data.normalization import normalize

    indices = images.indices[in_turns(images.split.labels[images.indices], _IMPORTANCE_IMAGES)]
    net.zero_grad(set_to_none=True)
    for start in range(0, len(indices), 256):
        batch_indices = indices[start : start + 256]
        batch = normalize(torch.from_numpy(images.split.images[batch_indices]), images.split.input_spec)
        labels = torch.from_numpy(images.split.labels[batch_indices]).long()
        (cross_entropy(net(batch), labels, reduction="sum") / len(indices)).backward()  # type: ignore[no-untyped-call]


def recalibrate_batch_norms(net: nn.Module, images: TrainingImages) -> None:
    """Recompute the running statistics of the batch norms on training images."""
    import torch
    from torch import nn

    from isoflop.data.normalization import normalize

    norms = [layer for layer in net.modules() if isinstance(layer, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # average over the batches
    indices = np.random.default_rng(0).permutation(images.indices)[:_NORM_IMAGES]  # images are sorted by class
    # drop a short last batch: it would count as much as a whole one
    whole = max(len(indices) - len(indices) % _NORM_BATCH, min(len(indices), _NORM_BATCH))
    net.train()
    with torch.no_grad():
        for start in range(0, whole if norms else 0, _NORM_BATCH):
            batch_indices = np.sort(indices[start : start + _NORM_BATCH])
            net(normalize(torch.from_numpy(images.split.images[batch_indices]), images.split.input_spec))
    net.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def channels(net: nn.Module) -> dict[str, int]:
    """Number of outputs of every convolution and linear layer, by name."""
    from torch import nn

    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    return {name: layer.weight.shape[0] for name, layer in layers.items()}
