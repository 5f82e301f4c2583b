"""Backtests: hold out the top factor of two, and of four, of each axis, refit every form, and measure the errors.

Their errors decide how much a law's intervals widen with the distance from its runs (``Discrepancy``), how much each
form counts, and how far the law is trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from isoflop.scaling.fitting.objectives import Objective
from isoflop.scaling.fitting.one_form import fit, refit
from isoflop.scaling.fitting.reach import Bools
from isoflop.scaling.fitting.uncertainty import Residuals
from isoflop.scaling.forms import AXES, TINY, AnyForm, Floats, Form
from isoflop.scaling.tables.runs import Study

Ranges = Mapping[str, tuple[float, float]]

_FACTORS = (np.sqrt(2), 2.0, np.sqrt(8), 4.0)  # of the top of an axis that is held out
_SLACK = 1.18  # a factor is reached by levels this much closer: widths of 24 and 32 differ by 1.78 in parameters
MIN_FACTOR = 1.7  # a shorter distance tests nothing
_SPAN = 4.0  # factor below the edge over which the slope of the law is taken
_FAR = 0.6  # share of the distance of a backtest from which errors count
_HELD = 0.9  # share of the groups of a backtest that must lie inside their 95 % intervals
# The prior of the discrepancy's scale: weight, median and spread of the log, for a law that is off and for one that is
# correct. Chosen on published curves: see docs/explanation/scaling-law.md
_PRIOR = ((0.88, 2.7, 0.3), (0.12, 0.1, 0.6))
_INDEPENDENT = 2.0  # backtests that are independent: those of one axis share most of their runs
_SHARE = 0.05  # of the change of log loss over the distance that is part of the drift
_NORMAL = 1.959964  # the 97.5 % quantile of a normal distribution
_SCALES = np.geomspace(0.02, 30.0, 60)


@dataclass(frozen=True)
class Split:
    """Runs to fit and runs to predict: those above a level of one axis."""

    axis: str
    factor: float  # the largest level over the largest level that is fitted
    fitted: Bools  # [M]


@dataclass(frozen=True)
class Trial:
    """What one form fitted to a split's runs predicts for the others, as one row per group of runs.

    A group holds the runs far beyond the edge that share their levels on the other axes.
    """

    split: Split
    errors: Floats  # [G] mean of log predicted - log measured
    drift: Floats  # [G] the unit of the discrepancy there
    fitted: Floats  # [G] standard deviation of the fitted law there, which the groups share
    noise: Floats  # [G] standard deviation of the mean noise of a group

    @property
    def spread(self) -> Floats:
        """Standard deviation [G] of the errors that is expected without discrepancy."""
        return np.hypot(self.fitted, self.noise)

    def log_likelihood(self, scales: Floats) -> Floats:
        """Log likelihood [S] of scales [S] of the discrepancy, with the weight of two observations at most.

        The error of a law that is off is much the same in all groups, so their mean, in which noise averages out, is
        one observation. How the groups deviate from it is the other: the law may be off in different directions.
        """
        sd_S = np.hypot(np.hypot(self.fitted.mean(), np.sqrt((self.noise**2).mean() / len(self.noise))),
                        scales * self.drift.mean())  # fmt: skip
        found_S = -0.5 * (self.errors.mean() / sd_S) ** 2 - np.log(sd_S)
        if len(self.errors) > 1:
            sd_SG = np.hypot(self.noise, scales[:, None] * self.drift)
            found_S -= (0.5 * ((self.errors - self.errors.mean()) / sd_SG) ** 2 + np.log(sd_SG)).mean(axis=1)
        return np.asarray(found_S)


@dataclass(frozen=True)
class Backtest:
    """The result of one backtest of the law's form."""

    axis: str
    factor: float  # distance: the largest level that was predicted over the largest that was fitted
    runs: int  # that were held out
    error: float  # mean of predicted / measured - 1 over the runs near that distance
    half_width: float  # factor - 1 on each side that the 95 % intervals there allow, by the other backtests
    held: bool


@dataclass(frozen=True)
class Discrepancy:
    """The law's own error beyond its runs: ``scale`` times the ``drift`` over the distance.

    ``residual`` is the standard deviation of log loss of configurations about the law. Inside the range of the runs the
    discrepancy is 0.
    """

    scale: float = 0.0
    residual: float = 0.0
    ranges: Ranges = field(default_factory=dict)

    def sd(self, form: AnyForm, values: Floats, levels: Floats) -> Floats:
        """The standard deviation [M] of log loss at ``levels`` [K, M] of the form's axes."""
        if not self.scale:
            return np.zeros(levels.shape[1])
        return self.scale * drift(form, values, levels, self.ranges, self.residual)


