"""Training a trained network further without changing its scale or the size of its images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from isoflop.training.recipe import Recipe


def finetuning(recipe: Recipe, learning_rate: float, epochs: int) -> Recipe:
    """``recipe`` with AdamW, whatever its own optimizer: Muon brings filters to one size each step, which would undo
    zeros and the ranges of rounded weights. It has seen smaller images already."""
    changes = {
        "optimizer": "adamw",
        "momentum": 0.9,
        "learning_rate": learning_rate,
        "epochs": epochs,
        "ema_decay": 0.0,
        "progressive_resizing": [1.0],
    }
    return recipe.model_copy(update=changes)


@contextlib.contextmanager
def said_of(key: str, value: float) -> Iterator[None]:
    """A training within that diverges names this parameter, and not the recipe's learning rate."""
    from isoflop.training.lightning_module import DivergedError

    try:
        yield
    except DivergedError:
        raise DivergedError(f"params.yaml: {key}: found {value}, and the loss is not finite; try a lower one") from None
