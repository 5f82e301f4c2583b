"""Structured pruning: whole channels go, the least important first, and what is left is trained further."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field, model_validator

from isoflop.arrays import Images, Split
from isoflop.errors import UserError
from isoflop.model_files import Model, resize, save_model
from isoflop.params import Section
from isoflop.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from isoflop.architecture import Architecture
    from isoflop.loading import TrainingImages

_IMPORTANCE_IMAGES = 1024  # whose gradients say what a channel is worth
_NORM_IMAGES = 2048  # whose activations the norms take their statistics from again
_NORM_BATCH = 256
_RATIOS = [number / 40 for number in range(1, 39)]  # of channels, from which the one for a target is chosen


class Prune(Section):
    """Section ``prune``. One of ``ratio``, ``macs_ratio``, ``target_speedup`` says how much goes; the others are null.

    ``importance`` of a channel: the norm of its weights over all layers that share it (``l2``; Fang et al. 2023,
    DepGraph) or the loss that its removal would cost by a first-order estimate (``taylor``; Molchanov et al. 2019).
    ``scope``: each layer loses the same share, or the least important go wherever they are (``global``), which can
    starve single layers of small networks.
    """

    ratio: float | None = Field(gt=0, lt=1)  # of the channels of every layer that can lose some
    macs_ratio: float | None = Field(gt=0, lt=1)  # of the multiply-accumulates, at most this share stays
    target_speedup: float | None = Field(gt=1, le=1000)  # in ONNX Runtime, one image at a time on one thread
    importance: Literal["l2", "taylor"]
    scope: Literal["layer", "global"]
    round_to: int = Field(ge=1, le=128)  # channels; 16 is what ONNX Runtime's kernels want
    steps: int = Field(ge=1, le=100)  # from one removal to the next the network is trained for its share of the epochs
    epochs: int = Field(ge=1)  # of fine-tuning, over all steps
    learning_rate_factor: float = Field(gt=0, le=10)  # times recipe.learning_rate
    seed: int = Field(ge=0)

    @model_validator(mode="after")
    def _one_target(self) -> Prune:
        targets = ("ratio", "macs_ratio", "target_speedup")
        given = [name for name in targets if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"found {', '.join(given) or 'none'} of {', '.join(targets)}, expected one")
        if self.ratio is None and self.scope == "global" and (self.importance, self.steps) != ("l2", 1):
            raise ValueError(
                f"found scope global with {given[0]}, importance {self.importance} and {self.steps} steps, expected l2 "
                "and 1 step: else which layers get narrower is not known beforehand"
            )
        if self.steps > self.epochs:
            raise ValueError(f"found {self.steps} steps and {self.epochs} epochs, expected an epoch a step or more")
        return self


def prune(
    base: Model, recipe: Recipe, params: Prune, data: Split, views: Images, val: Split, *, folder: Path, metrics: Path
) -> None:
    """Remove channels of ``base``, fine-tune what is left, and write it.

    A network of the same shape that starts from random weights is trained for as many epochs at the recipe's own rate:
    the control, which says whether the base's weights were worth keeping (Liu et al. 2019, "Rethinking the Value of
    Network Pruning").

    Raises:
        UserError: nothing can be removed, for the layers are as narrow as ``round_to`` already, or the target is out of
            reach.
    """
    from isoflop.base_training import fitted_facts
    from isoflop.costs import count_macs, count_parameters
    from isoflop.divergence import said_of
    from isoflop.evaluation import predict_logits
    from isoflop.loading import all_images
    from isoflop.training import fit

    built, images = base.architecture, all_images(data, views)
    before = count_parameters(base.net), count_macs(base.net, built)
    widths = _channels(base.net)
    ratio = _ratio(base, params, before[1])
    net = deepcopy(base.net)
    remove = channel_remover(net, built, params, ratio, steps=params.steps)
    rate = params.learning_rate_factor * recipe.learning_rate
    whole = {"progressive_resizing": [1.0]}  # it has seen smaller images already
    at_once = None
    for step in range(params.steps):
        remove(images)
        if count_parameters(net) == before[0] and step == params.steps - 1:
            raise UserError(
                f"params.yaml: prune.round_to: found {params.round_to} with ratio {ratio}, which leaves every layer of "
                f"the base (width {built.width}) as it is; expected a smaller round_to, a larger ratio or train.width"
            )
        _settle_norms(net, images)
        at_once = float((predict_logits(net, val).argmax(1) == val.labels).mean())
        epochs = _share(params.epochs, params.steps, step)
        tuning = recipe.model_copy(update={"epochs": epochs, "learning_rate": rate} | whole)
        with said_of("prune.learning_rate_factor", params.learning_rate_factor):
            fitted = fit(net, images, val, tuning, width=built.width, seed=params.seed + step)
    parameters, macs = count_parameters(net), count_macs(net, built)
    save_model(replace(base, net=net), folder)
    control = fit(
        _fresh(net, built, images, params.seed),
        images,
        val,
        recipe.model_copy(update={"epochs": params.epochs}),
        width=built.width,
        seed=params.seed,
    )
    facts = {
        "parameters": parameters,
        "macs": macs,
        "parameters_ratio": round(parameters / before[0], 6),
        "macs_ratio": round(macs / before[1], 6),
        "channel_ratio": ratio,
        "val_accuracy_untuned": round(at_once or 0.0, 6),
        "control_val_nll": round(control.val_nll, 6),
        "control_val_accuracy": round(control.val_accuracy, 6),
        "channels": {name: [count, _channels(net)[name]] for name, count in widths.items()},
    }
    metrics.write_text(json.dumps(facts | fitted_facts(fitted), indent=1) + "\n")


def _share(total: int, parts: int, part: int) -> int:
    """How much of ``total`` falls to one of ``parts`` that are as equal as can be."""
    return total * (part + 1) // parts - total * part // parts


def _ratio(base: Model, params: Prune, macs: int) -> float:
    """The share of channels to remove, the least that reaches the target."""
    from isoflop.costs import count_macs

    if params.ratio is not None:
        return params.ratio
    shapes: dict[int, tuple[float, nn.Module]] = {}  # by MACs: rounding makes many ratios one shape
    for ratio in _RATIOS:
        net = deepcopy(base.net)
        # which channels go does not decide how many do, so the cheap importance and no gradients will do
        by_norm = params.model_copy(update={"importance": "l2"})
        channel_remover(net, base.architecture, by_norm, ratio, steps=1)(None)
        shapes.setdefault(count_macs(net, base.architecture), (ratio, net))
    smaller = [(cost, *shape) for cost, shape in sorted(shapes.items(), reverse=True) if cost < macs]
    if params.macs_ratio is not None:
        for cost, ratio, _ in smaller:
            if cost <= params.macs_ratio * macs:
                return ratio
        least = min((cost for cost, *_ in smaller), default=macs) / macs
        raise UserError(
            f"params.yaml: prune.macs_ratio: found {params.macs_ratio}, expected at least {least:.3g}: so much of "
            f"the base is left with {max(_RATIOS):.0%} of its channels removed, in multiples of {params.round_to}"
        )
    assert params.target_speedup is not None
    return _ratio_by_time(base, [(ratio, net) for _, ratio, net in smaller], params.target_speedup)


def _ratio_by_time(base: Model, shapes: list[tuple[float, nn.Module]], target: float) -> float:
    """By bisection over the shapes, from the largest to the smallest: the first that is as much faster as asked."""
    from isoflop.timing import measured_speedups

    low, high, best = 0, len(shapes) - 1, None
    fastest = 1.0
    while low <= high:
        middle = (low + high) // 2
        (speedup,) = measured_speedups(base, [replace(base, net=shapes[middle][1])])
        fastest = max(fastest, speedup)
        if speedup >= target:
            best, high = middle, middle - 1
        else:
            low = middle + 1
    if best is None:
        raise UserError(
            f"params.yaml: prune.target_speedup: found {target:g}, expected at most what the smallest shape measured: "
            f"{fastest:.3g} times as fast as the base, with {shapes[-1][0]:.0%} of the channels removed"
            if shapes
            else f"params.yaml: prune.target_speedup: found {target:g}, but no channel of the base can be removed"
        )
    return shapes[best][0]


def channel_remover(
    net: nn.Module, built: Architecture, params: Prune, ratio: float, steps: int
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
    unwrapped = [(net.position, 2)] if isinstance(net, Vit) else None  # parameters outside layers, and their axis
    if isinstance(net, Vit):
        ignored += [net.patches]
        for block in net.blocks:
            attention, mlp = block.get_submodule("attention"), block.get_submodule("mlp")
            ignored += [*attention.children(), mlp.get_submodule("2")]
    by_gradient = params.importance == "taylor"
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
        global_pruning=params.scope == "global",
        pruning_ratio=ratio,
        iterative_steps=steps,
        round_to=params.round_to,
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

    from isoflop.calibration import in_turns
    from isoflop.normalization import normalize

    numbers = images.indices[in_turns(images.split.labels[images.indices], _IMPORTANCE_IMAGES)]
    net.zero_grad(set_to_none=True)
    for start in range(0, len(numbers), 256):
        some = numbers[start : start + 256]
        batch = normalize(torch.from_numpy(images.split.images[some]), images.split.meaning)
        labels = torch.from_numpy(images.split.labels[some]).long()
        (cross_entropy(net(batch), labels, reduction="sum") / len(numbers)).backward()  # type: ignore[no-untyped-call]


def _settle_norms(net: nn.Module, images: TrainingImages) -> None:
    """Give the batch norms the statistics of what reaches them now."""
    import torch
    from torch import nn

    from isoflop.normalization import normalize

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
            net(normalize(torch.from_numpy(images.split.images[some]), images.split.meaning))
    net.eval()
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def _fresh(pruned: nn.Module, built: Architecture, images: TrainingImages, seed: int) -> nn.Module:
    """A network of the pruned one's shape with random weights."""
    from torch import nn

    from isoflop.initialization import initialized
    from isoflop.models.resnet import Resnet

    net = initialized(built, images, seed)
    for layer in resize(net, pruned.state_dict()):
        layer.reset_parameters()  # type: ignore[operator]
        if isinstance(net, Resnet) and isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight.data[: min(layer.weight.shape[:2])])
    nn.init.zeros_(net.get_submodule("head").weight)  # type: ignore[arg-type]
    nn.init.zeros_(net.get_submodule("head").bias)  # type: ignore[arg-type]
    return net


def _channels(net: nn.Module) -> dict[str, int]:
    """Outputs of every convolution and linear layer, by name."""
    from torch import nn

    layers = {name: layer for name, layer in net.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}
    return {name: layer.weight.shape[0] for name, layer in layers.items()}