def drift(form: AnyForm, values: Floats, levels: Floats, ranges: Ranges, residual: float) -> Floats:
    """The unit [M] of the discrepancy: how far a law of the wrong form may be off, relative to the loss.

    A form that is off leaves residuals within the runs and errors in proportion to them beyond, so the first part is
    their standard deviation ``residual``. Few runs, or runs that a form happens to interpolate, leave none, so the
    second part is a share of the change of log loss over the distance at the slope of the law at its edge. Both are for
    a factor of two. They grow with the square root of the log distance up to that factor, like a random walk, because
    the level of the law at the edge of its runs is uncertain too; beyond, in proportion to the log distance.
    """
    lows, highs = (np.array([ranges[axis][end] for axis in form.axes])[:, None] for end in (0, 1))
    edge_KM = np.clip(levels, lows, highs)
    distances_KM = np.abs(np.log(levels / edge_KM))
    distances_KM = np.maximum(distances_KM, np.sqrt(distances_KM * np.log(2)))
    at_edge_M = np.log(form.predict(values[None], edge_KM)[0])
    change_M = np.zeros(levels.shape[1])
    for index in range(len(form.axes)):
        span = np.minimum(_SPAN, (highs / lows)[index])
        if span <= 1 or not distances_KM[index].any():
            continue
        inner_KM = edge_KM.copy()
        inner_KM[index] = np.where(levels[index] < lows[index], edge_KM[index] * span, edge_KM[index] / span)
        slope_M = np.abs(np.log(form.predict(values[None], inner_KM)[0]) - at_edge_M) / np.log(span)
        change_M += slope_M * distances_KM[index]
    return np.asarray(np.hypot(residual * distances_KM.sum(axis=0) / np.log(2), _SHARE * change_M))


def ranges_of(study: Study) -> dict[str, tuple[float, float]]:
    """The least and the largest level of each axis."""
    return {axis: (float(min(study.column(axis))), float(max(study.column(axis)))) for axis in AXES}


def splits(study: Study) -> list[Split]:
    """The splits of a study, nearest first: on each axis that it varies, at every factor that the runs allow."""
    found: dict[tuple[str, bytes], Split] = {}
    for axis in study.axes:
        column = study.column(axis)
        top = float(column.max())
        for factor in _FACTORS if len(study.axes) == 1 else _FACTORS[1::2]:
            fitted = column <= top / factor * (_SLACK if factor >= 2 else 1.0)
            if not fitted.any() or fitted.all():
                continue
            rest = study.only(fitted.tolist())
            if len(rest.level_values(axis)) < 3 or rest.axes != study.axes:
                continue
            split = Split(axis, top / float(column[fitted].max()), fitted)
            found.setdefault((axis, fitted.tobytes()), split)
    return sorted(found.values(), key=lambda split: split.factor)


def trial(form: AnyForm, study: Study, split: Split, objective: Objective, near: Floats) -> Trial | None:
    """Fit one form to one side of a split and predict the other; None if the runs are too few for the form."""
    rest = study.only(split.fitted.tolist())
    levels, losses = rest.levels(form.axes), rest.losses
    if int(rest.configurations.max()) + 1 < form.free + 1:
        return None
    if isinstance(form, Form):
        weights_RM = None if rest.weights is None else rest.weights[None]
        values = refit(form, levels, losses[None], objective, near, weights_RM)[0]
    else:
        values, _ = fit(form, levels, losses, objective, rest.weights)
    residuals_M = np.log(losses / form.predict(values[None], levels)[0])
    residuals = Residuals.of(residuals_M, rest.configurations)
    variance = residuals.mean_variance(form.free)[0] or 0.0
    held = study.only((~split.fitted).tolist())
    held_levels = held.levels(form.axes)
    drift_M = drift(form, values, held_levels, ranges_of(rest), float(np.sqrt(variance)))
    errors_M = np.log(form.predict(values[None], held_levels)[0] / held.losses)
    if objective.quantile != 0.5:  # a law of an envelope is on one side of its runs
        errors_M += residuals_M.mean()
    law_M = np.sqrt(variance) * _leverage(form, values, levels, held_levels)
    distance_M = np.log(held.column(split.axis))
    near_edge = float(np.log(rest.column(split.axis)).max())
    far = distance_M >= near_edge + _FAR * (distance_M.max() - near_edge) - 1e-9
    others = [axis for axis in study.axes if axis != split.axis]
    keys = held.levels(others)[:, far].T if others else np.zeros((int(far.sum()), 0))
    _, group = np.unique(keys, axis=0, return_inverse=True)
    group = group.ravel()
    counts = np.bincount(group)

    def mean(of_M: Floats) -> Floats:
        return np.asarray(np.bincount(group, of_M[far]) / counts)

    noise = np.sqrt(variance / np.minimum(counts, 4))  # neighbors share some of their noise
    return Trial(split, mean(errors_M), np.maximum(mean(drift_M), 1e-5), mean(law_M), np.maximum(noise, 1e-6))


