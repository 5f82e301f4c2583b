"""Structured pruning: whole channels go, the least important first, and what is left is trained further."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from isoflop.compression.channel_removal import channel_remover, channels, recalibrate_batch_norms
from isoflop.data.arrays import Split, TrainingData
from isoflop.models.model_files import Model, digest, resize, save_model
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.training.privacy import check_not_private
from isoflop.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from isoflop.data.loading import TrainingImages
    from isoflop.models.architecture import Architecture
    from isoflop.training.fitting import Fitted

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
    importance: Literal["l2", "taylor"]  # of a channel, see above
    scope: Literal["layer", "global"]  # where channels are compared: within a layer, or anywhere
    round_to: int = Field(ge=1, le=128)  # channels; 16 is what ONNX Runtime's kernels want
    steps: int = Field(ge=1, le=100)  # from one removal to the next the network is trained for its share of the epochs
    epochs: int = Field(ge=1)  # of fine-tuning, over all steps
    learning_rate_factor: float = Field(gt=0, le=10)  # times recipe.learning_rate
    alpha: float = Field(ge=0, le=1)  # weight of the outputs of the model it was; the rest is on the labels
    temperature: float = Field(gt=0, le=100)  # both networks' logits are divided by it
    seed: int = Field(ge=0)  # of batches and the control's weights

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


def prune(base: Model, recipe: Recipe, params: Prune, data: TrainingData, *, folder: Path, metrics: Path) -> None:
    """Remove channels of ``base``, fine-tune what is left, taught by ``base`` if ``alpha`` says so, and write it.

    A network of the same shape that starts from random weights is trained for as many epochs at the recipe's own rate:
    the control, which says whether the base's weights were worth keeping (Liu et al. 2019, "Rethinking the Value of
    Network Pruning"). Where it ends better on the validation split, they were not, and it is what is written.

    Raises:
        UserError: nothing would be removed, as every layer has too few channels for ``round_to`` already, or the target
            is out of reach.
    """
    from isoflop.data.loading import all_images
    from isoflop.models.costs import count_macs, count_parameters
    from isoflop.training.base_training import fitted_facts
    from isoflop.training.fitting import fit
    from isoflop.training.resume import resumable

    check_not_private(base.privacy, "prune")
    built, images = base.architecture, all_images(data.train, data.views)
    before = count_parameters(base.net), count_macs(base.net, built)
    ratio = _ratio(base, params, before[1])
    _check_removes(base, params, ratio)
    with ExitStack() as trainings:

        def checkpoint(net: nn.Module) -> Path:
            """Of a training that starts with ``net``; kept until all are through."""
            start = "prune", digest(net), recipe.model_dump(), params.model_dump()
            return trainings.enter_context(resumable(images, *start))

        net, untuned, steps = _pruned_in_steps(base, recipe, params, ratio, images, data.val, checkpoint)
        fresh, as_long = _fresh(net, built, images, params.seed), recipe.model_copy(update={"epochs": params.epochs})
        control = fit(fresh, images, data.val, as_long, width=built.width, seed=params.seed,
                      checkpoint=checkpoint(fresh), doing="training the control")  # fmt: skip
    tuned = steps[-1]
    keeps_weights = (tuned.val_accuracy, -tuned.val_nll) >= (control.val_accuracy, -control.val_nll)
    save_model(replace(base, net=net if keeps_weights else fresh), folder)
    parameters, macs, left = count_parameters(net), count_macs(net, built), channels(net)
    facts = {
        "parameters": parameters,
        "macs": macs,
        "parameters_ratio": round(parameters / before[0], 6),
        "macs_ratio": round(macs / before[1], 6),
        "channel_ratio": ratio,
        "val_accuracy_untuned": round(untuned, 6),
        "tuned_val_nll": round(tuned.val_nll, 6),
        "tuned_val_accuracy": round(tuned.val_accuracy, 6),
        "control_val_nll": round(control.val_nll, 6),
        "control_val_accuracy": round(control.val_accuracy, 6),
        "channels": {name: [count, left[name]] for name, count in channels(base.net).items()},
    }
    facts["kept"] = "tuned" if keeps_weights else "control"
    facts |= fitted_facts(tuned if keeps_weights else control)
    facts["training_flops"] = sum(training.flops for training in (*steps, control))
    write_json(metrics, facts)


def _check_removes(base: Model, params: Prune, ratio: float) -> None:
    """Raise UserError where no channel would go; before anything is trained."""
    from isoflop.models.costs import count_parameters

    net, built = deepcopy(base.net), base.architecture
    channel_remover(net, built, ratio, importance="l2", scope=params.scope, round_to=params.round_to)(None)
    if count_parameters(net) == count_parameters(base.net):
        raise UserError(
            f"params.yaml: prune.round_to: found {params.round_to} with ratio {ratio}, which leaves every layer "
            f"of the network (width {built.width}) as it is; expected a smaller round_to, a larger ratio or a wider one"
        )


def _pruned_in_steps(
    base: Model,
    recipe: Recipe,
    params: Prune,
    ratio: float,
    images: TrainingImages,
    val: Split,
    checkpoint: Callable[[nn.Module], Path],
) -> tuple[nn.Module, float, list[Fitted]]:
    """The pruned network, its validation accuracy before the last fine-tuning, and how each one ended."""
    from isoflop.evaluation.scores import predict_logits
    from isoflop.training.finetuning import said_of
    from isoflop.training.fitting import fit
    from isoflop.training.losses import Teacher

    net = deepcopy(base.net)
    remove = channel_remover(
        net,
        base.architecture,
        ratio,
        importance=params.importance,
        scope=params.scope,
        round_to=params.round_to,
        steps=params.steps,
    )
    teacher = Teacher(deepcopy(base.net), params.temperature, params.alpha) if params.alpha else None
    changes = {
        "learning_rate": params.learning_rate_factor * recipe.learning_rate,
        "progressive_resizing": [1.0],  # it has seen smaller images already
    }
    trained = []
    for step in range(params.steps):
        remove(images)
        recalibrate_batch_norms(net, images)
        untuned = float((predict_logits(net, val).argmax(1) == val.labels).mean())
        tuning = recipe.model_copy(update=changes | {"epochs": _share(params.epochs, params.steps, step)})
        with said_of("prune.learning_rate_factor", params.learning_rate_factor):
            trained.append(fit(net, images, val, tuning, width=base.architecture.width, seed=params.seed + step,
                               teacher=teacher, checkpoint=checkpoint(net),
                               doing=f"fine-tuning, step {step + 1} of {params.steps}"))  # fmt: skip
    return net, untuned, trained


def _share(total: int, parts: int, part: int) -> int:
    """How much of ``total`` falls to one of ``parts`` that are as equal as can be."""
    return total * (part + 1) // parts - total * part // parts


def _ratio(base: Model, params: Prune, macs: int) -> float:
    """The share of channels to remove, the least that reaches the target."""
    from isoflop.models.costs import count_macs

    if params.ratio is not None:
        return params.ratio
    shapes: dict[int, tuple[float, nn.Module]] = {}  # by MACs: rounding makes many ratios one shape
    for ratio in _RATIOS:
        net = deepcopy(base.net)
        # which channels go does not decide how many do, so the cheap importance and no gradients will do
        remove = channel_remover(
            net, base.architecture, ratio, importance="l2", scope=params.scope, round_to=params.round_to
        )
        remove(None)
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
    from isoflop.inference.timing import measured_speedups

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


def _fresh(pruned: nn.Module, built: Architecture, images: TrainingImages, seed: int) -> nn.Module:
    """A network of the pruned one's shape with random weights."""
    from torch import nn

    from isoflop.models.initialization import initialized
    from isoflop.models.resnet import Resnet

    net = initialized(built, images, seed)
    for layer in resize(net, pruned.state_dict()):
        layer.reset_parameters()  # type: ignore[operator]
        if isinstance(net, Resnet) and isinstance(layer, nn.Conv2d):
            nn.init.dirac_(layer.weight.data[: min(layer.weight.shape[:2])])
    nn.init.zeros_(net.get_submodule("head").weight)  # type: ignore[arg-type]
    nn.init.zeros_(net.get_submodule("head").bias)  # type: ignore[arg-type]
    return net
