"""How far a law can be off: the noise of runs, bootstrap replicates of the law, intervals for it and for new runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from isoflop.scaling.fitting import floor_profile, refit
from isoflop.scaling.forms import AnyForm, Floats, Form
from isoflop.scaling.newton import Loss

_MOST_NOISE = 25.0  # of log loss, drawn for runs that follow no law: e^25 is as good as infinite, and is a number
_NOISE_POINTS = 99  # of a noise distribution, at equal shares of probability


@dataclass(frozen=True)
class Noise:
    """Spread of runs about the law, as standard deviations of log loss (so of relative loss).

    ``seed`` is that of runs of one configuration, None where each has a single seed; ``configuration`` is what
    configurations miss the law by beyond their seeds. ``freedom`` is the degrees of freedom behind them; with
    none, the noise cannot be told and both intervals of a prediction are unknown.
    """

    seed: float | None
    configuration: float
    freedom: int

    def spread(self, seeds: int) -> float:
        """Standard deviation of a new configuration's mean log loss over ``seeds`` runs."""
        return float(np.hypot(self.configuration, (self.seed or 0.0) / np.sqrt(seeds)))


@dataclass(frozen=True)
class Residuals:
    """Log residuals of the runs taken apart: of configurations' means [C], and of runs about these [M]."""

    means: Floats
    within: Floats
    counts: Floats  # runs a configuration [C]

    @classmethod
    def of(cls, log_residuals: Floats, configurations: npt.NDArray[np.int64]) -> Residuals:
        counts = np.bincount(configurations).astype(np.float64)
        means = np.bincount(configurations, weights=log_residuals) / counts
        return cls(means, log_residuals - means[configurations], counts)

    def seed_variance(self) -> tuple[float | None, int]:
        """Pooled variance of runs of one configuration, and its degrees of freedom."""
        freedom = int(len(self.within) - len(self.means))
        return (float((self.within**2).sum() / freedom) if freedom else None), freedom

    def misfit_variance(self, parameters: int) -> tuple[float | None, int]:
        """Variance of runs as their configurations' means miss the law, which is that of seeds where the law is right,
        however many seeds each has; and its degrees of freedom."""
        freedom = len(self.means) - parameters
        squares = float((self.counts * self.means**2).sum())
        return (squares / freedom if freedom > 0 else None), max(freedom, 0)

    def mean_variance(self, parameters: int) -> tuple[float | None, int]:
        """Variance of configurations' means about the law, and its degrees of freedom."""
        freedom = len(self.means) - parameters
        return (float((self.means**2).sum() / freedom) if freedom > 0 else None), max(freedom, 0)


def noise(residuals: Residuals, parameters: int) -> Noise:
    """Take the variance of the configurations' means about a law of ``parameters`` apart by the seeds'.

    About a robust fit it comes out somewhat larger than about one by squares, so intervals err on the wide side.
    """
    seed, seed_freedom = residuals.seed_variance()
    mean, mean_freedom = residuals.mean_variance(parameters)
    if mean is None:
        return Noise(None if seed is None else float(np.sqrt(seed)), 0.0, seed_freedom)
    beyond = max(0.0, mean - (seed or 0.0) * float((1 / residuals.counts).mean()))
    freedom = mean_freedom if beyond > 0 else seed_freedom
    return Noise(None if seed is None else float(np.sqrt(seed)), float(np.sqrt(beyond)), freedom)


def bootstrap(
    form: AnyForm,
    levels: Floats,
    losses: Floats,
    configurations: npt.NDArray[np.int64],
    loss: Loss,
    values: Floats,
    replicates: int,
    rng: np.random.Generator,
) -> Floats:
    """Laws [R, P] fitted to tables that could as well have been measured.

    A residual bootstrap clustered by configuration: the design stays as it was chosen, and each configuration gets
    the mean residual of one drawn at random, each run the residual about its mean of one drawn at random, both
    with a random sign and widened for the degrees of freedom that the fit took. (Drawing the runs themselves would
    leave many replicates of a small design without a whole width, and its law without an end.) Each replicate's noise
    is as much larger or smaller as the noise of so few degrees of freedom can be (χ²): percentiles of replicates that
    all had the estimated noise would be normal's where they should be Student's.
    """
    fitted_M = form.predict(values[None], levels)[0]
    residuals = Residuals.of(np.log(losses) - np.log(fitted_M), configurations)
    seed, seed_freedom = residuals.seed_variance()
    mean, mean_freedom = residuals.mean_variance(form.size)
    pool_C = residuals.means * np.sqrt(len(residuals.means) * (mean or 0.0) / max((residuals.means**2).sum(), 1e-300))
    between_RC = _drawn(pool_C, (replicates, len(pool_C)), rng) * _scale(mean_freedom, replicates, rng)
    if mean is None and seed is not None:  # a law through all the means: the seeds alone say how far these may be off
        between_RC = np.sqrt(seed / residuals.counts) * rng.standard_normal((replicates, len(pool_C)))
    pool_M = residuals.within * np.sqrt(len(losses) / seed_freedom) if seed_freedom else np.zeros(len(losses))
    within_RM = _drawn(pool_M, (replicates, len(losses)), rng) * _scale(seed_freedom, replicates, rng)
    for number in range(len(pool_C)):  # what is drawn about the means must leave the means alone
        members = configurations == number
        within_RM[:, members] -= within_RM[:, members].mean(axis=1, keepdims=True)
    drawn_RM = np.clip(between_RC[:, configurations] + within_RM, -_MOST_NOISE, _MOST_NOISE)
    tables_RM = fitted_M * np.exp(drawn_RM)
    return refit(form, levels, tables_RM, loss, values)


