"""Learning curves, error = E + B/D^β, by weighted least squares over several seeds per data size.

The method of Hoiem et al. 2021, "Learning Curves for Analysis of Deep Networks", which writes error = α + η n^γ with γ
= -β searched from -0.99 to -0.01 or fixed, such as at -0.5. No stage uses it; ``isoflop fit --gamma`` does, and a test
reproduces the paper's fit.
"""

from __future__ import annotations

import numpy as np

from isoflop.scaling.fitting.objectives import OBJECTIVES
from isoflop.scaling.fitting.one_form import fit
from isoflop.scaling.forms import Floats, additive

GAMMAS = np.round(np.arange(-0.99, 0.0, 0.01), 2)


def seed_weights(samples: Floats, errors: Floats, least_variance: float) -> Floats:
    """Weights [M] of runs: 1 / (variance · number of runs of that data size).

    The weight of a data size thus does not depend on its number of seeds. The variance is v₀ + v₁/D, with v₀ =
    ``least_variance`` (in squared units of the error; 0.02 for errors in percent) and v₁ fitted to the sample variances
    of the data sizes, weighted by their number of seeds.

    Args:
        samples, errors: [M] training samples and test errors of the runs.
    """
    sizes, size_M, counts = np.unique(samples, return_inverse=True, return_counts=True)
    several = counts > 1
    variances = np.array([errors[size_M == size].var(ddof=1) if several[size] else 0 for size in range(len(sizes))])
    share = several * (counts - 1) / sizes
    slope = float((share * (variances - least_variance)).sum() / max((share / sizes).sum(), 1e-300))
    smooth = least_variance + max(slope, 0.0) / sizes
    return np.asarray(1 / (smooth * counts))[size_M]


def searched_gamma(samples: Floats, errors: Floats, weights: Floats | None, prior: float = 0.0) -> float:
    """The γ of -0.99, -0.98, ..., -0.01 with the least weighted squares plus ``prior`` · |γ + 0.5|.

    Args:
        samples, errors: [M] training samples and test errors, positive.
        weights: [M] positive weights, such as those of ``seed_weights``; None: equal.
        prior: pulls γ to -0.5, which theory suggests, if few sizes do not determine it.
    """
    form, used = additive("unique_samples"), np.ones(len(errors)) if weights is None else weights
    scores = []
    for beta in GAMMAS:
        values, _ = fit(form, samples[None], errors, OBJECTIVES["least_squares"], used, np.array([[-beta]]))
        squares = (used * (form.predict(values[None], samples[None])[0] - errors) ** 2).sum()
        scores.append(squares + prior * abs(beta + 0.5))
    return float(GAMMAS[int(np.argmin(scores))])


def fit_learning_curve(
    samples: Floats,
    errors: Floats,
    least_variance: float = 0.02,
    exponents: Floats | None = None,
    *,
    gamma: float | None = None,
    prior: float | None = None,
) -> dict[str, float]:
    """Fit ``E``, ``B`` and ``beta`` = -γ with the weights of ``seed_weights``. By default beta is free.

    Args:
        samples, errors: [M] training samples and test errors, positive.
        exponents: [S] values of beta to choose from.
        gamma: fixed γ, negative; beta is then -γ.
        prior: searches γ as ``searched_gamma`` does, with this weight of the prior.
    """
    weights = seed_weights(samples, errors, least_variance)
    if prior is not None:
        gamma = searched_gamma(samples, errors, weights, prior)
    if gamma is not None:
        exponents = np.array([-gamma])
    grid = None if exponents is None else exponents[:, None]
    form = additive("unique_samples")
    values, _ = fit(form, samples[None], errors, OBJECTIVES["least_squares"], weights, grid)
    return dict(zip(form.names, values.tolist(), strict=True))
