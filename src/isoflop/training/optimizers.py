"""Optimizers and learning rate schedules by name."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from isoflop.training.recipe import Recipe

_ADAM_SHARE = 0.02  # of Muon's rate
_NEWTON_SCHULZ_STEPS = 3
REFERENCE_WIDTH = 16  # the width at which recipe.learning_rate is the rate of every layer


def make_optimizer(net: nn.Module, recipe: Recipe, width: int, precision: torch.dtype = torch.float32) -> Optimizer:
    """The optimizer of ``recipe`` for ``net``, whose hidden layers are ``width`` wide; Muon computes in ``precision``.

    The rates scale with the width by layer, so that one learning rate serves all widths (maximal update
    parametrization: Yang et al. 2022, "Tensor Programs V", table 3). Only matrices and filters decay, never biases and
    norms. With ``muon``, hidden matrices and filters take orthogonalized steps, which need no scaling with the width;
    the head, biases, norms and embeddings take AdamW's.
    """
    kinds = _parameters_by_kind(net)
    rate, decay, wider = recipe.learning_rate, recipe.weight_decay, width / REFERENCE_WIDTH
    if recipe.optimizer == "muon":
        rates = {"rate": rate, "head_rate": rate / wider}
        return Muon(kinds, **rates, momentum=recipe.momentum, decay=decay, precision=precision)
    adaptive = recipe.optimizer in ("adam", "adamw")
    rates = {
        "hidden": rate / wider if adaptive else rate,
        "head": rate / wider,
        "first": rate if adaptive else rate * wider,
        "vectors": rate if adaptive else rate * wider,
    }
    groups: list[dict[str, Any]] = [
        {"params": kinds[kind], "lr": rates[kind], "weight_decay": 0.0 if kind == "vectors" else decay}
        for kind in kinds
        if kinds[kind]
    ]
    if adaptive:
        return (AdamW if recipe.optimizer == "adamw" else Adam)(groups, lr=rate, betas=(recipe.momentum, 0.999))
    with_momentum = recipe.optimizer == "momentum" and recipe.momentum > 0
    return SGD(groups, lr=rate, momentum=recipe.momentum if with_momentum else 0.0, nesterov=with_momentum)


def _parameters_by_kind(net: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trained parameters: matrices and filters that are the first to see the image, hidden or the head, and vectors.

    Embeddings of positions count as first: like its fan-in, their number does not grow with the width.
    """
    layers = [name for name, layer in net.named_modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    kinds: dict[str, list[nn.Parameter]] = {"hidden": [], "head": [], "first": [], "vectors": []}
    for name, weight in net.named_parameters():
        layer = name.rpartition(".")[0].removesuffix(".parametrizations.weight")
        if weight.requires_grad:
            if weight.ndim < 2:
                kind = "vectors"
            elif layer == "head":
                kind = "head"
            else:
                kind = "first" if layer in ("position", layers[0]) else "hidden"
            kinds[kind].append(weight)
    return kinds


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

    A filter [out, in, h, w] counts as the matrix [out, in * h * w]. The step is scaled by sqrt(max(1, rows / columns)),
    which keeps what it does to a layer's outputs the same at every width (see Bernstein 2025, "Deriving Muon"). Filters
    start each step at the Frobenius norm sqrt(out): a norm follows them, so their size does nothing but dilute the
    steps (measured: 1 point of CIFAR-10 after 3 epochs). All other parameters take AdamW's step at ``_ADAM_SHARE`` of
    the rate.
    """

    def __init__(
        self,
        kinds: Mapping[str, Sequence[Tensor]],
        *,
        rate: float,
        head_rate: float,
        momentum: float,
        decay: float,
        precision: torch.dtype = torch.float32,
    ) -> None:
        self._precision = precision
        small = _ADAM_SHARE * rate
        groups = [
            {"params": kinds["hidden"], "lr": rate, "weight_decay": decay, "muon": True},
            {"params": kinds["head"], "lr": _ADAM_SHARE * head_rate, "weight_decay": decay, "muon": False},
            {"params": kinds["first"], "lr": small, "weight_decay": decay, "muon": False},
            {"params": kinds["vectors"], "lr": small, "weight_decay": 0.0, "muon": False},
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
                    if group["muon"] and weight.ndim == 4:
                        weight.mul_(math.sqrt(len(weight)) / weight.norm())
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
        scale = math.sqrt(max(1, matrix.shape[0] / matrix.shape[1]))
        return (scale * orthogonalized(matrix, self._precision)).view(weight.shape)

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


def orthogonalized(matrix: Tensor, precision: torch.dtype = torch.float32) -> Tensor:
    """The matrix with its singular values brought near 1 (0.4 to 1.2), by a quintic Newton-Schulz iteration.

    Coefficients of K. Jordan et al. 2024, chosen for the steepest slope at 0; three steps, as airbench takes.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.shape[0] <= matrix.shape[1]
    x = (matrix if wide else matrix.T).to(precision)
    x = x / (x.norm() + 1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = (x if wide else x.T).to(matrix.dtype)
    return result
