"""How far a law may be extrapolated: the range of its runs on each axis, and the distance to which backtests held."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from isoflop.scaling.forms import Floats
from isoflop.scaling.tables.runs import SAME

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Predictions:
    """Losses of new runs at M points, with the 95 % prediction interval of one run; nan where there is no interval."""

    predicted: Floats  # [M]
    low: Floats  # [M]
    high: Floats  # [M]
    trusted: Bools  # [M] whether the point lies within the distance to which backtests held


@dataclass(frozen=True)
class Reach:
    """The range of the runs by axis, and the factor beyond its upper end to which backtests held.

    A factor of 1 means that no backtest held, so the law is trusted within the range of its runs only. Below the range
    no backtest extrapolates, so nothing is trusted there. Axes that the runs do not vary have a range of one level.
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # least and largest level
    trusted_to: Mapping[str, float] = field(default_factory=dict)  # of each axis that the runs vary

    def within_runs(self) -> Reach:
        """The same ranges, with no trust beyond them."""
        return Reach(self.ranges, dict.fromkeys(self.trusted_to, 1.0))

    def distance(self, axis: str, levels: Floats | float) -> Floats:
        """The factor [M] by which levels lie outside the range of the runs; 1 inside."""
        low, high = self.ranges[axis]
        here = np.atleast_1d(np.asarray(levels, np.float64))
        return np.maximum(1.0, np.maximum(here / high, low / here))

    def trusts(self, levels: Mapping[str, Floats | float]) -> Bools:
        """Whether each of M points lies within the distance to which backtests held.

        All axes in ``levels`` count that the runs vary, and sizes and unique samples that they do not vary. Samples
        seen and FLOPs follow from these.
        """
        axes = {*self.trusted_to, *(("parameters", "unique_samples") if "flops" not in self.trusted_to else ())}
        trusted = np.array(True)
        for axis in axes & self.ranges.keys() & levels.keys():
            here = np.atleast_1d(np.asarray(levels[axis], np.float64))
            low, high = self.ranges[axis]
            inside = (here >= low / SAME) & (here <= SAME * high * self.trusted_to.get(axis, 1.0))
            trusted = np.logical_and(trusted, inside)
        return np.atleast_1d(trusted)
