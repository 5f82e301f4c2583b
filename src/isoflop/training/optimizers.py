"""Optimizers, their learning rate for each layer, and learning rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from isoflop.training.recipe import Recipe

_ADAM_SHARE = 0.02  # learning rate of Muon's AdamW steps, as a fraction of its own
_NEWTON_SCHULZ_STEPS = 3
REFERENCE_WIDTH = 16  # the width at which recipe.learning_rate applies to every layer unscaled


def make_optimizer(net: nn.Module, recipe: Recipe, width: int, precision: torch.dtype = torch.float32) -> Optimizer:
    """Return the optimizer of ``recipe`` for ``net``, with a learning rate for each kind of layer.

    The learning rate of the head is ``recipe.learning_rate`` * 16 / ``width``; with ``muon`` it is 0.02 times that.

    Learning rates scale with the width by layer, so that one ``recipe.learning_rate`` serves all widths (maximal update
    parametrization: Yang et al. 2022, "Tensor Programs V", table 3). Weight decay applies to matrices and filters, not
    to biases and norms. With ``muon``, hidden matrices and filters take orthogonalized steps, which need no scaling
    with the width; the head, biases, norms and embeddings take AdamW steps.

    Args:
        width: of the network's architecture.
        precision: in which Muon orthogonalizes.
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
    return first_order(groups, recipe)


def first_order(groups: list[dict[str, Any]], recipe: Recipe) -> Optimizer:
    """Return the optimizer of ``recipe``, which is not muon, for ``groups`` of parameters."""
    rate = recipe.learning_rate
    if recipe.optimizer in ("adam", "adamw"):
        return (AdamW if recipe.optimizer == "adamw" else Adam)(groups, lr=rate, betas=(recipe.momentum, 0.999))
    with_momentum = recipe.optimizer == "momentum" and recipe.momentum > 0
    return SGD(groups, lr=rate, momentum=recipe.momentum if with_momentum else 0.0, nesterov=with_momentum)


def _parameters_by_kind(net: nn.Module) -> dict[str, list[nn.Parameter]]:
    """The trainable parameters by kind: matrices and filters of the first, hidden and head layers, and vectors.

    Position embeddings and depthwise filters count as first: their number or fan-in, like the fan-in of the first
    layer, does not grow with the width.
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
                depthwise = weight.ndim == 4 and weight.shape[1] == 1
                kind = "first" if depthwise or layer in ("position", layers[0]) else "hidden"
            kinds[kind].append(weight)
    return kinds


def learning_rate_factor(recipe: Recipe, progress: float) -> float:
    """Return the factor of the learning rate after the fraction ``progress`` of the training.

    A linear warm-up from 0.1 to 1, then ``recipe.schedule``: constant, or decay to 0.
    """
    warmup = recipe.warmup_fraction
    if progress < warmup:
        return 0.1 + 0.9 * progress / warmup
    rest = min(1.0, (progress - warmup) / (1 - warmup))
    if recipe.schedule == "linear":
        return 1 - rest
    return 0.5 * (1 + math.cos(math.pi * rest)) if recipe.schedule == "cosine" else 1.0


class Muon(Optimizer):
    """Muon (K. Jordan et al. 2024): momentum with an orthogonalized step, for hidden matrices and filters.

    A filter [out, in, h, w] is treated as the matrix [out, in * h * w]. The step is scaled by
    sqrt(max(1, rows / columns)), so that it changes a layer's outputs equally at every width (Bernstein 2025, "Deriving
    Muon"). Filters are rescaled to the Frobenius norm sqrt(out) before each step: a batch norm follows them, so a
    larger norm only makes steps relatively smaller (measured: 1 pp of CIFAR-10 accuracy after 3 epochs). All other
    parameters take AdamW steps at ``_ADAM_SHARE`` of the learning rate.
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
    """Return the matrix with its singular values moved close to 1, by a quintic Newton-Schulz iteration.

    Those above 2 % of the Frobenius norm end between 0.68 and 1.21; smaller ones grow by a factor of up to 41.

    The coefficients are those of K. Jordan et al. 2024, chosen for the steepest slope at 0; three steps, as in
    airbench.
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
