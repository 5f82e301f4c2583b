"""Fits of M4 and of the broken power law, in batches of tables: analytic Jacobians, then bounded damped Gauss-Newton.

Each fit runs over coordinates [Q] in which the parameters of a curve hardly trade off against each other: a loss is in
units of a typical loss, log levels t are centered, and coefficients are replaced by the height of the curve at t = 0.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import product

import numpy as np

from isoflop.scaling.fitting.descent import EASY_DELTA, Descent
from isoflop.scaling.fitting.objectives import OBJECTIVES, Objective
from isoflop.scaling.forms import M4, TINY, Broken, Floats, logit_of_m4

MAX_BEND = 10.0  # of M4's exponent a
_MAX_EXPONENT = 10.0
_LEVELS_BESIDE_BREAK = 3  # on each side of a break, so that both exponents are determined
_WIDTHS = (0.1, 3.0)  # of a break, in units of log level
_KEPT_STARTS = 6
_PERTURBED = 11
_OUTLIER_CURVATURE = (
    0.3  # share of the curvature of the majorizer of Huber's loss beyond δ: l1 needs it, squares do not
)


class Bent(Descent):
    """A curve L(t) over coordinates [Q], with its Jacobian. The state [R, 1 + Q, M] is both."""

    def __init__(
        self, levels: Floats, losses: Floats, objective: Objective, weights: Floats | None, lower: Floats, upper: Floats
    ) -> None:
        count = levels.shape[-1]
        super().__init__(objective, lower, upper, np.ones(count) if weights is None else weights)
        self.unit = float(np.exp(np.log(losses).mean()))
        self.centre = float(np.log(levels).mean())
        self._t_M = np.log(levels).ravel() - self.centre

    @property
    def lower(self) -> Floats:
        return self._lower_P

    @property
    def upper(self) -> Floats:
        return self._upper_P

    @abstractmethod
    def values(self, coordinates_RQ: Floats) -> Floats:
        """Parameters [R, P] of the form."""

    @abstractmethod
    def coordinates(self, values_RP: Floats) -> Floats:
        """The inverse of ``values``."""

    @abstractmethod
    def starts(self, power: Floats) -> Floats:
        """Starts [S, Q] around a power law with parameters ``power``: E, coefficient, exponent, in the form's units."""

    def best_of(self, starts_SQ: Floats, target_M: Floats) -> tuple[Floats, float]:
        """Minimize from all starts for one table; return the best coordinates [Q] and their objective."""
        targets_SM = np.repeat(target_M[None] / self.unit, len(starts_SQ), axis=0)
        clipped_SQ = np.clip(starts_SQ, self._lower_P, self._upper_P)
        delta = self._objective.delta
        moved_SQ, reached_S = self._newton(clipped_SQ, targets_SM, max(16 * delta, EASY_DELTA), most=25)
        kept = np.argsort(reached_S, kind="stable")[:_KEPT_STARTS]
        solved_SQ, objectives_S = self.solve(moved_SQ[kept], targets_SM[: len(kept)])
        best = int(np.argmin(objectives_S))
        return solved_SQ[best], float(objectives_S[best])

    def around(self, coordinates_Q: Floats, target_M: Floats) -> Floats:
        """More starts [S, Q]: the curve itself, and fits to it plus noise as large as the residuals, see ``newton``."""
        state_M = self._state(coordinates_Q[None])[0, 0]
        residuals_M = self._objective.residuals(state_M, target_M / self.unit)
        spread = float(np.sqrt((residuals_M**2).mean()))
        rng = np.random.default_rng(0)  # for the search only; the result hardly depends on it
        noise_SM = spread * rng.standard_normal((_PERTURBED, len(target_M)))
        logarithmic = self._objective.logarithmic
        tables_SM = state_M * np.exp(noise_SM) if logarithmic else np.maximum(state_M + noise_SM, TINY)
        near_SQ = np.repeat(coordinates_Q[None], _PERTURBED, axis=0)
        moved_SQ, _ = self._newton(near_SQ, tables_SM, max(16 * self._objective.delta, EASY_DELTA), most=15)
        return np.concatenate([coordinates_Q[None], moved_SQ])

    def refits(self, near_Q: Floats, targets_RM: Floats, irreducible_R: Floats | None = None) -> Floats:
        """Coordinates [R, Q] of R tables, each from the same start; with E fixed if it is given, in units of a loss."""
        near_RQ = np.repeat(np.clip(near_Q, self._lower_P, self._upper_P)[None], len(targets_RM), axis=0)
        if irreducible_R is not None:
            near_RQ[:, 0] = np.minimum(irreducible_R / self.unit, self._upper_P[0])
            self.free_P[0] = False
        return self.solve(near_RQ, targets_RM / self.unit, rounds=4)[0]

    def _predict(self, values_RP: Floats, state_RFM: Floats) -> Floats:
        return state_RFM[:, 0]

    def _derivatives(
        self, values_RP: Floats, state_RFM: Floats, targets_RM: Floats, weights_RM: Floats, delta: float
    ) -> tuple[Floats, Floats, Floats]:
        predicted_RM, jacobian_RPM = state_RFM[:, 0], state_RFM[:, 1:]
        residuals_RM = self._objective.residuals(predicted_RM, targets_RM)
        if self._objective.logarithmic:
            jacobian_RPM = jacobian_RPM / np.maximum(predicted_RM, TINY)[:, None]
        weights_RM = self._objective.weighted(weights_RM, residuals_RM)
        slope_RM = np.clip(residuals_RM, -delta, delta) * weights_RM
        size_RM = np.abs(residuals_RM)
        outer_RM = np.where(size_RM <= delta, 1.0, _OUTLIER_CURVATURE * delta / np.maximum(size_RM, TINY)) * weights_RM
        gradient_RP = (jacobian_RPM @ slope_RM[:, :, None])[:, :, 0]
        hessian_RPP = (jacobian_RPM * outer_RM[:, None]) @ np.swapaxes(jacobian_RPM, 1, 2)
        return gradient_RP, hessian_RPP, np.sqrt((jacobian_RPM**2).sum(axis=2))


