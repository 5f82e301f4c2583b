"""What the loss column of a table holds: a loss, or an accuracy, error, NLL or perplexity that becomes one."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np

from isoflop.scaling.forms import Floats

Metric = Literal["loss", "accuracy", "error", "nll", "perplexity"]
_NAMES: tuple[tuple[Metric, str], ...] = (
    ("perplexity", r"perplexity|ppl"),
    ("accuracy", r"acc|accuracy|top[-_]?[15]|auc|auroc|f1|bleu|recall|precision"),
)


def to_loss(metric: Metric, value: float, scale: float = 1.0) -> float:
    """The loss that the law is fitted to: 1 - accuracy, log perplexity, else the value itself.

    Args:
        scale: 100 if accuracies are in percent, else 1; the loss is then in percent too.
    """
    if metric == "accuracy":
        return scale - value
    if metric == "perplexity":
        return float(np.log(value)) if value > 0 else float("nan")
    return value


def from_loss(metric: str, losses: Floats, scale: float = 1.0) -> Floats:
    """The inverse of ``to_loss`` for losses of any shape."""
    if metric == "accuracy":
        return np.asarray(scale - losses)
    return np.exp(losses) if metric == "perplexity" else losses


def metric_of_name(column: str) -> Metric | None:
    """The metric that the name of a column suggests, such as perplexity for ``val_ppl``; None: a loss or unknown."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column)
    for metric, pattern in _NAMES:
        if re.search(rf"(^|[^a-z])({pattern})($|[^a-z])", words, re.IGNORECASE):
            return metric
    return None