def _leverage(form: AnyForm, values: Floats, levels: Floats, new: Floats) -> Floats:
    """Standard deviation [M] of the fitted log loss at ``new`` per unit of noise, by linear propagation."""
    jacobian, there = _sensitivity(form, values, levels), _sensitivity(form, values, new)
    return np.asarray(np.sqrt(((there @ np.linalg.pinv(jacobian, rcond=1e-8)) ** 2).sum(axis=1)))


def _sensitivity(form: AnyForm, values: Floats, levels: Floats) -> Floats:
    """Derivatives [M, P] of the log losses by the logs of the parameters, where those are not 0."""
    step = 1e-5
    moved_PP = values * (1 + step * np.eye(len(values)))
    here_M = np.log(form.predict(values[None], levels)[0])
    return np.asarray((np.log(form.predict(moved_PP, levels)) - here_M).T / step)


def discrepancy_scale(trials: Sequence[Trial]) -> float:
    """The scale of the discrepancy: the 97.5 % quantile of its predictive distribution, over that of a normal one.

    Each error is normal with variance spread² + (scale · growth)². The prior of the scale is a mixture of two
    log-normal ones; the trials of an axis count as at most a few independent ones. Without trials the prior decides.
    """
    from scipy.special import ndtr

    parts = (
        weight / spread * np.exp(-0.5 * (np.log(_SCALES / median) / spread) ** 2) for weight, median, spread in _PRIOR
    )
    log_S = np.log(sum(parts) + TINY)
    share = min(1.0, _INDEPENDENT * len({one.split.axis for one in trials}) / max(len(trials), 1))
    for one in trials:
        log_S = log_S + share * one.log_likelihood(_SCALES)
    posterior_S = np.exp(log_S - log_S.max())
    posterior_S /= posterior_S.sum()
    tried = np.geomspace(1e-3, 100, 2000)
    inside = (2 * ndtr(tried[:, None] / _SCALES) - 1) @ posterior_S
    return float(np.interp(0.95, inside, tried) / _NORMAL)


def outcomes(trials: Sequence[Trial]) -> tuple[Backtest, ...]:
    """What each trial shows: it holds if nine in ten groups lie inside intervals that the other trials made."""
    found = []
    for index, one in enumerate(trials):
        scale = discrepancy_scale([*trials[:index], *trials[index + 1 :]])
        half_G = _NORMAL * np.hypot(one.spread, scale * one.drift)
        error, half = float(np.expm1(one.errors.mean())), float(np.expm1(np.sqrt((half_G**2).mean())))
        inside = bool((np.abs(one.errors) <= half_G).mean() >= _HELD)
        found.append(Backtest(one.split.axis, one.split.factor, int((~one.split.fitted).sum()), error, half, inside))
    return tuple(found)


def tested(backtests: Sequence[Backtest]) -> dict[str, float]:
    """By axis, the largest factor up to which every backtest held; an axis without one is missing."""
    reached: dict[str, float] = {}
    failed: set[str] = set()
    for one in sorted(backtests, key=lambda backtest: backtest.factor):
        failed |= set() if one.held else {one.axis}
        if one.factor >= MIN_FACTOR and one.axis not in failed:
            reached[one.axis] = one.factor
    return reached


def backtest_weight(found: Sequence[Trial]) -> float:
    """The weight of a form by its backtests: the mean square error, to the power of minus half the independent ones."""
    return float(np.mean([(one.errors**2).mean() + 1e-12 for one in found]) ** (-_INDEPENDENT / 2))
