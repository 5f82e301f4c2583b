"""A fitted law: its forms with their bootstrap replicates, noise and discrepancy, and predictions with intervals.

``forms`` holds the formulas, ``law_fitting`` fits the law of a study.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from isoflop.scaling.fitting.backtests import Backtest, Discrepancy
from isoflop.scaling.fitting.reach import Predictions, Reach
from isoflop.scaling.fitting.resampling import Replicates
from isoflop.scaling.fitting.uncertainty import Noise, central_interval, prediction_interval
from isoflop.scaling.forms import TINY, AnyForm, Floats, point


@dataclass(frozen=True)
class Fit:
    """One form fitted to a study."""

    form: AnyForm
    values: Floats  # [P] parameters
    replicates: Floats  # [R, P] bootstrap replicates of the parameters
    weight: float  # by BIC and backtests, among the forms that are kept


@dataclass(frozen=True)
class Law:
    """The forms that the runs do not rule out, best first, and what the best one's predictions are worth.

    ``resampling`` is what the bootstrap resampled, ``backtests`` are those of the best form.
    """

    fits: tuple[Fit, ...]
    noise: Noise
    discrepancy: Discrepancy = field(default_factory=Discrepancy)
    reach: Reach = field(default_factory=Reach)
    resampling: str = ""
    backtests: tuple[Backtest, ...] = ()
    sampled: Replicates | None = None  # bootstrap replicates of the best form and their tables; not in law.json

    @property
    def form(self) -> AnyForm:
        return self.fits[0].form

    @property
    def values(self) -> Floats:
        """Parameters [P] of the best form."""
        return self.fits[0].values

    @property
    def replicates(self) -> Floats:
        """Bootstrap replicates [R, P] of the best form's parameters."""
        return self.fits[0].replicates

    def predict(self, levels: Mapping[str, Floats | float]) -> Floats:
        """Losses [M] that the best form predicts at levels by axis."""
        return np.asarray(self.form.predict(self.values[None], point(self.form, levels))[0])

    def replicate_losses(self, levels: Mapping[str, Floats | float]) -> Floats:
        """Losses [R, M] that the bootstrap replicates predict, of all forms in proportion to their weights."""
        return np.concatenate(
            [one.form.predict(rows, point(one.form, levels)) for one, rows in self._weighted_replicates()], axis=0
        )

    def _weighted_replicates(self) -> list[tuple[Fit, Floats]]:
        """Each fit with a number of its replicates in proportion to its weight."""
        most = max(len(one.replicates) for one in self.fits)
        counts = [max(1, round(one.weight * most)) for one in self.fits]
        return [
            (one, one.replicates[np.arange(count) % len(one.replicates)])
            for one, count in zip(self.fits, counts, strict=True)
        ]

    def confidence_band(self, levels: Mapping[str, Floats | float]) -> tuple[Floats, Floats]:
        """The 95 % confidence band of the law, lower and upper [M]: bootstrap and forms, without the noise of runs."""
        return central_interval(self.replicate_losses(levels))

    def prediction_band(self, levels: Mapping[str, Floats | float], seeds: int = 1) -> tuple[Floats, Floats] | None:
        """The 95 % prediction band of the mean of ``seeds`` new runs, lower and upper [M].

        It combines the bootstrap, the other forms, the noise of runs, and beyond the range of the runs the discrepancy
        that backtests measured. None if the noise is not identifiable.
        """
        dof = self.noise.degrees_of_freedom
        beyond_M = self.discrepancy.sd(self.form, self.values, point(self.form, levels))
        sd_M = np.broadcast_to(
            self.noise.sd_of_mean(seeds) * self.noise.relative(levels, self.reach.ranges), beyond_M.shape
        )
        bounds = [
            prediction_interval(losses_R, float(sd), dof, float(beyond))
            for losses_R, sd, beyond in zip(self._centred_losses(levels).T, sd_M, beyond_M, strict=True)
        ]
        if any(bound is None for bound in bounds):
            return None
        low, high = np.array(bounds, np.float64).T
        predicted = self.predict(levels)
        return np.minimum(low, predicted), np.maximum(high, predicted)

    def _centred_losses(self, levels: Mapping[str, Floats | float]) -> Floats:
        """Like ``replicate_losses``, but the median of each form's replicates is at what the form predicts.

        Bounds such as E ≥ 0 shift the replicates of a form to one side of it, which is no error of a new run.
        """
        parts = []
        for one, rows in self._weighted_replicates():
            at = point(one.form, levels)
            losses_RM, median_M = one.form.predict(rows, at), np.median(one.form.predict(one.replicates, at), axis=0)
            parts.append(losses_RM * (one.form.predict(one.values[None], at) / np.maximum(median_M, TINY)))
        return np.concatenate(parts, axis=0)

    def predictions(self, levels: Mapping[str, Floats | float]) -> Predictions:
        """Predict new runs at M points, with 95 % prediction intervals, and whether each is within a tested distance.

        Args:
            levels: levels [M] by axis, at least those of the form; a scalar holds for all points. Other axes of the
                study are compared with its range only.
        """
        predicted = self.predict(levels)
        low, high = self.prediction_band(levels) or (np.full_like(predicted, np.nan), np.full_like(predicted, np.nan))
        trusted = np.broadcast_to(self.reach.trusts(levels), predicted.shape)
        return Predictions(predicted, low, high, trusted)

    def prediction(self, levels: Mapping[str, float], seeds: int) -> tuple[float, tuple[float, float] | None]:
        """The loss predicted at one point and the 95 % prediction interval of the mean of ``seeds`` new runs there."""
        band = self.prediction_band(levels, seeds)
        bounds = None if band is None else (float(band[0][0]), float(band[1][0]))
        return float(self.predict(levels)[0]), bounds