class BentM4(Bent):
    """M4 over [E, log(L0 / largest loss - 1), c, a, α] with L = E + (L0 - E) s(u), log s(u) - a log s(-u) = c - α t."""

    def __init__(self, levels: Floats, losses: Floats, objective: Objective, weights: Floats | None = None) -> None:
        largest = float(losses.max())
        lower = np.array([0.0, np.log(1e-4), -60.0, 0.0, 0.0])
        unit = float(np.exp(np.log(losses).mean()))
        upper = np.array([float(losses.min()) / unit, np.log(100.0), 60.0, MAX_BEND, _MAX_EXPONENT])
        super().__init__(levels, losses, objective, weights, lower, upper)
        self._worst = largest / self.unit

    def values(self, coordinates_RQ: Floats) -> Floats:
        irreducible, above, height, bend, exponent = coordinates_RQ.T
        chance = self._worst * (1 + np.exp(above))
        span = np.maximum(chance - irreducible, TINY) * self.unit
        coefficient = np.exp(height + exponent * self.centre - (bend - 1) * np.log(span))
        return np.stack([irreducible * self.unit, chance * self.unit, coefficient, bend, exponent], axis=1)

    def coordinates(self, values_RP: Floats) -> Floats:
        irreducible, chance, coefficient, bend, exponent = values_RP.T
        span = np.maximum(chance - irreducible, TINY)
        height = np.log(np.maximum(coefficient, TINY)) - exponent * self.centre + (bend - 1) * np.log(span)
        above = np.log(np.maximum(chance / self.unit / self._worst - 1, 1e-4))
        return np.stack([irreducible / self.unit, above, height, bend, exponent], axis=1)

    def starts(self, power: Floats) -> Floats:
        irreducible, coefficient, exponent = power
        at_centre = max(coefficient, TINY) * np.exp(-exponent * self.centre) / self.unit
        found = []
        for above, bend, share, steeper in product((0.02, 0.5), (0.0, 1.0, 4.0), (0.3, 1.0), (1.0, 2.0)):
            chance, least = self._worst * (1 + above), share * irreducible / self.unit
            reduced = np.clip(at_centre / (chance - least), 1e-6, 0.95)
            height = np.log(reduced) - bend * np.log1p(-reduced)
            found.append([least, np.log(above), height, bend, max(exponent, 0.05) * steeper])
        return np.array(found)

    def _state(self, values_RP: Floats) -> Floats:
        irreducible, above, height, bend, exponent = (column[:, None] for column in values_RP.T)
        excess = self._worst * np.exp(above)
        span = np.maximum(self._worst + excess - irreducible, TINY)
        u = logit_of_m4(height - exponent * self._t_M, bend)
        beyond = -np.logaddexp(0, u)  # log s(-u)
        share = np.exp(u + beyond)
        slope = np.maximum(1 + (bend - 1) * share, 1e-12)
        by_u = span * share * np.exp(beyond) / slope  # dL/du times du/d(right-hand side)
        rows = [
            irreducible + span * share, 1 - share, excess * share, by_u, by_u * beyond, -by_u * self._t_M,
        ]  # fmt: skip
        return np.stack(np.broadcast_arrays(*rows), axis=1)


