"""Structured pruning: remove the least important channels of a model, then fine-tune the rest."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from isoflop.compression.channel_removal import channel_remover, channels, recalibrate_batch_norms
from isoflop.compression.method import Job, Variant, best, scores_by_name
from isoflop.compression.pruning_ratio import channel_ratio
from isoflop.models.model_files import Model, resize
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import RandomSeed, Section

if TYPE_CHECKING:
    from torch import nn

    from isoflop.data.loading import TrainingImages
    from isoflop.models.architecture import Architecture
    from isoflop.training.fitting import Fitted


class Prune(Section):
    """Section ``prune``. Set one of ``ratio``, ``macs_ratio`` and ``target_speedup``; the others are null.

    ``importance`` of a channel: ``l2`` is the norm of its weights over all layers that share it (Fang et al. 2023,
    DepGraph); ``taylor`` is a first-order estimate of the loss that its removal would cost (Molchanov et al. 2019).
    ``scope``: with ``layer`` each layer loses the same share; with ``global`` the least important channels of the whole
    network go, which can leave single layers of small networks too narrow.
    """

    ratio: float | None = Field(gt=0, lt=1)  # share of the channels to remove from every layer that can be narrowed
    macs_ratio: float | None = Field(gt=0, lt=1)  # largest share of the multiply-accumulates to keep
    target_speedup: float | None = Field(gt=1, le=1000)  # lowest speed-up in ONNX Runtime at batch size 1 on one thread
    importance: Literal["l2", "taylor"]  # how a channel is ranked, see above
    scope: Literal["layer", "global"]  # compare channels within each layer, or across the network
    round_to: int = Field(ge=1, le=128)  # keep a multiple of this many channels; ONNX Runtime's kernels prefer 16
    steps: int = Field(ge=1, le=100)  # number of removals; each is followed by fine-tuning
    epochs: int = Field(ge=1, le=100_000)  # of fine-tuning, split evenly over the steps
    learning_rate_factor: float = Field(gt=0, le=10)  # of fine-tuning, times recipe.learning_rate
    alpha: float = Field(ge=0, le=1)  # weight of the unpruned model's outputs; the labels have 1 - alpha
    temperature: float = Field(gt=0, le=100)  # divides the logits of both networks
    seed: RandomSeed  # seed of the batches and of the control's weights

    @model_validator(mode="after")
    def _one_target(self) -> Prune:
        targets = ("ratio", "macs_ratio", "target_speedup")
        given = [name for name in targets if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"got {', '.join(given) or 'none'} of {', '.join(targets)}, expected one")
        if self.ratio is None and self.scope == "global" and (self.importance, self.steps) != ("l2", 1):
            raise ValueError(
                f"got scope global with {given[0]}, importance {self.importance} and {self.steps} steps, expected "
                "importance l2 and 1 step: otherwise the shapes that a ratio leads to are not known before training"
            )
        if self.steps > self.epochs:
            raise ValueError(f"got {self.steps} steps and {self.epochs} epochs, expected at least one epoch per step")
        return self


def prune(job: Job[Prune]) -> Variant:
    """Remove channels and fine-tune, with the unpruned model as teacher if ``alpha`` is above 0.

    The control is a network of the same shape, trained from random weights for as many epochs at the recipe's own
    rate (Liu et al. 2019, "Rethinking the Value of Network Pruning"). If it scores better on the validation split, the
    base's weights were not worth keeping, and the control is returned.

    Raises:
        UserError: no channel would be removed, because every layer already has too few for ``round_to``, or the target
            cannot be reached.
    """
    base, params = job.base, job.params
    ratio = channel_ratio(
        base, params.ratio, params.macs_ratio, params.target_speedup, scope=params.scope, round_to=params.round_to
    )
    _check_removes(base, params, ratio)
    nets: dict[str, nn.Module] = {}
    nets["tuned"], untuned, fitted = _pruned_in_steps(job, ratio)
    nets["control"] = _fresh(nets["tuned"], base.architecture, job.images, params.seed)
    as_long = job.recipe.model_copy(update={"epochs": params.epochs})
    control = job.fit(nets["control"], as_long, seed=params.seed, doing="training the control")
    trainings = {"tuned": fitted, "control": control}
    kept = best(trainings)
    facts = {
        **_costs(nets["tuned"], base),
        "channel_ratio": ratio,
        "val_accuracy_untuned": round(untuned, 6),
        **scores_by_name(trainings),
        "channels": _channels_before_and_after(base.net, nets["tuned"]),
        "kept": kept,
    }
    pretrained = base.pretrained if kept == "tuned" else None
    return Variant(replace(base, net=nets[kept], pretrained=pretrained), trainings[kept], facts)


def _check_removes(base: Model, params: Prune, ratio: float) -> None:
    """Raise UserError if no channel would be removed. Runs before any training."""
    from isoflop.models.costs import count_parameters

    net, built = deepcopy(base.net), base.architecture
    channel_remover(net, built, ratio, importance="l2", scope=params.scope, round_to=params.round_to)(None)
    if count_parameters(net) == count_parameters(base.net):
        raise UserError(
            f"params.yaml: prune.round_to: got {params.round_to} with ratio {ratio}, which removes no channel of a "
            f"network of width {built.width}, expected at least one; fix: lower round_to, raise the ratio or prune a "
            "wider network"
        )


def _pruned_in_steps(job: Job[Prune], ratio: float) -> tuple[nn.Module, float, Fitted]:
    """The pruned network, its validation accuracy before the last fine-tuning, and that fine-tuning."""
    from isoflop.training.losses import Teacher

    params, base = job.params, job.base
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
        "learning_rate": params.learning_rate_factor * job.recipe.learning_rate,
        "progressive_resizing": [1.0],  # the base has already been trained on the smaller images
    }
    for step in range(params.steps):
        remove(job.images)
        recalibrate_batch_norms(net, job.images)
        untuned = job.val_accuracy(net)
        tuning = job.recipe.model_copy(update=changes | {"epochs": _share(params.epochs, params.steps, step)})
        fitted = job.fit(net, tuning, seed=params.seed + step, teacher=teacher, rate_key="learning_rate_factor",
                         doing=f"fine-tuning, step {step + 1} of {params.steps}")  # fmt: skip
    return net, untuned, fitted


def _share(total: int, parts: int, part: int) -> int:
    """Size of part number ``part`` if ``total`` is split into ``parts`` that differ by at most 1."""
    return total * (part + 1) // parts - total * part // parts


def _fresh(pruned: nn.Module, built: Architecture, images: TrainingImages, seed: int) -> nn.Module:
    """A network of the shape of ``pruned`` with random weights."""
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


def _costs(pruned: nn.Module, base: Model) -> dict[str, float]:
    """Parameters and MACs of the pruned network, absolute and as shares of the base's."""
    from isoflop.models.costs import count_macs, count_parameters

    parameters, macs = count_parameters(pruned), count_macs(pruned, base.architecture)
    return {
        "parameters": parameters,
        "macs": macs,
        "parameters_ratio": round(parameters / count_parameters(base.net), 6),
        "macs_ratio": round(macs / count_macs(base.net, base.architecture), 6),
    }


def _channels_before_and_after(base: nn.Module, pruned: nn.Module) -> dict[str, list[int]]:
    """[outputs in the base, outputs in the pruned network] of every layer, by name."""
    left = channels(pruned)
    return {name: [count, left[name]] for name, count in channels(base).items()}
