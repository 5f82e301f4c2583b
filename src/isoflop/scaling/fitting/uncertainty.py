"""Uncertainty of a fitted law: seed noise and misfit, confidence and prediction intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from isoflop.scaling.forms import Floats

_MAX_NOISE = 25.0  # of log loss, for runs that follow no law: e^25 is finite and as good as infinite
_LEAST_RESIDUAL = 0.05  # of the root mean square
_NOISE_QUANTILES = 99  # equally likely values that approximate the distribution of the noise


@dataclass(frozen=True)
class Noise:
    """Standard deviations of log loss (relative errors) of runs about the law.

    ``seed`` is that between runs of one configuration; None if each configuration has a single seed.
    ``configuration`` is the law's misfit: the deviation of configurations beyond their seed noise. Both were
    estimated with ``degrees_of_freedom``; with 0 the noise is not identifiable and predictions have no interval.
    They are root mean squares over the runs. If the noise varies with the levels, it is ``unit`` times the product of
    the levels to the power of ``exponents``, by axis, relative to them.
    """

    seed: float | None
    configuration: float
    degrees_of_freedom: int
    exponents: Mapping[str, float] = field(default_factory=dict)
    unit: float = 1.0

    def relative(self, levels: Mapping[str, Floats | float], ranges: Mapping[str, tuple[float, float]]) -> Floats:
        """The noise at M points relative to that of the runs; outside of the range of the runs, that at its edge."""
        found = np.array(self.unit)
        for axis, exponent in self.exponents.items():
            found = found * np.clip(np.asarray(levels[axis], np.float64), *ranges[axis]) ** exponent
        return np.atleast_1d(found)

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


def noise_trend(residuals_C: Floats, levels: Mapping[str, Floats]) -> tuple[dict[str, float], float]:
    """Exponents by axis and unit of ``Noise``: a regression of the log size of residuals on the log levels [C].

    Residuals near 0 have a large negative logarithm and say little, so they are limited from below.
    """
    sizes_C = np.maximum(np.abs(residuals_C), _LEAST_RESIDUAL * np.sqrt((residuals_C**2).mean()))
    logs_CK = np.log(np.stack(list(levels.values()), axis=1))
    design_CF = np.column_stack([np.ones(len(sizes_C)), logs_CK - logs_CK.mean(axis=0)])
    slopes_K = np.linalg.lstsq(design_CF, np.log(sizes_C), rcond=1e-6)[0][1:]
    unit = 1 / np.sqrt(np.exp(2 * logs_CK @ slopes_K).mean())
    return dict(zip(levels, slopes_K.tolist(), strict=True)), float(unit)


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


def prediction_interval(
    losses: Floats, sd: float, degrees_of_freedom: int, discrepancy: float = 0.0
) -> tuple[float, float] | None:
    """The 95 % prediction interval of a new run's loss: bootstrap replicates, noise and discrepancy combined.

    Args:
        losses: [R] losses that the bootstrap replicates predict.
        sd: standard deviation of the new log loss, estimated with ``degrees_of_freedom`` (Student's t).
        discrepancy: standard deviation of the law's own error of log loss there.

    Returns:
        None if there are no degrees of freedom, so that the noise is not identifiable.
    """
    from scipy.special import stdtrit

    if degrees_of_freedom < 1:
        return None
    both = float(np.hypot(sd, discrepancy))
    share = (sd / both) ** 4 if both else 1.0
    effective = degrees_of_freedom / max(share, degrees_of_freedom / 1e4)  # Welch and Satterthwaite
    shares = (np.arange(_NOISE_QUANTILES) + 0.5) / _NOISE_QUANTILES
    noise_Q = np.clip(both * stdtrit(effective, shares), -_MAX_NOISE, _MAX_NOISE)
    return interval((losses[:, None] * np.exp(noise_Q)[None]).ravel())
