"""What a training minimizes: the loss on the labels, and that on the outputs of a teacher."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from isoflop.recipe import Recipe


@dataclass(frozen=True)
class Teacher:
    """A network to imitate (Hinton et al. 2015): weight ``alpha`` on its softened outputs, 1 - alpha on the labels."""

    net: nn.Module
    temperature: float
    alpha: float


def supervised_loss(logits_BK: Tensor, labels_B: Tensor, recipe: Recipe) -> Tensor:
    """Losses [B]: cross-entropy with label smoothing, or the mean squared error of the logits to one-hot labels."""
    if recipe.loss == "mse":
        wanted_BK = functional.one_hot(labels_B, logits_BK.shape[1]).float()
        return functional.mse_loss(logits_BK, wanted_BK, reduction="none").mean(1)
    return functional.cross_entropy(logits_BK, labels_B, label_smoothing=recipe.label_smoothing, reduction="none")


def distillation_loss(logits_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """Losses [B]: T² KL(teacher / T || student / T) (Hinton et al. 2015, section 2)."""
    student_BK = functional.log_softmax(logits_BK / temperature, dim=1)
    wanted_BK = functional.log_softmax(teacher_BK / temperature, dim=1)
    return temperature**2 * functional.kl_div(student_BK, wanted_BK, reduction="none", log_target=True).sum(1)
