"""Structured pruning: whole channels go, by their group norm over all layers, then the rest is trained further."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from isoflop.arrays import Images, Split
from isoflop.errors import UserError
from isoflop.model_files import Model, save_model
from isoflop.params import Section
from isoflop.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from isoflop.architecture import Architecture


class Prune(Section):
    """Section ``prune``."""

    ratio: float = Field(gt=0, lt=1)  # of the channels of every layer that can lose some
    round_to: int = Field(ge=1, le=128)  # channels; 16 is what ONNX Runtime's kernels want
    epochs: int = Field(ge=1)  # of fine-tuning
    learning_rate_factor: float = Field(gt=0, le=10)  # times recipe.learning_rate
    seed: int = Field(ge=0)


def prune(
    base: Model, recipe: Recipe, params: Prune, data: Split, views: Images, val: Split, *, folder: Path, metrics: Path
) -> None:
    """Remove channels of ``base``, fine-tune what is left, and write it.

    Raises:
        UserError: nothing can be removed, for the layers are as narrow as ``round_to`` already.
    """
    from isoflop.base_training import fitted_facts
    from isoflop.costs import count_macs, count_parameters
    from isoflop.loading import all_images
    from isoflop.training import fit

    net, built = base.net, base.architecture
    before = count_parameters(net), count_macs(net, built)
    remove_channels(net, built, params.ratio, params.round_to)
    parameters, macs = count_parameters(net), count_macs(net, built)
    if parameters == before[0]:
        raise UserError(
            f"params.yaml: prune.round_to: found {params.round_to} with ratio {params.ratio}, which leaves every layer "
            f"of the base (width {built.width}) as it is; expected a smaller round_to, or a larger ratio or train.width"
        )
    rate = params.learning_rate_factor * recipe.learning_rate
    whole = {"progressive_resizing": [1.0]}  # it has seen smaller images already
    recipe = recipe.model_copy(update={"epochs": params.epochs, "learning_rate": rate} | whole)
    fitted = fit(net, all_images(data, views), val, recipe, width=built.width, seed=params.seed)
    save_model(replace(base, net=net), folder)
    facts = {
        "parameters": parameters,
        "macs": macs,
        "parameters_ratio": round(parameters / before[0], 6),
        "macs_ratio": round(macs / before[1], 6),
    }
    metrics.write_text(json.dumps(facts | fitted_facts(fitted), indent=1) + "\n")


def remove_channels(net: nn.Module, built: Architecture, ratio: float, round_to: int) -> None:
    """Remove the ``ratio`` of channels with the smallest group L2 norm, in place (Fang et al. 2023, DepGraph).

    The same ratio in every layer: a global ranking starves single layers of small networks. Each layer keeps a multiple
    of ``round_to``. Of a vit only the hidden layers of its MLPs are pruned, so that its heads stay whole.
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
    pruner = torch_pruning.pruner.BasePruner(
        net,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=round_to,
        ignored_layers=ignored,
        unwrapped_parameters=unwrapped,
    )
    pruner.step()
