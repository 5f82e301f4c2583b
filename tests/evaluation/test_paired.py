"""Paired comparison: changed predictions counted by hand, coverage of the interval, and the worst class."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from isoflop.data.arrays import Labels
from isoflop.evaluation.paired import class_changes, paired
from isoflop.inference.onnx_files import Floats


def logits(predicted_N: Labels, classes: int = 3) -> Floats:
    return np.eye(classes, dtype=np.float32)[predicted_N]


def test_changed_predictions_are_counted_both_ways() -> None:
    labels = np.array([0, 0, 1, 1, 2, 2, 0, 1])
    base = np.array([0, 0, 1, 2, 2, 0, 1, 1])  # 3 wrong
    variant = np.array([0, 1, 2, 1, 2, 0, 1, 1])  # loses 2, gains 1
    found = paired(logits(base), logits(variant), labels)
    assert (found.lost, found.gained) == (2, 1)
    assert found.difference == pytest.approx(-1 / 8)
    assert found.low < -1 / 8 < found.high
    assert found.p_value == pytest.approx(2 * binom.cdf(1, 3, 0.5))


def test_equal_predictions_leave_a_narrow_interval_about_nothing() -> None:
    labels = np.arange(3000) % 3
    found = paired(logits(labels), logits(labels), labels)
    assert (found.gained, found.lost, found.difference, found.p_value) == (0, 0, 0.0, 1.0)
    assert -0.001 < found.low < 0 < found.high < 0.001
    with pytest.raises(ValueError, match="no images"):
        paired(logits(labels[:0]), logits(labels[:0]), labels[:0])


def test_the_interval_covers_a_known_difference() -> None:
    """300 images of which the variant truly loses 5 % and gains 2 %: 95 % of the intervals contain -3 pp."""
    rng, labels = np.random.default_rng(0), np.zeros(300, np.int64)
    held = 0
    for _ in range(400):
        kind = rng.choice(4, 300, p=[0.05, 0.02, 0.83, 0.10])  # lost, gained, both right, both wrong
        base, variant = np.isin(kind, (0, 2)), np.isin(kind, (1, 2))
        found = paired(logits(np.where(base, 0, 1)), logits(np.where(variant, 0, 1)), labels)
        held += found.low <= -0.03 <= found.high
    assert 0.925 <= held / 400 <= 0.98


def test_the_class_that_lost_most_comes_first() -> None:
    labels = np.array([0, 0, 1, 1])
    changes = class_changes(logits(np.array([0, 0, 1, 2])), logits(np.array([0, 1, 1, 1])), labels, ["a", "b", "c"])
    assert changes == {"a": -0.5, "b": 0.5}
