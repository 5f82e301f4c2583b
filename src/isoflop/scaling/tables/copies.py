"""Rows of a table that repeat another row: exported twice, perhaps with fewer digits. A repeated run is no copy."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from isoflop.scaling.tables.runs import Run

_LOSS_DIGITS, _SIZE_DIGITS = 4, 3  # at least, of the shorter of two numbers; fewer may agree by chance
_CLOSE = 1e-3  # relative difference of losses, beyond which no rounding to four digits makes them equal
_NEAR = 0.01  # of log sizes, likewise for three digits
_AXES = ("parameters", "unique_samples", "seen_samples")


def copies(rows: Sequence[Run | None]) -> set[int]:
    """Indices of the rows that are copies of an earlier one: the same seed, sizes and loss but for rounding.

    In a table without seeds, runs of one configuration whose losses agree to the last digit are taken for copies too:
    two trainings hardly ever agree to four digits. Copies that counted as runs would make the noise far too small.
    """
    order = sorted(((index, run) for index, run in enumerate(rows) if run is not None), key=lambda one: one[1].loss)
    losses = np.array([run.loss for _, run in order])
    sizes = np.log(np.array([[getattr(run, axis) for axis in _AXES] for _, run in order]).reshape(-1, len(_AXES)))
    found: set[int] = set()
    for step in range(1, len(order)):
        near = losses[step:] <= (1 + _CLOSE) * losses[:-step]
        if not near.any():
            break
        near &= np.abs(sizes[step:] - sizes[:-step]).max(axis=1) < _NEAR
        for place in np.flatnonzero(near):
            (first, one), (second, other) = order[place], order[place + step]
            if _same(one, other):
                found.add(max(first, second))
    return found


def _same(one: Run, other: Run) -> bool:
    return (
        one.seed == other.seed
        and _equal(one.loss, other.loss, _LOSS_DIGITS)
        and all(_equal(getattr(one, axis), getattr(other, axis), _SIZE_DIGITS) for axis in _AXES)
    )


def _equal(one: float, other: float, least: int) -> bool:
    """Whether two numbers are equal, or become so if the longer is rounded to the digits of the shorter."""
    if one == other:
        return True
    digits = min(_digits(one), _digits(other))
    return digits >= least and f"{one:.{digits - 1}e}" == f"{other:.{digits - 1}e}"


def _digits(value: float) -> int:
    """Significant digits of the shortest decimal that reads as this number."""
    return len(f"{value!r}".partition("e")[0].replace(".", "").lstrip("0-").rstrip("0")) or 1