def _drawn(pool: Floats, shape: tuple[int, int], rng: np.random.Generator) -> Floats:
    return np.asarray(rng.choice(pool, shape) * rng.choice([-1.0, 1.0], shape))


def _scale(freedom: int, replicates: int, rng: np.random.Generator) -> Floats:
    """By how much the true noise may be larger than one estimated with so many degrees of freedom, [R, 1]."""
    if not freedom:
        return np.ones((replicates, 1))
    return np.sqrt(freedom / rng.chisquare(freedom, (replicates, 1)))


def middle(samples: Floats) -> tuple[Floats, Floats]:
    """Where the middle 95 % of samples [R, ...] begins and ends.

    One more sample falls between the k-th and the l-th of R with chance (l - k)/(R + 1), so of 200 these are the 5th
    and the 196th; between numpy's default quantiles it would fall with 94 %.
    """
    low, high = np.quantile(samples, [0.025, 0.975], axis=0, method="weibull")
    return low, high


def interval(samples: Floats) -> tuple[float, float]:
    """The middle 95 % of samples [R] of a quantity."""
    low, high = middle(samples)
    return float(low), float(high)


def prediction_interval(losses: Floats, spread: float, freedom: int) -> tuple[float, float] | None:
    """Where a new run's loss falls with 95 %: the laws' spread and the runs' noise together.

    Args:
        losses: [R], what the bootstrap's laws predict.
        spread: standard deviation of the run's log loss, with ``freedom`` degrees of freedom (Student's t).

    Returns:
        None where there are no degrees of freedom to know the noise by.
    """
    from scipy.stats import t

    if freedom < 1:
        return None
    shares = (np.arange(_NOISE_POINTS) + 0.5) / _NOISE_POINTS
    noise_Q = np.clip(spread * t.ppf(shares, freedom), -_MOST_NOISE, _MOST_NOISE)
    return interval((losses[:, None] * np.exp(noise_Q)[None]).ravel())


def floor_interval(
    form: Form, levels: Floats, losses: Floats, configurations: npt.NDArray[np.int64], values: Floats
) -> tuple[float, float] | None:
    """The 95 % interval of E by its profile: the floors at which the runs still fit (F test with one parameter held).

    It keeps its meaning where the best E is 0, its bound; the low end is 0 then. None without degrees of freedom.
    """
    from scipy.stats import f

    residuals_M = np.log(losses) - np.log(form.predict(values[None], levels)[0])
    variance, freedom = Residuals.of(residuals_M, configurations).misfit_variance(form.size)
    if variance is None:
        return None
    highest = 0.999 * float(losses.max())
    centre = min(float(values[0]), highest)
    steps = highest * 2.0 ** -np.arange(22)  # from the whole range down to what the least noise can tell
    floors_F = np.unique(np.clip(np.concatenate([centre - steps, [centre], centre + steps]), 0, highest))
    halves_F = floor_profile(form, levels, losses, values, floors_F)
    most = halves_F.min() + 0.5 * max(variance, 1e-300) * f.ppf(0.95, 1, freedom)
    first, last = np.flatnonzero(halves_F <= most)[[0, -1]]
    # once more between the ends and their neighbours outside
    below_F = np.linspace(floors_F[max(first - 1, 0)], floors_F[first], 8)
    above_F = np.linspace(floors_F[last], floors_F[min(last + 1, len(floors_F) - 1)], 8)
    finer_F = np.concatenate([below_F, above_F])
    allowed_F = finer_F[floor_profile(form, levels, losses, values, finer_F) <= most * (1 + 1e-9)]
    return float(min(allowed_F.min(initial=np.inf), floors_F[first])), float(
        max(allowed_F.max(initial=0), floors_F[last])
    )
