"""The law of routed networks with the interaction of parameters and experts."""

from __future__ import annotations

import numpy as np
import pytest

import isoflop.scaling
from isoflop.runtime.errors import UserError
from isoflop.scaling.fitting.routing import RoutingLaw

SIZES, EXPERTS = (grid.ravel() for grid in np.meshgrid(np.geomspace(1.5e7, 1.3e9, 5), [1.0, 2, 8, 32, 128, 512]))
INTERACTION = 0.004
LAW = RoutingLaw(np.array([-0.08, -0.1, INTERACTION, 2.5]), np.zeros((4, 4)), 2.0, 512.0, 0.0)


def test_the_law_its_saturation_and_the_size_of_the_same_dense_network_are_recovered() -> None:
    found = isoflop.scaling.fit_routing_law(SIZES, EXPERTS, LAW.predict(SIZES, EXPERTS))
    np.testing.assert_allclose(found.coefficients, LAW.coefficients, rtol=1e-6)
    assert found.first == pytest.approx(2) and found.last == pytest.approx(512) and found.deviation < 1e-6
    dense = found.effective_parameters(SIZES, EXPERTS)
    np.testing.assert_allclose(dense[EXPERTS == 1], SIZES[EXPERTS == 1], rtol=1e-6)
    gain = (dense / SIZES)[EXPERTS == 32]
    assert (np.diff(gain) < 0).all() and gain[0] > 2  # experts help small networks more
    np.testing.assert_allclose(found.predict(dense, np.ones(len(dense))), found.predict(SIZES, EXPERTS), rtol=1e-6)


def test_the_covariance_holds_the_interaction() -> None:
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(40):
        noisy = LAW.predict(SIZES, EXPERTS) * np.exp(0.01 * rng.standard_normal(len(SIZES)))
        found = isoflop.scaling.fit_routing_law(SIZES, EXPERTS, noisy, (2.0, 512.0))
        errors.append((found.coefficients[2] - INTERACTION) / np.sqrt(found.covariance[2, 2]))
    assert 0.7 < np.std(errors) < 1.3


def test_runs_that_cannot_determine_the_law_are_refused() -> None:
    losses = LAW.predict(SIZES, EXPERTS)
    for part, message in ((EXPERTS == 1, "got 5 runs of 5 sizes and 1 numbers of experts"), (SIZES > 1e9, "1 sizes")):
        with pytest.raises(UserError, match=message):
            isoflop.scaling.fit_routing_law(SIZES[part], EXPERTS[part], losses[part])
    with pytest.raises(UserError, match="run 1: got a value that is missing or too small"):
        isoflop.scaling.fit_routing_law(SIZES, EXPERTS - 1, losses)
