"""Sparsity: single weights set to zero, and what is left trained further.

The shapes stay, so ONNX Runtime's dense kernels take as long as before; what is gained is bytes where files are
compressed.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from isoflop.data.arrays import TrainingData
from isoflop.models.model_files import Model, digest, save_model
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.training.privacy import check_not_private
from isoflop.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

_GROUP = 4  # inputs in a row, of which 2 stay


class Sparsify(Section):
    """Section ``sparsify``. ``pattern``: the smallest ``ratio`` of each layer's weights go (``magnitude``; Han et al.
    2015), or the smaller two of every four that lie along its inputs (``2:4``; Mishra et al. 2021), whatever the ratio.
    """

    pattern: Literal["magnitude", "2:4"]  # of the zeros, see above
    ratio: float = Field(gt=0, lt=1)  # of each layer's weights, that become 0
    epochs: int = Field(ge=1)  # of training after it, zeros kept
    learning_rate: float = Field(gt=0, le=1)  # of AdamW, as the Muon's filters keep one size whatever is zero
    seed: int = Field(ge=0)  # of the batches


def sparsify(
    base: Model,
    recipe: Recipe,
    params: Sparsify,
    data: TrainingData,
    *,
    folder: Path,
    metrics: Path,
) -> None:
    """Zero weights of ``base``, in all layers but the head and a whitening stem, train the others further; write it."""
    from torch.nn.utils import prune

    from isoflop.data.loading import all_images
    from isoflop.evaluation.scores import predict_logits
    from isoflop.training.base_training import fitted_facts
    from isoflop.training.finetuning import finetuning, said_of
    from isoflop.training.fitting import fit
    from isoflop.training.resume import resumable

    check_not_private(base.privacy, "sparsify")
    net = deepcopy(base.net)
    layers = _layers(net)
    for layer in layers:
        prune.custom_from_mask(layer, "weight", mask(layer.weight.detach(), params))  # type: ignore[no-untyped-call]
    at_once = float((predict_logits(net, data.val).argmax(1) == data.val.labels).mean())
    tuning = finetuning(recipe, params.learning_rate, params.epochs)
    images = all_images(data.train, data.views)
    start = digest(base.net), recipe.model_dump(), params.model_dump()
    named = said_of("sparsify.learning_rate", params.learning_rate)
    with named, resumable(images, "sparsify", *start) as checkpoint:
        fitted = fit(net, images, data.val, tuning, width=base.architecture.width,
                     seed=params.seed, checkpoint=checkpoint, doing="training further")  # fmt: skip
    for layer in layers:
        prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    facts = {
        "zeros": zeros,
        "zeros_ratio": round(zeros / sum(layer.weight.numel() for layer in layers), 6),
        "val_accuracy_untuned": round(at_once, 6),
    }
    trained = deepcopy(base.net)
    trained.load_state_dict(net.state_dict())  # whose order is another after the masks
    save_model(replace(base, net=trained), folder)
    write_json(metrics, facts | fitted_facts(fitted))


def mask(weight: Tensor, params: Sparsify) -> Tensor:
    """1 where a weight stays, of the shape of ``weight`` [outputs, inputs, ...].

    2:4 counts along the inputs; where their number is no multiple of four, what is left over stays.
    """
    import torch

    if params.pattern == "magnitude":
        gone = round(params.ratio * weight.numel())
        order = weight.abs().flatten().argsort(stable=True)
        kept = torch.ones(weight.numel())
        kept[order[:gone]] = 0
        return kept.view_as(weight)
    rows_RI = weight.movedim(1, -1).reshape(-1, weight.shape[1])
    whole = rows_RI.shape[1] - rows_RI.shape[1] % _GROUP
    groups_RGF = rows_RI[:, :whole].abs().reshape(len(rows_RI), -1, _GROUP)
    smallest = groups_RGF.argsort(dim=-1, stable=True)[..., : _GROUP // 2]
    kept_RI = torch.ones_like(rows_RI)
    kept_RI[:, :whole] = torch.ones_like(groups_RGF).scatter(-1, smallest, 0).reshape(len(rows_RI), whole)
    return kept_RI.reshape(weight.movedim(1, -1).shape).movedim(-1, 1).contiguous()


def _layers(net: nn.Module) -> list[nn.Conv2d | nn.Linear]:
    from torch import nn

    whole = [net.get_submodule(name) for name, _ in net.named_children() if name in ("head", "stem")]
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear) and layer not in whole]
