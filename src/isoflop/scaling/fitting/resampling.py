"""Bootstrap replicates of a fit: what is resampled depends on how the residuals behave, or on the user's choice."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from isoflop.scaling.fitting.objectives import Objective
from isoflop.scaling.fitting.one_form import refit
from isoflop.scaling.fitting.uncertainty import Residuals
from isoflop.scaling.forms import AnyForm, Floats, Form
from isoflop.scaling.tables.runs import Study

Resampling = Literal["residual", "correlated", "wild", "pairs", "cluster"]
RESAMPLINGS: tuple[Resampling, ...] = get_args(Resampling)
Ints = npt.NDArray[np.int64]

_MAX_NOISE = 25.0  # of log loss, for runs that follow no law: e^25 is finite and as good as infinite
_MIN_PAIRS = 40  # configurations from which whole configurations are resampled
_MOST_BENT = 200  # replicates of M4 and the broken power law, whose fits take longer
_FEWEST, _MOST_RESIDUALS = 100, 500_000  # replicates; and runs over all of them, which bounds the time
_MIN_SERIES = 20  # runs with checkpoints from which whole runs are resampled
_MIN_NEIGHBOURS = 8  # pairs of neighbors that an autocorrelation is estimated from
_SIGNIFICANT = 0.01  # of the test that the spread of residuals varies
_MAX_CORRELATION = 0.95


@dataclass(frozen=True)
class Design:
    """What resampling needs to know of a study: configuration of each run, and the series that each belongs to.

    A series is what the checkpoints of one run would be: configurations that differ only in the samples seen.
    """

    configurations: Ints  # [M]
    series: Ints  # [C] of each configuration
    place: Floats  # [C] log of the level along the series

    @classmethod
    def of(cls, study: Study) -> Design:
        configurations = study.configurations
        _, first = np.unique(configurations, return_index=True)
        along = study.data_axis if study.data_axis in study.axes else study.axes[-1]
        size = study.column("parameters") if along != "parameters" else np.ones(len(configurations))
        _, series = np.unique(size[first], return_inverse=True)
        return cls(configurations, series.ravel(), np.log(study.column(along)[first]))

    def neighbours(self) -> tuple[Ints, Ints]:
        """Indices of configurations and of the next one in their series."""
        order = np.lexsort((self.place, self.series))
        same = self.series[order][1:] == self.series[order][:-1]
        return order[:-1][same], order[1:][same]


@dataclass(frozen=True)
class Replicates:
    """Bootstrap replicates of a fit and the tables that they were fitted to."""

    values: Floats  # [R, P]
    losses: Floats  # [R, M]
    weights: Floats | None  # [R, M]


def correlation(means_C: Floats, design: Design, parameters: int) -> float:
    """The autocorrelation of the residuals of neighboring configurations, 0 if it is not significant.

    A fit with P parameters takes about P/n of it away, which is added back.
    """
    before, after = design.neighbours()
    count = len(before)
    if count < _MIN_NEIGHBOURS or not means_C.any():
        return 0.0
    found = float((means_C[before] * means_C[after]).mean() / (means_C**2).mean())
    found += parameters / count
    return min(found, _MAX_CORRELATION) if found > 2.0 / np.sqrt(count) + parameters / count else 0.0


def varies(residuals_M: Floats, levels: Floats, fitted_M: Floats) -> bool:
    """Whether the size of residuals depends on the predicted loss or on a level (Spearman's test of each)."""
    from scipy.special import stdtr

    columns = [column for column in (fitted_M, *levels) if np.ptp(column) > 0]
    dof = len(residuals_M) - 2
    if dof < 1 or not columns or np.ptp(np.abs(residuals_M)) == 0:
        return False
    sizes = _ranks(np.abs(residuals_M))
    found = max(abs(float(np.corrcoef(sizes, _ranks(column))[0, 1])) for column in columns)
    statistic = found * np.sqrt(dof / max(1 - found**2, 1e-12))
    return bool(2 * stdtr(dof, -statistic) < _SIGNIFICANT / len(columns))


def _ranks(values_M: Floats) -> Floats:
    """Ranks [M], ties sharing their mean."""
    _, inverse, counts = np.unique(values_M, return_inverse=True, return_counts=True)
    return np.asarray((np.cumsum(counts) - (counts - 1) / 2)[inverse.ravel()])


def choose(residuals: Residuals, varied: bool, design: Design, parameters: int) -> Resampling:
    """The resampling that the data call for: see docs/explanation/scaling-law.md."""
    count = len(residuals.means)
    if correlation(residuals.means, design, parameters):
        return "cluster" if len(set(design.series.tolist())) >= _MIN_SERIES else "correlated"
    if count >= _MIN_PAIRS and count >= 8 * parameters:
        return "pairs"
    return "wild" if varied and count > parameters + 3 else "residual"


def bootstrap(
    form: AnyForm,
    levels: Floats,
    losses: Floats,
    design: Design,
    objective: Objective,
    values: Floats,
    replicates: int,
    rng: np.random.Generator,
    resampling: Resampling,
    weights: Floats | None = None,
) -> Replicates:
    """Bootstrap replicates of the parameters [R, P]; fewer than ``replicates`` for bent forms and thousands of runs.

    ``pairs`` and ``cluster`` give each configuration, or each series, a random weight (Rubin 1981): like a resampling
    of runs (Besiroglu et al. 2024), but no replicate loses a whole level. The others keep the design and resample
    residuals: ``residual`` from all configurations, ``correlated`` with their autocorrelation along a series, ``wild``
    (Liu 1988) each configuration's own.
    """
    most = _MOST_BENT if not isinstance(form, Form) else max(_FEWEST, _MOST_RESIDUALS // len(losses))
    replicates = min(replicates, most)
    fitted_M = form.predict(values[None], levels)[0]
    if resampling in ("pairs", "cluster"):
        groups = design.configurations if resampling == "pairs" else design.series[design.configurations]
        weights_RM = rng.exponential(size=(replicates, int(groups.max()) + 1))[:, groups] + 1e-9
        weights_RM = weights_RM if weights is None else weights_RM * weights
        losses_RM = np.repeat(losses[None], replicates, axis=0)
        return Replicates(refit(form, levels, losses_RM, objective, values, weights_RM), losses_RM, weights_RM)
    noise_RM = _noise(form, levels, np.log(losses / fitted_M), design, replicates, rng, resampling)
    tables_RM = fitted_M * np.exp(np.clip(noise_RM, -_MAX_NOISE, _MAX_NOISE))
    kept_RM = None if weights is None else np.repeat(weights[None], replicates, axis=0)
    return Replicates(refit(form, levels, tables_RM, objective, values, kept_RM), tables_RM, kept_RM)


def _noise(
    form: AnyForm,
    levels: Floats,
    residuals_M: Floats,
    design: Design,
    replicates: int,
    rng: np.random.Generator,
    resampling: Resampling,
) -> Floats:
    """Log residuals [R, M] of simulated tables.

    Each configuration gets a mean residual, and each of its runs the deviation of a random run from its mean, both
    scaled up for the degrees of freedom of the fit. Each replicate is scaled by a random factor (χ²) for the
    uncertainty of the noise estimate, so that percentiles follow Student's t rather than a normal distribution.
    """
    residuals = Residuals.of(residuals_M, design.configurations)
    seed, seed_dof = residuals.seed_variance()
    mean, mean_dof = residuals.mean_variance(form.free)
    count, total = len(residuals.means), len(residuals_M)
    scaled_C = residuals.means * np.sqrt(count * (mean or 0.0) / max((residuals.means**2).sum(), 1e-300))
    scale_R1 = _noise_scale(mean_dof, replicates, rng)
    if mean is None and seed is not None:  # the law interpolates the means: only the seeds give their errors
        between_RC = np.sqrt(seed / residuals.counts) * rng.standard_normal((replicates, count))
    elif resampling == "wild":
        between_RC = scaled_C * rng.choice([-1.0, 1.0], (replicates, count)) * scale_R1
    else:
        between_RC = _resampled(scaled_C, (replicates, count), rng) * scale_R1
    if resampling == "correlated":
        between_RC = _correlated(between_RC, design, correlation(residuals.means, design, form.free))
    pool_M = residuals.within * np.sqrt(total / seed_dof) if seed_dof else np.zeros(total)
    within_RM = _resampled(pool_M, (replicates, total), rng) * _noise_scale(seed_dof, replicates, rng)
    if seed_dof:  # deviations from a mean must not move the mean
        counts_C = np.bincount(design.configurations)
        member_MC = np.eye(count)[design.configurations]
        within_RM -= (within_RM @ member_MC / counts_C)[:, design.configurations]
    return np.asarray(between_RC[:, design.configurations] + within_RM)


def _correlated(noise_RC: Floats, design: Design, by: float) -> Floats:
    """Turn independent noise into an autoregressive process of the same variance along each series."""
    series_RC = noise_RC.copy()
    order = np.lexsort((design.place, design.series))
    for before, here in pairwise(order):
        if design.series[before] == design.series[here]:
            series_RC[:, here] = by * series_RC[:, before] + np.sqrt(1 - by**2) * noise_RC[:, here]
    return series_RC


def _resampled(pool: Floats, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    return np.asarray(rng.choice(pool, shape) * rng.choice([-1.0, 1.0], shape))


def _noise_scale(degrees_of_freedom: int, replicates: int, rng: np.random.Generator) -> Floats:
    """Random ratios [R, 1] of the true standard deviation to one estimated with these degrees of freedom."""
    if not degrees_of_freedom:
        return np.ones((replicates, 1))
    return np.sqrt(degrees_of_freedom / rng.chisquare(degrees_of_freedom, (replicates, 1)))
