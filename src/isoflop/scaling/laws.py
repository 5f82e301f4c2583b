"""Forms of scaling laws: a floor and a power law an axis, L = E + Σ_k A_k x_k^-α_k."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# The letters that the literature gives the coefficient and the exponent of an axis.
_LETTERS = {"parameters": ("A", "alpha"), "unique_images": ("B", "beta"), "flops": ("C", "gamma")}


@dataclass(frozen=True)
class Form:
    """Which axes a law has, in order.

    ``Form(("parameters", "unique_images"))`` is L(N, D) = E + A/N^α + B/D^β (Hoffmann et al. 2022, eq. 2);
    one axis alone gives L(N), L(D) or L(C). The values of a law's parameters are an array [1 + 2K] for K axes:
    E, the K coefficients, the K exponents.
    """

    axes: tuple[str, ...]

    @property
    def size(self) -> int:
        """How many parameters the law has."""
        return 1 + 2 * len(self.axes)

    @property
    def names(self) -> list[str]:
        """Names of the parameters in the order of their values: E, A, B, alpha, beta."""
        letters = [_LETTERS[axis] for axis in self.axes]
        return ["E", *(coefficient for coefficient, _ in letters), *(exponent for _, exponent in letters)]

    def predict(self, values: Floats, levels: Floats) -> Floats:
        """Loss [R, M] of R laws at M points.

        Args:
            values: [R, P] parameters of R laws, as ``names`` orders them.
            levels: [K, M] positive levels of the axes, as ``axes`` orders them.
        """
        count = len(self.axes)
        loss_RM = np.repeat(values[:, :1], levels.shape[1], axis=1)
        for axis in range(count):
            coefficient, exponent = values[:, 1 + axis, None], values[:, 1 + count + axis, None]
            loss_RM += coefficient * np.exp(-exponent * np.log(levels[axis]))
        return loss_RM

    def point(self, parameters: float, unique_images: float) -> Floats:
        """Levels [K] of this form's axes for a model and its data."""
        return np.array([parameters, unique_images][: len(self.axes)], np.float64)


L_N = Form(("parameters",))
L_ND = Form(("parameters", "unique_images"))
