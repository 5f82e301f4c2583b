"""Fine-tuning: the recipe that trains a trained network further."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from isoflop.training.recipe import Recipe


def finetuning(recipe: Recipe, learning_rate: float, epochs: int) -> Recipe:
    """Return ``recipe`` with AdamW and without progressive resizing or moving average.

    Muon rescales filters at each step, which would move pruned weights away from 0 and weights out of their
    quantization range.
    """
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
    """Report a training that diverges inside the block as a mistake in ``key``, not in ``recipe.learning_rate``.

    Raises:
        DivergedError: the loss is not finite.
    """
    from isoflop.training.lightning_module import DivergedError

    try:
        yield
    except DivergedError:
        raise DivergedError(
            f"params.yaml: {key}: got {value}, and the loss is not finite; fix: a lower learning rate"
        ) from None
