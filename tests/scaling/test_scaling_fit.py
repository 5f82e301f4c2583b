"""Fitting: global optima, known exponents, published fits, invariance to order and units, tables without a law."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.scaling_fit import GRID, many_starts, published
from isoflop.scaling.fitting.learning_curves import fit_learning_curve
from isoflop.scaling.fitting.objectives import OBJECTIVES
from isoflop.scaling.fitting.one_form import fit, objective_values, refit
from isoflop.scaling.forms import L_N, L_ND, M4, Floats, Form, additive

needs_grid = pytest.mark.skipif(not GRID.is_dir(), reason=f"no public study at ../shared/datasets/scaling/{GRID.name}")


def design(sizes: int = 5, fractions: int = 4) -> Floats:
    """Levels [2, M] of a grid study."""
    parameters, images = np.meshgrid(np.geomspace(2e3, 3e5, sizes), 5e4 / 2.0 ** np.arange(fractions))
    return np.stack([parameters.ravel(), images.ravel()])


laws = st.tuples(
    st.floats(0.05, 1.0), st.floats(0.5, 5.0), st.floats(0.5, 5.0), st.floats(0.2, 0.9), st.floats(0.2, 0.9)
).map(lambda law: np.array([law[0], law[1] * 2e4 ** law[3] / 4, law[2] * 2e4 ** law[4] / 4, law[3], law[4]]))


@settings(max_examples=25, deadline=None)
@given(laws, st.sampled_from(sorted(OBJECTIVES)))
def test_noiseless_runs_recover_the_law(law: Floats, loss: str) -> None:
    levels = design()
    values, reached = fit(L_ND, levels, L_ND.predict(law[None], levels)[0], OBJECTIVES[loss])
    assert reached < 1e-18
    np.testing.assert_allclose(values, law, rtol=1e-6)


@settings(max_examples=25, deadline=None)
@given(laws, st.integers(0, 2**32 - 1), st.floats(1e-3, 1e3), st.floats(1e-3, 1e3))
def test_the_fit_is_invariant_to_order_and_units(law: Floats, seed: int, size_unit: float, image_unit: float) -> None:
    rng = np.random.default_rng(seed)
    levels = design()
    losses = L_ND.predict(law[None], levels)[0] * np.exp(0.03 * rng.standard_normal(levels.shape[1]))
    values, reached = fit(L_ND, levels, losses, OBJECTIVES["mse"])
    order = rng.permutation(len(losses))
    other, other_reached = fit(L_ND, levels[:, order] * [[size_unit], [image_unit]], losses[order], OBJECTIVES["mse"])
    assert other_reached == pytest.approx(reached, rel=1e-6)
    predicted = L_ND.predict(values[None], levels)[0]
    again = L_ND.predict(other[None], levels * [[size_unit], [image_unit]])[0]
    np.testing.assert_allclose(again, predicted, rtol=1e-3)


@settings(max_examples=25, deadline=None)
@given(laws, st.integers(0, 2**32 - 1), st.floats(0.001, 0.5))
def test_more_parameters_or_images_never_predict_a_higher_loss(law: Floats, seed: int, noise: float) -> None:
    levels = design(4, 3)
    spread = np.exp(noise * np.random.default_rng(seed).standard_normal(levels.shape[1]))
    values, _ = fit(L_ND, levels, L_ND.predict(law[None], levels)[0] * spread, OBJECTIVES["huber"])
    assert np.isfinite(values).all() and (values >= 0).all()
    ladder = np.geomspace(1e2, 1e8, 30)
    for path in (np.stack([ladder, np.full(30, 3e4)]), np.stack([np.full(30, 3e4), ladder])):
        assert (np.diff(L_ND.predict(values[None], path)[0]) <= 1e-12).all()


@needs_grid
@pytest.mark.parametrize("loss", sorted(OBJECTIVES))
@pytest.mark.parametrize("held_out", [False, True])
def test_many_starts_reach_no_lower_objective(loss: str, held_out: bool) -> None:
    levels, losses = published()
    keep = levels[0] < levels[0].max() if held_out else np.ones(len(losses), bool)
    levels, losses = levels[:, keep], losses[keep]
    _, reached = fit(L_ND, levels, losses, OBJECTIVES[loss])
    assert reached <= many_starts(L_ND, levels, losses, OBJECTIVES[loss], starts=60, seed=0) * (1 + 1e-9)


@needs_grid
def test_the_published_fits_are_reproduced_with_their_objective() -> None:
    levels, losses = published()
    values, _ = fit(L_ND, levels, losses, OBJECTIVES["least_squares"])
    np.testing.assert_allclose(values[1:], [177.196, 26.2133, 0.657092, 0.411584], rtol=2e-5)
    assert values[0] < 1e-12
    full = levels[1] == 50_000
    alone, _ = fit(L_N, levels[:1, full], losses[full], OBJECTIVES["least_squares"])
    np.testing.assert_allclose(alone, [0.236687, 51.1209, 0.499607], rtol=2e-5)


@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_refit_reaches_the_objective_of_separate_fits(loss: str) -> None:
    levels = design(4, 3)
    law = np.array([0.3, 40.0, 12.0, 0.45, 0.42])
    tables = L_ND.predict(law[None], levels) * np.exp(0.05 * np.random.default_rng(0).standard_normal((20, 12)))
    together = objective_values(
        L_ND, refit(L_ND, levels, tables, OBJECTIVES[loss], law), levels, tables, OBJECTIVES[loss]
    )
    apart = [fit(L_ND, levels, table, OBJECTIVES[loss])[1] for table in tables]
    np.testing.assert_allclose(together, apart, rtol=0.05)  # a replicate has two starts, a fit has many


@pytest.mark.parametrize(
    "losses",
    [
        np.full(20, 0.7),
        np.geomspace(0.1, 5, 20),
        np.where(np.arange(20) == 7, 1e6, 0.5),
        0.5 + 0.3 * (np.arange(20) % 2),
    ],
    ids=["constant", "increasing with size", "one outlier", "alternating"],
)
def test_losses_that_follow_no_law_still_give_finite_parameters(losses: Floats) -> None:
    for loss in OBJECTIVES.values():
        values, reached = fit(L_ND, design(), losses, loss)
        assert np.isfinite(values).all() and (values >= 0).all() and np.isfinite(reached)


ONE = np.geomspace(1e3, 1e6, 12)[None]


@settings(max_examples=25, deadline=None)
@given(st.floats(0.05, 1.0), st.floats(0.5, 5.0), st.floats(0.1, 0.5), st.floats(0.1, 0.5))
def test_a_multiplicative_law_is_recovered_and_fits_better_than_an_additive_one(
    floor: float, at_centre: float, alpha: float, beta: float
) -> None:
    form = Form((("parameters", "unique_samples"),))
    law = np.array([floor, at_centre * 2e4**alpha * 2e4**beta, alpha, beta])
    losses = form.predict(law[None], design())[0]
    values, reached = fit(form, design(), losses, OBJECTIVES["mse"])
    assert reached < 1e-18
    np.testing.assert_allclose(values, law, rtol=1e-6)
    assert fit(L_ND, design(), losses, OBJECTIVES["mse"])[1] > 1e6 * reached + 1e-12


def test_three_axes_are_recovered() -> None:
    form = additive("parameters", "unique_samples", "seen_samples")
    grid = np.meshgrid(np.geomspace(2e3, 3e5, 4), np.geomspace(1e4, 4e4, 3), np.array([1.0, 3.0, 9.0]))
    levels = np.stack([grid[0].ravel(), grid[1].ravel(), (grid[1] * grid[2]).ravel()])
    law = np.array([0.2, 50.0, 300.0, 700.0, 0.5, 0.7, 0.6])
    values, reached = fit(form, levels, form.predict(law[None], levels)[0], OBJECTIVES["huber"])
    assert reached < 1e-18
    np.testing.assert_allclose(values, law, rtol=1e-6)


@pytest.mark.parametrize("bend", [0.0, 0.5, 1.5])
def test_m4_solves_its_equation_and_is_recovered(bend: float) -> None:
    form = M4("parameters")
    law = np.array([0.3, 2.3, 900.0, bend, 0.9])
    losses = form.predict(law[None], ONE)[0]
    np.testing.assert_allclose((losses - 0.3) / (2.3 - losses) ** bend, 900.0 * ONE[0] ** -0.9, rtol=1e-8)
    values, reached = fit(form, ONE, losses, OBJECTIVES["mse"])
    assert reached < 1e-9
    further = np.geomspace(1e6, 1e7, 5)[None]
    np.testing.assert_allclose(form.predict(values[None], further), form.predict(law[None], further), rtol=2e-3)


def test_m4_without_a_bend_is_the_power_law() -> None:
    law, form = np.array([[0.3, 1e4, 40.0, 0.0, 0.5]]), M4("parameters")
    np.testing.assert_allclose(form.predict(law, ONE), L_N.predict(np.array([[0.3, 40.0, 0.5]]), ONE), rtol=1e-9)


def test_l1_reaches_the_minimum_of_a_simplex_search() -> None:
    """Absolute residuals of log L have no linear program, so the reference is Nelder-Mead from perturbed starts."""
    from scipy.optimize import minimize

    levels, law = design(4, 3), np.array([0.3, 40.0, 12.0, 0.45, 0.42])
    losses = L_ND.predict(law[None], levels)[0] * np.exp(0.03 * np.random.default_rng(1).standard_normal(12))
    values, _ = fit(L_ND, levels, losses, OBJECTIVES["l1"])

    def total(point: Floats) -> float:
        return float(np.abs(np.log(L_ND.predict(np.exp(point)[None], levels)[0] / losses)).sum())

    ours = total(np.log(np.maximum(values, 1e-12)))
    rng = np.random.default_rng(2)
    options = {"maxiter": 20_000, "maxfev": 20_000, "xatol": 1e-9, "fatol": 1e-12}
    starts = [np.log(np.maximum(values, 1e-3)) + 0.1 * rng.standard_normal(5) for _ in range(5)] + [np.log(law)]
    theirs = min(minimize(total, start, method="Nelder-Mead", options=options).fun for start in starts)
    assert ours <= theirs * (1 + 1e-4)


def test_an_integer_weight_equals_repeated_runs() -> None:
    levels, rng = design(4, 3), np.random.default_rng(0)
    law = np.array([0.3, 40.0, 12.0, 0.45, 0.42])
    losses = L_ND.predict(law[None], levels)[0] * np.exp(0.03 * rng.standard_normal(12))
    weights = np.where(np.arange(12) % 3 == 0, 3.0, 1.0)
    repeated = np.repeat(np.arange(12), weights.astype(int))
    values, _ = fit(L_ND, levels, losses, OBJECTIVES["mse"], weights)
    again, _ = fit(L_ND, levels[:, repeated], losses[repeated], OBJECTIVES["mse"])
    np.testing.assert_allclose(L_ND.predict(values[None], levels), L_ND.predict(again[None], levels), rtol=1e-5)


HOIEM = GRID.parent / "learning_curve_hoiem" / "no_pretr_ft.json"


@pytest.mark.skipif(not HOIEM.is_file(), reason="no public learning curves at ../shared/datasets/scaling")
def test_the_published_learning_curve_is_reproduced() -> None:
    points = json.loads(HOIEM.read_text())
    samples = np.concatenate([[float(point["num_train_samples"])] * len(point["test_errors"]) for point in points])
    errors = np.concatenate([point["test_errors"] for point in points])
    curve = fit_learning_curve(samples, errors, exponents=np.arange(1, 101) / 100)  # the authors' grid
    assert curve["beta"] == pytest.approx(0.41, rel=1e-3)
    assert curve["E"] == pytest.approx(5.6835, rel=1e-3) and curve["B"] == pytest.approx(259.286, rel=1e-3)
    assert fit_learning_curve(samples, errors, prior=0.0)["beta"] == pytest.approx(0.41)
    assert (
        fit_learning_curve(samples, errors, prior=1e6)["beta"]
        == fit_learning_curve(samples, errors, gamma=-0.5)["beta"]
    )
    free = fit_learning_curve(samples, errors)
    assert free["beta"] == pytest.approx(0.41, abs=0.01)
