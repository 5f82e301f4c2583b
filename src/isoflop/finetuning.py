"""Training a trained network further without changing its scale or the size of its images."""

from __future__ import annotations

from isoflop.recipe import Recipe


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
