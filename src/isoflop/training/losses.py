"""Losses: supervised, by the labels, and distillation, by the outputs and features of a teacher."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isoflop.data.arrays import Labels
from isoflop.training.recipe import Recipe

_EFFECTIVE = 0.999  # beta of the effective number of images


@dataclass(frozen=True)
class Teacher:
    """A network to imitate (Hinton et al. 2015).

    The loss is ``alpha`` * distillation + (1 - ``alpha``) * supervised + ``features`` * similarity.
    """

    net: nn.Module
    temperature: float
    alpha: float
    features: float = 0.0


@dataclass(frozen=True)
class ClassBalance:
    """How a training on classes of uneven size treats them: weights of the losses and offsets of the logits, [K]."""

    weights_K: Tensor
    offsets_K: Tensor


def class_balance(labels_N: Labels, classes: int, recipe: Recipe) -> ClassBalance | None:
    """Return what the recipe does for classes of uneven size; None: nothing.

    The weights of all training images have mean 1. ``balanced``: inverse to the number of images n of the class;
    ``effective``: inverse to (1 - beta^n) / (1 - beta) with beta 0.999 (Cui et al. 2019, "Class-Balanced Loss Based on
    Effective Number of Samples", eq. 2). Offsets: Menon et al. 2021, "Long-tail learning via logit adjustment", eq. 10.
    """
    if recipe.class_weights == "none" and not recipe.logit_adjustment:
        return None
    images_K = np.bincount(labels_N, minlength=classes).astype(np.float64)
    numbers_K = {
        "none": np.ones(classes),
        "balanced": images_K,
        "effective": (1 - _EFFECTIVE**images_K) / (1 - _EFFECTIVE),
    }[recipe.class_weights]
    weights_K = np.divide(1, numbers_K, out=np.zeros(classes), where=images_K > 0)
    weights_K *= images_K.sum() / (weights_K * images_K).sum()
    offsets_K = recipe.logit_adjustment * np.log(np.maximum(images_K, 1) / images_K.sum())
    return ClassBalance(torch.from_numpy(weights_K), torch.from_numpy(offsets_K))


def supervised_loss(logits_BK: Tensor, labels_B: Tensor, recipe: Recipe, classes: ClassBalance | None = None) -> Tensor:
    """Return losses [B]: cross-entropy with label smoothing, or the mean squared error of logits to one-hot labels.

    Args:
        classes: weights and offsets by class; None: none.
    """
    if classes:
        logits_BK = logits_BK + classes.offsets_K.to(logits_BK)
    if recipe.loss == "mse":
        wanted_BK = functional.one_hot(labels_B, logits_BK.shape[1]).float()
        loss_B = functional.mse_loss(logits_BK, wanted_BK, reduction="none").mean(1)
    else:
        smoothing = recipe.label_smoothing
        loss_B = functional.cross_entropy(logits_BK, labels_B, label_smoothing=smoothing, reduction="none")
    return loss_B * classes.weights_K.to(loss_B)[labels_B] if classes else loss_B


def distillation_loss(logits_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """Return losses [B]: T² KL(softmax(teacher / T) || softmax(student / T)) (Hinton et al. 2015, section 2)."""
    student_BK = functional.log_softmax(logits_BK / temperature, dim=1)
    wanted_BK = functional.log_softmax(teacher_BK / temperature, dim=1)
    return temperature**2 * functional.kl_div(student_BK, wanted_BK, reduction="none", log_target=True).sum(1)


def similarity_loss(features_BF: Tensor, teacher_BG: Tensor) -> Tensor:
    """Return losses [B]: squared differences of the student's and the teacher's similarity of each image to the batch.

    Tung and Mori 2019, "Similarity-Preserving Knowledge Distillation", eq. 2 to 4, summed over a row. The two feature
    sizes F and G may differ, so no projection between them has to be learned.
    """
    ours_BB, theirs_BB = (functional.normalize(x @ x.T, dim=1) for x in (features_BF.float(), teacher_BG.float()))
    return (ours_BB - theirs_BB).square().sum(1)


def logits_and_features(net: nn.Module, images_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Return the logits [B, K] of ``net`` and the features [B, F] that its head computes them from."""
    features: list[Tensor] = []
    hook = net.get_submodule("head").register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    try:
        logits_BK = net(images_BCHW)
    finally:
        hook.remove()
    return logits_BK.float(), features[0]
