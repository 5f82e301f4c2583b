"""IsoFLOP profiles: the compute-optimal size, coverage of its interval, and rejection of unbracketed minima."""

from __future__ import annotations

import csv

import numpy as np
import pytest

from isoflop.scaling.forms import Floats
from isoflop.scaling.profiles import Profile, disagreement, exponent, group_by_budget, profiles
from tests.conftest import ROOT

GRID = ROOT.parent / "shared" / "datasets" / "scaling" / "cifar10_cnn_grid"
# L(N, D) = E + A/N^α + B/D^β and C = 6 N D: N* = (αA / βB)^(1/(α+β)) (C/6)^(β/(α+β)), Hoffmann et al. 2022, eq. 4
E, A, B, ALPHA, BETA = 0.3, 60.0, 400.0, 0.5, 0.5


def best_size(flops: float) -> float:
    return float((ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA)) * (flops / 6) ** (BETA / (ALPHA + BETA)))


def study(budgets: list[float], spread: float, seed: int, factors: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """FLOPs, sizes, samples and losses of runs whose sizes are the optimum of each budget times each factor."""
    rng = np.random.default_rng(seed)
    flops = np.repeat(budgets, len(factors))
    sizes = np.concatenate([best_size(budget) * factors for budget in budgets])
    samples = flops / (6 * sizes)
    losses = E + A / sizes**ALPHA + B / samples**BETA
    return flops, sizes, samples, losses * np.exp(spread * rng.standard_normal(len(losses)))


def found(spread: float, seed: int, factors: Floats, budgets: list[float]) -> list[Profile]:
    return profiles(*study(budgets, spread, seed, factors), 400, np.random.default_rng(seed))


def test_the_minimum_of_noiseless_runs_is_found() -> None:
    budgets = [1e13, 1e14, 1e15]
    for profile, budget in zip(found(0, 0, np.geomspace(1 / 4, 4, 7), budgets), budgets, strict=True):
        assert profile.parameters == pytest.approx(best_size(budget), rel=0.02)
        assert profile.samples == pytest.approx(budget / (6 * best_size(budget)), rel=0.05)
        assert profile.loss == pytest.approx(
            E + A / best_size(budget) ** ALPHA + B / (budget / 6 / best_size(budget)) ** BETA, rel=1e-3
        )
        assert profile.flat and profile.flat[0] < best_size(budget) < profile.flat[1]
    assert exponent(found(0, 0, np.geomspace(1 / 4, 4, 7), budgets)) == pytest.approx(BETA / (ALPHA + BETA), rel=0.01)


@pytest.mark.parametrize("spread", [0.01, 0.03])
def test_the_interval_of_the_optimum_covers_it(spread: float) -> None:
    budgets = [1e13, 1e14, 1e15]
    hits = []
    for seed in range(60):
        for profile, budget in zip(found(spread, seed, np.geomspace(1 / 5, 5, 9), budgets), budgets, strict=True):
            if profile.parameters_interval:
                low, high = profile.parameters_interval
                hits.append(low <= best_size(budget) <= high)
    assert len(hits) > 150 and 0.88 <= np.mean(hits) <= 0.995


@pytest.mark.parametrize(
    ("factors", "end"), [(np.geomspace(1.5, 9, 6), "smallest"), (np.geomspace(0.1, 0.7, 6), "largest")]
)
def test_an_unbracketed_minimum_is_rejected(factors: Floats, end: str) -> None:
    (profile,) = found(0, 0, factors, [1e14])
    assert profile.parameters is None and profile.rejected and f"at the {end} size" in profile.rejected


def test_an_optimum_outside_the_runs_is_mostly_rejected() -> None:
    factors = np.geomspace(0.04, 0.64, 5)  # of the optimum, which is larger than the largest model
    seen = [found(0.01, seed, factors, [1e14])[0] for seed in range(40)]
    claimed = [profile.parameters_interval for profile in seen if profile.parameters_interval]
    assert len(claimed) <= 4


def test_three_sizes_give_no_profile() -> None:
    assert found(0, 0, np.array([0.5, 1.0, 2.0]), [1e14]) == []


def test_runs_are_grouped_by_budget() -> None:
    groups = group_by_budget(np.array([1e15, 1e13, 1.04e13, 0.98e15, 1e14]))
    assert [group.tolist() for group in groups] == [[1, 2], [4], [0, 3]]


def test_disagreement_with_the_law_is_reported() -> None:
    (profile,) = found(0.01, 0, np.geomspace(1 / 4, 4, 7), [1e14])
    assert profile.parameters_interval and disagreement(profile, profile.parameters_interval) is None
    message = disagreement(profile, (1e9, 2e9))
    assert message and "1e+09 to 2e+09 by the law" in message


@pytest.mark.skipif(not GRID.is_dir(), reason=f"no public study at ../shared/datasets/scaling/{GRID.name}")
def test_the_public_profile_has_the_optimum_of_its_author() -> None:
    with (GRID / "fixed_compute_data.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    flops, sizes, images, epochs, losses = (
        np.array([float(row[name]) for row in rows])
        for name in ("total_flops", "N", "D", "epochs", "final_test_loss_avg_last5")
    )
    (profile,) = profiles(flops, sizes, images * epochs, losses, 1000, np.random.default_rng(0))
    assert profile.parameters_interval
    assert profile.parameters_interval[0] < 5.1e5 and profile.parameters_interval[1] > 2.9e5
