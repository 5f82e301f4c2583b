"""Optimizers and learning rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from isoflop.recipe import Recipe


def make_optimizer(net: nn.Module, recipe: Recipe) -> Optimizer:
    """The optimizer of ``recipe`` for ``net``. Only matrices and filters decay, never biases and norms.

    With ``muon``, hidden matrices and filters take Muon's orthogonalized steps at ``learning_rate``; the head, biases,
    norms and embeddings take AdamW's at a tenth of it.
    """
    rate, decay = recipe.learning_rate, recipe.weight_decay
    matrices = [weight for weight in net.parameters() if weight.ndim >= 2]
    others = [weight for weight in net.parameters() if weight.ndim < 2]
    if recipe.optimizer == "muon":
        hidden = {
            id(module.weight)
            for name, module in net.named_modules()
            if isinstance(module, nn.Linear | nn.Conv2d) and name not in ("head", "patches")
        }
        return Muon(
            [weight for weight in matrices if id(weight) in hidden],
            [weight for weight in matrices if id(weight) not in hidden],
            others,
            rate=rate,
            momentum=recipe.momentum,
            decay=decay,
        )
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": decay},
        {"params": others, "weight_decay": 0.0},
    ]
    if recipe.optimizer in ("adam", "adamw"):
        kind = AdamW if recipe.optimizer == "adamw" else Adam
        return kind(groups, lr=rate, betas=(recipe.momentum, 0.999))
    with_momentum = recipe.optimizer == "momentum" and recipe.momentum > 0
    return SGD(groups, lr=rate, momentum=recipe.momentum if with_momentum else 0.0, nesterov=with_momentum)


def learning_rate_factor(recipe: Recipe, progress: float) -> float:
    """What the learning rate is multiplied with when the share ``progress`` of the training is behind.

    A linear warm-up from a tenth, then the schedule, down to 0 where it is not constant.
    """
    warmup = recipe.warmup_fraction
    if progress < warmup:
        return 0.1 + 0.9 * progress / warmup
    rest = min(1.0, (progress - warmup) / (1 - warmup))
    if recipe.schedule == "linear":
        return 1 - rest
    return 0.5 * (1 + math.cos(math.pi * rest)) if recipe.schedule == "cosine" else 1.0


class Muon(Optimizer):
    """Muon (K. Jordan et al. 2024): momentum whose step is orthogonalized, for hidden matrices and filters.

    A filter [out, in, h, w] counts as the matrix [out, in * h * w]. The step is scaled by 0.2 sqrt(max(rows, columns)),
    so that its root mean square is that of an AdamW step (Liu et al. 2025, "Muon is Scalable for LLM Training") and one
    learning rate serves every shape. All other parameters take AdamW's step at a tenth of the rate.
    """

    def __init__(
        self,
        hidden: Iterable[Tensor],
        decayed: Iterable[Tensor],
        others: Iterable[Tensor],
        *,
        rate: float,
        momentum: float,
        decay: float,
    ) -> None:
        groups = [
            {"params": list(hidden), "lr": rate, "weight_decay": decay, "muon": True},
            {"params": list(decayed), "lr": rate / 10, "weight_decay": decay, "muon": False},
            {"params": list(others), "lr": rate / 10, "weight_decay": 0.0, "muon": False},
        ]
        super().__init__([group for group in groups if group["params"]], {"momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(1 - group["lr"] * group["weight_decay"])
                    step = self._muon_step if group["muon"] else self._adam_step
                    weight.sub_(group["lr"] * step(weight, weight.grad, group["momentum"]))
        return loss

    def _muon_step(self, weight: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[weight]
        if not state:
            state["momentum"] = torch.zeros_like(weight)
        state["momentum"].lerp_(gradient, 1 - momentum)
        ahead = gradient.lerp(state["momentum"], momentum)  # Nesterov
        matrix = ahead.reshape(len(weight), -1)
        scale = 0.2 * math.sqrt(max(matrix.shape))
        return (scale * orthogonalized(matrix)).view(weight.shape)

    def _adam_step(self, weight: Tensor, gradient: Tensor, momentum: float) -> Tensor:
        state = self.state[weight]
        if not state:
            state["mean"], state["square"] = torch.zeros_like(weight), torch.zeros_like(weight)
            state["steps"] = 0
        state["steps"] += 1
        state["mean"].lerp_(gradient, 1 - momentum)
        state["square"].lerp_(gradient.square(), 1 - 0.999)
        mean = state["mean"] / (1 - momentum ** state["steps"])
        square = state["square"] / (1 - 0.999 ** state["steps"])
        step: Tensor = mean / (square.sqrt() + 1e-8)
        return step


def orthogonalized(matrix: Tensor, steps: int = 5) -> Tensor:
    """The nearest matrix with singular values near 1 (0.7 to 1.2), by a quintic Newton-Schulz iteration.

    Coefficients of K. Jordan et al. 2024, chosen for the steepest slope at 0.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    x = matrix.float()
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x if wide else x.T).to(matrix.dtype)
    return result
