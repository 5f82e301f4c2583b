"""Uncertainty of a fitted law: seed noise and misfit, bootstrap replicates, confidence and prediction intervals."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isoflop.scaling.fitting import profile_objective, refit
from isoflop.scaling.forms import AnyForm, Floats, Form
from isoflop.scaling.objectives import Objective

_MAX_NOISE = 25.0  # of log loss, for runs that follow no law: e^25 is finite and as good as infinite
_NOISE_QUANTILES = 99  # equally likely values that approximate the distribution of the noise


@dataclass(frozen=True)
class Noise:
    """Standard deviations of log loss (relative errors) of runs about the law.

    ``seed`` is that between runs of one configuration; None if each configuration has a single seed.
    ``configuration`` is the law's misfit: the deviation of configurations beyond their seed noise. Both were
    estimated with ``degrees_of_freedom``; with 0 the noise is not identifiable and predictions have no interval.
    """

    seed: float | None
    configuration: float
    degrees_of_freedom: int

    def sd_of_mean(self, seeds: int) -> float:
        """Standard deviation of the mean log loss of ``seeds`` runs of a new configuration."""
        return float(np.hypot(self.configuration, (self.seed or 0.0) / np.sqrt(seeds)))


@dataclass(frozen=True)
class Residuals:
    """Log residuals of runs, split into configuration means [C] and deviations of runs from these means [M]."""

    means: Floats
    within: Floats
    counts: Floats  # [C] runs per configuration

    @classmethod
    def of(cls, log_residuals: Floats, configurations: npt.NDArray[np.int64]) -> Residuals:
        counts = np.bincount(configurations).astype(np.float64)
        means = np.bincount(configurations, weights=log_residuals) / counts
        return cls(means, log_residuals - means[configurations], counts)

    def seed_variance(self) -> tuple[float | None, int]:
        """Pooled variance between runs of one configuration, and its degrees of freedom."""
        dof = int(len(self.within) - len(self.means))
        return (float((self.within**2).sum() / dof) if dof else None), dof

    def misfit_variance(self, parameters: int) -> tuple[float | None, int]:
        """Variance of single runs estimated from the configuration means, and its degrees of freedom.

        If the law is correct it estimates the seed variance, whatever the number of seeds per configuration.
        """
        dof = len(self.means) - parameters
        squares = float((self.counts * self.means**2).sum())
        return (squares / dof if dof > 0 else None), max(dof, 0)

    def mean_variance(self, parameters: int) -> tuple[float | None, int]:
        """Variance of the configuration means about the law, and its degrees of freedom."""
        dof = len(self.means) - parameters
        return (float((self.means**2).sum() / dof) if dof > 0 else None), max(dof, 0)


def noise(residuals: Residuals, parameters: int) -> Noise:
    """Split the variance about a law with ``parameters`` parameters into seed noise and misfit.

    Residuals of a robust fit are somewhat larger than those of a least-squares fit, so intervals tend to be wide.
    """
    seed, seed_dof = residuals.seed_variance()
    mean, mean_dof = residuals.mean_variance(parameters)
    if mean is None:
        return Noise(None if seed is None else float(np.sqrt(seed)), 0.0, seed_dof)
    misfit = max(0.0, mean - (seed or 0.0) * float((1 / residuals.counts).mean()))
    dof = mean_dof if misfit > 0 else seed_dof
    return Noise(None if seed is None else float(np.sqrt(seed)), float(np.sqrt(misfit)), dof)


def bootstrap(
    form: AnyForm,
    levels: Floats,
    losses: Floats,
    configurations: npt.NDArray[np.int64],
    objective: Objective,
    values: Floats,
    replicates: int,
    rng: np.random.Generator,
) -> Floats:
    """Bootstrap replicates [R, P] of the parameters: a residual bootstrap clustered by configuration.

    Each configuration gets the mean residual of a random configuration, and each of its runs the deviation of a
    random run from its mean, both with a random sign and scaled up for the degrees of freedom of the fit. The design
    stays fixed: resampling runs (as Besiroglu et al. 2024 do with 240 of them) would leave many replicates of a small
    design without a whole width, where the law is not identifiable. The residuals of each replicate are scaled by a
    random factor (χ²) for the uncertainty of the noise estimate, so that percentiles follow Student's t rather than a
    normal distribution.
    """
    fitted_M = form.predict(values[None], levels)[0]
    residuals = Residuals.of(np.log(losses) - np.log(fitted_M), configurations)
    seed, seed_dof = residuals.seed_variance()
    mean, mean_dof = residuals.mean_variance(form.size)
    pool_C = residuals.means * np.sqrt(len(residuals.means) * (mean or 0.0) / max((residuals.means**2).sum(), 1e-300))
    between_RC = _resampled(pool_C, (replicates, len(pool_C)), rng) * _noise_scale(mean_dof, replicates, rng)
    if mean is None and seed is not None:  # the law interpolates the means: only the seeds give their errors
        between_RC = np.sqrt(seed / residuals.counts) * rng.standard_normal((replicates, len(pool_C)))
    pool_M = residuals.within * np.sqrt(len(losses) / seed_dof) if seed_dof else np.zeros(len(losses))
    within_RM = _resampled(pool_M, (replicates, len(losses)), rng) * _noise_scale(seed_dof, replicates, rng)
    for configuration in range(len(pool_C)):  # deviations from a mean must not move the mean
        members = configurations == configuration
        within_RM[:, members] -= within_RM[:, members].mean(axis=1, keepdims=True)
    noise_RM = np.clip(between_RC[:, configurations] + within_RM, -_MAX_NOISE, _MAX_NOISE)
    tables_RM = fitted_M * np.exp(noise_RM)
    return refit(form, levels, tables_RM, objective, values)


def _resampled(pool: Floats, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    return np.asarray(rng.choice(pool, shape) * rng.choice([-1.0, 1.0], shape))


def _noise_scale(degrees_of_freedom: int, replicates: int, rng: np.random.Generator) -> Floats:
    """Random ratios [R, 1] of the true standard deviation to one estimated with these degrees of freedom."""
    if not degrees_of_freedom:
        return np.ones((replicates, 1))
    return np.sqrt(degrees_of_freedom / rng.chisquare(degrees_of_freedom, (replicates, 1)))


def central_interval(samples: Floats) -> tuple[Floats, Floats]:
    """Lower and upper 95 % percentile bounds of samples [R, ...].

    A further sample falls between the k-th and the l-th of R with probability (l - k)/(R + 1). Of 200 samples these
    are the 5th and the 196th; numpy's default quantiles would cover only 94 %.
    """
    low, high = np.quantile(samples, [0.025, 0.975], axis=0, method="weibull")
    return low, high


def interval(samples: Floats) -> tuple[float, float]:
    """The 95 % percentile interval of samples [R] of a scalar."""
    low, high = central_interval(samples)
    return float(low), float(high)


def prediction_interval(losses: Floats, sd: float, degrees_of_freedom: int) -> tuple[float, float] | None:
    """The 95 % prediction interval of a new run's loss: bootstrap replicates and noise combined.

    Args:
        losses: [R] losses that the bootstrap replicates predict.
        sd: standard deviation of the new log loss, estimated with ``degrees_of_freedom`` (Student's t).

    Returns:
        None if there are no degrees of freedom, so that the noise is not identifiable.
    """
    from scipy.stats import t

    if degrees_of_freedom < 1:
        return None
    shares = (np.arange(_NOISE_QUANTILES) + 0.5) / _NOISE_QUANTILES
    noise_Q = np.clip(sd * t.ppf(shares, degrees_of_freedom), -_MAX_NOISE, _MAX_NOISE)
    return interval((losses[:, None] * np.exp(noise_Q)[None]).ravel())


def irreducible_loss_interval(
    form: Form, levels: Floats, losses: Floats, configurations: npt.NDArray[np.int64], values: Floats
) -> tuple[float, float] | None:
    """The 95 % profile interval of E: all values that an F test with one fixed parameter does not reject.

    It is valid even if the best E is at its bound of 0; its lower end is then 0. None without degrees of freedom.
    """
    from scipy.stats import f

    residuals_M = np.log(losses) - np.log(form.predict(values[None], levels)[0])
    variance, dof = Residuals.of(residuals_M, configurations).misfit_variance(form.size)
    if variance is None:
        return None
    highest = 0.999 * float(losses.max())
    centre = min(float(values[0]), highest)
    steps = highest * 2.0 ** -np.arange(22)  # from the whole range to less than any noise resolves
    fixed_F = np.unique(np.clip(np.concatenate([centre - steps, [centre], centre + steps]), 0, highest))
    halves_F = profile_objective(form, levels, losses, values, fixed_F)
    limit = halves_F.min() + 0.5 * max(variance, 1e-300) * f.ppf(0.95, 1, dof)
    first, last = np.flatnonzero(halves_F <= limit)[[0, -1]]
    # refine between each end and its neighbor outside
    below_F = np.linspace(fixed_F[max(first - 1, 0)], fixed_F[first], 8)
    above_F = np.linspace(fixed_F[last], fixed_F[min(last + 1, len(fixed_F) - 1)], 8)
    finer_F = np.concatenate([below_F, above_F])
    allowed_F = finer_F[profile_objective(form, levels, losses, values, finer_F) <= limit * (1 + 1e-9)]
    low = min(allowed_F.min(initial=np.inf), fixed_F[first])
    high = max(allowed_F.max(initial=0), fixed_F[last])
    return float(low), float(high)
