"""Losses: supervised, by the labels, and distillation, by the outputs and features of a teacher."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from isoflop.training.recipe import Recipe


@dataclass(frozen=True)
class Teacher:
    """A network to imitate (Hinton et al. 2015).

    The loss is ``alpha`` * distillation + (1 - ``alpha``) * supervised + ``features`` * similarity.
    """

    net: nn.Module
    temperature: float
    alpha: float
    features: float = 0.0


def supervised_loss(logits_BK: Tensor, labels_B: Tensor, recipe: Recipe) -> Tensor:
    """Return losses [B]: cross-entropy with label smoothing, or the mean squared error of logits to one-hot labels."""
    if recipe.loss == "mse":
        wanted_BK = functional.one_hot(labels_B, logits_BK.shape[1]).float()
        return functional.mse_loss(logits_BK, wanted_BK, reduction="none").mean(1)
    return functional.cross_entropy(logits_BK, labels_B, label_smoothing=recipe.label_smoothing, reduction="none")


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
