"""Sparsity: set single weights to zero, then fine-tune the others.

Shapes stay the same, so ONNX Runtime's dense kernels are no faster. A sparse file is smaller once it is compressed.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from isoflop.compression.method import Job, Variant
from isoflop.runtime.params import RandomSeed, Section

if TYPE_CHECKING:
    from torch import Tensor, nn

_GROUP = 4  # consecutive inputs, of which 2:4 keeps 2


class Sparsify(Section):
    """Section ``sparsify``. ``pattern``: ``magnitude`` zeroes the smallest ``ratio`` of each layer's weights (Han et
    al. 2015); ``2:4`` zeroes the smaller two of every four weights along the inputs (Mishra et al. 2021) and ignores
    ``ratio``."""

    pattern: Literal["magnitude", "2:4"]  # which weights become zero, see above
    ratio: float = Field(gt=0, lt=1)  # share of each layer's weights that become zero
    epochs: int = Field(ge=1, le=100_000)  # of fine-tuning; zeros stay zero
    learning_rate: float = Field(gt=0, le=1)  # of AdamW; Muon would rescale every filter, whatever its zeros
    seed: RandomSeed  # seed of the batches


def sparsify(job: Job[Sparsify]) -> Variant:
    """Zero weights in all layers but the head and a whitening stem, and fine-tune the others."""
    from torch.nn.utils import prune

    from isoflop.training.finetuning import finetuning

    params, net = job.params, deepcopy(job.base.net)
    layers = _layers(net)
    for layer in layers:
        prune.custom_from_mask(layer, "weight", mask(layer.weight.detach(), params))  # type: ignore[no-untyped-call]
    untuned = job.val_accuracy(net)
    tuning = finetuning(job.recipe, params.learning_rate, params.epochs)
    fitted = job.fit(net, tuning, seed=params.seed, doing="fine-tuning", rate_key="learning_rate")
    for layer in layers:
        prune.remove(layer, "weight")  # type: ignore[no-untyped-call]
    zeros = sum(int((layer.weight == 0).sum()) for layer in layers)
    facts = {
        "zeros": zeros,
        "zeros_ratio": round(zeros / sum(layer.weight.numel() for layer in layers), 6),
        "val_accuracy_untuned": round(untuned, 6),
    }
    return Variant(replace(job.base, net=net), fitted, facts)


def mask(weight: Tensor, params: Sparsify) -> Tensor:
    """1 where a weight is kept and 0 elsewhere, in the shape of ``weight`` [outputs, inputs, ...].

    2:4 groups the weights along the inputs. If their number is no multiple of four, the remainder is kept.
    """
    import torch

    if params.pattern == "magnitude":
        zeros = round(params.ratio * weight.numel())
        order = weight.abs().flatten().argsort(stable=True)
        kept = torch.ones(weight.numel())
        kept[order[:zeros]] = 0
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

    dense = [net.get_submodule(name) for name, _ in net.named_children() if name in ("head", "stem")]
    return [layer for layer in net.modules() if isinstance(layer, nn.Conv2d | nn.Linear) and layer not in dense]
