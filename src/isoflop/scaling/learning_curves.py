"""A learning curve, error = E + B/D^β, by weighted least squares over several seeds a data size.

Hoiem et al. 2021, "Learning Curves for Analysis of Deep Networks".
"""

from __future__ import annotations

import numpy as np

from isoflop.scaling.fitting import LOSSES, fit
from isoflop.scaling.forms import Floats, additive


def seed_weights(samples: Floats, errors: Floats, least_variance: float) -> Floats:
    """Weights [M] of runs: 1 / (variance · runs of that data size), so that every data size counts by how well it is
    known, however many seeds it has.

    The variance is v₀ + v₁/D, with v₀ = ``least_variance`` (in squares of the error's unit; 0.02 for errors in
    per cent) and v₁ fitted to the data sizes' own sample variances, those of more seeds counting more.

    Args:
        samples, errors: [M] of the runs.
    """
    sizes, place_M, counts = np.unique(samples, return_inverse=True, return_counts=True)
    several = counts > 1
    variances = np.array([errors[place_M == place].var(ddof=1) if several[place] else 0 for place in range(len(sizes))])
    share = several * (counts - 1) / sizes
    slope = float((share * (variances - least_variance)).sum() / max((share / sizes).sum(), 1e-300))
    smooth = least_variance + max(slope, 0.0) / sizes
    return np.asarray(1 / (smooth * counts))[place_M]


def fit_learning_curve(
    samples: Floats, errors: Floats, least_variance: float = 0.02, exponents: Floats | None = None
) -> dict[str, float]:
    """``E``, ``B`` and ``beta`` of the curve nearest to the runs, weighted by ``seed_weights``.

    Args:
        samples, errors: [M] training samples and test errors, positive.
        exponents: [S] values of beta to choose from; None searches all.
    """
    weights = seed_weights(samples, errors, least_variance)
    grid = None if exponents is None else exponents[:, None]
    form = additive("unique_samples")
    values, _ = fit(form, samples[None], errors, LOSSES["least_squares"], weights, grid)
    return dict(zip(form.names, values.tolist(), strict=True))