class BentBroken(Bent):
    """The broken power law over [E, log height at t = 0, c0, c0 + c1, log d1, log f1]."""

    def __init__(self, levels: Floats, losses: Floats, objective: Objective, weights: Floats | None = None) -> None:
        logs = np.unique(np.log(levels))
        logs = logs - np.log(levels).mean()
        beside = min(_LEVELS_BESIDE_BREAK, (len(logs) - 1) // 2)
        first, last = logs[beside], logs[-1 - beside]
        unit = float(np.exp(np.log(losses).mean()))
        lower = np.array([0.0, -60.0, 0.0, 0.0, first, np.log(_WIDTHS[0])])
        upper = np.array([float(losses.min()) / unit, 60.0, _MAX_EXPONENT, _MAX_EXPONENT, last, np.log(_WIDTHS[1])])
        super().__init__(levels, losses, objective, weights, lower, upper)

    def values(self, coordinates_RQ: Floats) -> Floats:
        irreducible, height, early, late, at, width = coordinates_RQ.T
        change, width = late - early, np.exp(width)
        bend = change * width * np.logaddexp(0, -at / width)
        coefficient = np.exp(height + early * self.centre + bend) * self.unit
        return np.stack([irreducible * self.unit, coefficient, early, change, np.exp(at + self.centre), width], axis=1)

    def coordinates(self, values_RP: Floats) -> Floats:
        irreducible, coefficient, early, change, at, width = values_RP.T
        at = np.log(at) - self.centre
        bend = change * width * np.logaddexp(0, -at / width)
        height = np.log(np.maximum(coefficient, TINY) / self.unit) - early * self.centre - bend
        return np.stack([irreducible / self.unit, height, early, early + change, at, np.log(width)], axis=1)

    def starts(self, power: Floats) -> Floats:
        irreducible, coefficient, exponent = power
        found = []
        breaks = np.linspace(self._lower_P[4], self._upper_P[4], 4)
        for share, at, width, (early, late) in product(
            (0.0, 0.8), breaks, (0.3,), ((0.2, 1.5), (1.0, 1.0), (1.5, 0.5))
        ):
            least = share * irreducible / self.unit
            height = np.log(max(coefficient, TINY) * np.exp(-exponent * self.centre) / self.unit + (1 - share) * 0.1)
            steep = max(exponent, 0.05)
            found.append([least, height, early * steep, late * steep, at, np.log(width)])
        return np.array(found)

    def _state(self, values_RP: Floats) -> Floats:
        irreducible, height, early, late, at, log_width = (column[:, None] for column in values_RP.T)
        width = np.exp(log_width)
        here, origin = (self._t_M - at) / width, -at / width
        soft = np.logaddexp(0, here) - np.logaddexp(0, origin)
        past, past_origin = np.exp(-np.logaddexp(0, -here)), np.exp(-np.logaddexp(0, -origin))
        rise = width * soft
        excess = np.exp(height - early * self._t_M - (late - early) * rise)
        by_at = excess * (late - early) * (past - past_origin)
        by_width = -excess * (late - early) * (rise - width * (past * here - past_origin * origin))
        rows = [
            irreducible + excess, np.ones_like(excess), excess, excess * (rise - self._t_M), -excess * rise, by_at,
            by_width,
        ]  # fmt: skip
        return np.stack(np.broadcast_arrays(*rows), axis=1)


def bent(
    form: M4 | Broken, levels: Floats, losses: Floats, objective: Objective, weights: Floats | None = None
) -> Bent:
    """The problem of a form for tables like ``losses`` [M] at ``levels`` [1, M], with ``weights`` [M] or [R, M]."""
    kind = BentM4 if isinstance(form, M4) else BentBroken
    return kind(levels, losses, objective, weights)


def at_bounds(form: M4 | Broken, levels: Floats, losses: Floats, values: Floats) -> dict[str, float]:
    """The parameters, by name, that lie at a bound of the fit which is not a limit of their meaning.

    For M4 these are L0 at its largest and the bend; for the broken power law the level and the width of the break.
    """
    problem = bent(form, levels, losses, OBJECTIVES["mse"])
    found = problem.coordinates(values[None])[0]
    margin = 1e-4 * (problem.upper - problem.lower)
    index = (1, 3) if isinstance(form, M4) else (4, 5)
    low_too = not isinstance(form, M4)  # M4 with a = 0 is a power law, and L0 may be the largest loss
    at = [one for one in index if found[one] > problem.upper[one] - margin[one]
          or (low_too and found[one] < problem.lower[one] + margin[one])]  # fmt: skip
    return {form.names[one]: float(values[one]) for one in at}
