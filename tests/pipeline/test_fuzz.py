"""A few of the hostile inputs that `python -m benchmarks.fuzz` makes by the hundred thousand."""

from __future__ import annotations

import pytest

from benchmarks.fuzz import TARGETS, run_target


@pytest.mark.parametrize("target", TARGETS)
def test_hostile_input_is_taken_or_refused_and_nothing_else(target: str) -> None:
    seeds, feed = TARGETS[target][0]()
    for seed in seeds:
        feed(seed)  # whole, it is taken
    result, _ = run_target(target, first=0, count=20)
    assert result.failures == [] and result.taken + result.refused == 20
