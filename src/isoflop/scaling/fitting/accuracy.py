"""Accuracy from loss: log(1 - accuracy) = a + b log L, fitted over the runs of a study.

With it a scaling law of the loss also predicts accuracy, which itself follows no power law near 0 and 1. Gadre et al.
(2024) likewise map loss to downstream error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from isoflop.scaling.fitting.uncertainty import Noise, prediction_interval
from isoflop.scaling.forms import Floats
from isoflop.scaling.tables.runs import Study

_MIN_RUNS = 4


@dataclass(frozen=True)
class AccuracyOfLoss:
    """The line log(1 - accuracy) = ``intercept`` + ``slope`` log L with residual standard deviation ``sd``.

    It was fitted to ``runs`` runs; ``centre`` is the mean of their log L and ``squares`` the sum of squared deviations
    from that mean.
    """

    intercept: float
    slope: float
    sd: float
    runs: int
    centre: float
    squares: float

    def accuracy(self, losses: Floats) -> Floats:
        """Top-1 accuracy, between 0 and 1, at losses of any shape."""
        return np.asarray(1 - np.minimum(1, np.exp(self.intercept + self.slope * np.log(losses))))

    def interval(self, losses_R: Floats, noise: Noise, seeds: int) -> tuple[float, float] | None:
        """The 95 % prediction interval of the mean accuracy of ``seeds`` new runs.

        It combines bootstrap replicates [R] of the loss, the noise of runs, and the regression's own error, which
        grows with the distance of the loss from those of the runs (leverage).
        """
        errors_R = np.exp(self.intercept + self.slope * np.log(losses_R))
        leverage = 1 / self.runs + (float(np.median(np.log(losses_R))) - self.centre) ** 2 / self.squares
        sd = float(np.hypot(self.slope * noise.sd_of_mean(seeds), self.sd * np.sqrt(1 / seeds + leverage)))
        bounds = prediction_interval(errors_R, sd, min(noise.degrees_of_freedom, self.runs - 2))
        return None if bounds is None else (max(0.0, 1 - bounds[1]), max(0.0, 1 - bounds[0]))


def accuracy_of_loss(study: Study) -> AccuracyOfLoss | None:
    """Fit the line to the runs with a known accuracy; None if they are fewer than 4 or have fewer than 3 losses."""
    known = [(run.loss, run.accuracy) for run in study.runs if run.accuracy is not None]
    if len(known) < _MIN_RUNS or len({loss for loss, _ in known}) < 3:
        return None
    losses_M, accuracies_M = np.array(known, np.float64).T
    errors_M = 1 - accuracies_M
    if (errors_M > 0).sum() < _MIN_RUNS:
        return None
    errors_M = np.maximum(errors_M, 0.5 * errors_M[errors_M > 0].min())  # an error of 0 has no logarithm
    logs_M = np.log(losses_M)
    slope, intercept = np.polyfit(logs_M, np.log(errors_M), 1)
    residuals_M = np.log(errors_M) - intercept - slope * logs_M
    sd = np.sqrt((residuals_M**2).sum() / (len(known) - 2))
    squares = ((logs_M - logs_M.mean()) ** 2).sum()
    return AccuracyOfLoss(float(intercept), float(slope), float(sd), len(known), float(logs_M.mean()), float(squares))
