"""Naming the parameter at fault where a training that has a rate of its own diverges."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def said_of(key: str, value: float) -> Iterator[None]:
    """A training within that diverges names this parameter, and not the recipe's learning rate."""
    from isoflop.training_module import DivergedError

    try:
        yield
    except DivergedError:
        raise DivergedError(f"params.yaml: {key}: found {value}, and the loss is not finite; try a lower one") from None
