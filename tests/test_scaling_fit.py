"""Fitting laws: true optima, known exponents, published fits, order and units, hopeless tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scaling_fit import GRID, many_starts, published
from isoflop.scaling.fitting import LOSSES, fit, objective, refit
from isoflop.scaling.laws import L_N, L_ND, Floats

needs_grid = pytest.mark.skipif(not GRID.is_dir(), reason=f"no public study at ../shared/datasets/scaling/{GRID.name}")


def design(sizes: int = 5, fractions: int = 4) -> Floats:
    """Levels [2, M] of a grid study."""
    parameters, images = np.meshgrid(np.geomspace(2e3, 3e5, sizes), 5e4 / 2.0 ** np.arange(fractions))
    return np.stack([parameters.ravel(), images.ravel()])


laws = st.tuples(
    st.floats(0.05, 1.0), st.floats(0.5, 5.0), st.floats(0.5, 5.0), st.floats(0.2, 0.9), st.floats(0.2, 0.9)
).map(lambda law: np.array([law[0], law[1] * 2e4 ** law[3] / 4, law[2] * 2e4 ** law[4] / 4, law[3], law[4]]))


@settings(max_examples=25, deadline=None)
@given(laws, st.sampled_from(sorted(LOSSES)))
def test_noiseless_runs_give_the_law_back(law: Floats, loss: str) -> None:
    levels = design()
    values, reached = fit(L_ND, levels, L_ND.predict(law[None], levels)[0], LOSSES[loss])
    assert reached < 1e-18
    np.testing.assert_allclose(values, law, rtol=1e-5)


@settings(max_examples=25, deadline=None)
@given(laws, st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_order_and_units_do_not_matter(law: Floats, seed: int, size_unit: float, image_unit: float) -> None:
    rng = np.random.default_rng(seed)
    levels = design()
    losses = L_ND.predict(law[None], levels)[0] * np.exp(0.03 * rng.standard_normal(levels.shape[1]))
    values, reached = fit(L_ND, levels, losses, LOSSES["mse"])
    order = rng.permutation(len(losses))
    other, other_reached = fit(L_ND, levels[:, order] * [[size_unit], [image_unit]], losses[order], LOSSES["mse"])
    assert other_reached == pytest.approx(reached, rel=1e-6)
    predicted = L_ND.predict(values[None], levels)[0]
    again = L_ND.predict(other[None], levels * [[size_unit], [image_unit]])[0]
    np.testing.assert_allclose(again, predicted, rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(laws, st.integers(0, 2**32 - 1), st.floats(0.001, 0.5))
def test_more_parameters_or_images_never_predict_a_higher_loss(law: Floats, seed: int, noise: float) -> None:
    levels = design(4, 3)
    spread = np.exp(noise * np.random.default_rng(seed).standard_normal(levels.shape[1]))
    values, _ = fit(L_ND, levels, L_ND.predict(law[None], levels)[0] * spread, LOSSES["huber"])
    assert np.isfinite(values).all() and (values >= 0).all()
    ladder = np.geomspace(1e2, 1e8, 30)
    for path in (np.stack([ladder, np.full(30, 3e4)]), np.stack([np.full(30, 3e4), ladder])):
        assert (np.diff(L_ND.predict(values[None], path)[0]) <= 1e-12).all()


@needs_grid
@pytest.mark.parametrize("loss", sorted(LOSSES))
@pytest.mark.parametrize("held_out", [False, True])
def test_no_grid_of_starts_gets_lower(loss: str, held_out: bool) -> None:
    levels, losses = published()
    keep = levels[0] < levels[0].max() if held_out else np.ones(len(losses), bool)
    levels, losses = levels[:, keep], losses[keep]
    _, reached = fit(L_ND, levels, losses, LOSSES[loss])
    assert reached <= many_starts(L_ND, levels, losses, LOSSES[loss], starts=60, seed=0) * (1 + 1e-9)


@needs_grid
def test_the_published_fits_are_reproduced_with_the_loss_of_their_author() -> None:
    levels, losses = published()
    values, _ = fit(L_ND, levels, losses, LOSSES["least_squares"])
    np.testing.assert_allclose(values[1:], [177.196, 26.2133, 0.657092, 0.411584], rtol=2e-5)
    assert values[0] < 1e-12
    full = levels[1] == 50_000
    alone, _ = fit(L_N, levels[:1, full], losses[full], LOSSES["least_squares"])
    np.testing.assert_allclose(alone, [0.236687, 51.1209, 0.499607], rtol=2e-5)


@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_replicates_reach_what_fits_of_their_own_reach(loss: str) -> None:
    levels = design(4, 3)
    law = np.array([0.3, 40.0, 12.0, 0.45, 0.42])
    tables = L_ND.predict(law[None], levels) * np.exp(0.05 * np.random.default_rng(0).standard_normal((20, 12)))
    together = objective(L_ND, refit(L_ND, levels, tables, LOSSES[loss], law), levels, tables, LOSSES[loss])
    apart = [fit(L_ND, levels, table, LOSSES[loss])[1] for table in tables]
    np.testing.assert_allclose(together, apart, rtol=0.05)  # a replicate has two starts, a fit has many


@pytest.mark.parametrize(
    "losses",
    [
        np.full(20, 0.7),
        np.geomspace(0.1, 5, 20),
        np.where(np.arange(20) == 7, 1e6, 0.5),
        0.5 + 0.3 * (np.arange(20) % 2),
    ],
    ids=["constant", "rising with size", "one outlier", "alternating"],
)
def test_losses_that_follow_no_law_still_give_finite_parameters(losses: Floats) -> None:
    for loss in LOSSES.values():
        values, reached = fit(L_ND, design(), losses, loss)
        assert np.isfinite(values).all() and (values >= 0).all() and np.isfinite(reached)
