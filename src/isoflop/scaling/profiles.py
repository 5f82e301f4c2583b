"""IsoFLOP profiles: at each budget of FLOPs, the model size of least loss, read off the runs themselves.

Hoffmann et al. 2022, Approach 2, with a cubic in log N where they have a parabola: profiles rise faster towards large
models, which see few samples, than towards small ones, and a parabola's minimum is pulled to the small side (on the
public CIFAR-10 study by 30 %).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from isoflop.scaling.forms import Floats
from isoflop.scaling.planning import FLAT
from isoflop.scaling.uncertainty import interval

_SAME_BUDGET = 1.15  # runs of a profile have at most this many times the FLOPs of its cheapest
_MIN_SIZES = 4  # of a profile: a parabola through three leaves nothing to tell its error by
_MOST_OUTSIDE = 0.05  # share of tables like it whose least loss is at an end: the minimum is not bracketed
_GRID = 2001  # places at which a profile's curve is looked at


@dataclass(frozen=True)
class Profile:
    """The runs of one budget and the size N* of least loss among them.

    ``refused`` says why there is no N*; the figures are None then. Intervals are of 95 %.
    """

    flops: float
    sizes: Floats  # of its runs [M]: parameters
    losses: Floats  # [M]
    curve: Floats  # coefficients of log loss in log N - centre, highest first
    centre: float
    refused: str | None = None
    parameters: float | None = None
    parameters_interval: tuple[float, float] | None = None
    samples: float | None = None  # that the budget pays for at N*, D*
    samples_interval: tuple[float, float] | None = None
    loss: float | None = None
    flat: tuple[float, float] | None = None  # parameters between which the loss is within 1 % of the best

    def predict(self, sizes: Floats) -> Floats:
        """Loss [P] at sizes [P]."""
        return np.asarray(np.exp(np.polyval(self.curve, np.log(sizes) - self.centre)))


def budgets_of(flops: Floats) -> list[npt.NDArray[np.int64]]:
    """The numbers of the runs of each budget, from the least budget to the most."""
    groups: list[list[int]] = []
    for number in np.argsort(flops, kind="stable"):
        if not groups or flops[number] > _SAME_BUDGET * flops[groups[-1][0]]:
            groups.append([])
        groups[-1].append(int(number))
    return [np.sort(np.array(group, np.int64)) for group in groups]


def profiles(
    flops: Floats, sizes: Floats, samples: Floats, losses: Floats, replicates: int, rng: np.random.Generator
) -> list[Profile]:
    """The profile of every budget that was spent on four sizes or more.

    Args:
        flops: [M] of the runs; sizes: [M] parameters; samples: [M] seen in training, repeated or not.
        replicates: tables as could have been measured, for the intervals. Their noise is what the runs of all budgets
            have about their curves.
    """
    groups = [group for group in budgets_of(flops) if len(set(sizes[group].tolist())) >= _MIN_SIZES]
    curves = [_curve(sizes[group], losses[group]) for group in groups]
    squares = sum(float((residuals**2).sum()) for _, _, residuals in curves)
    freedom = sum(len(residuals) - len(curve) for curve, _, residuals in curves)
    noise = (np.sqrt(squares / freedom), freedom) if freedom > 0 else None
    return [
        _profile(flops[group], sizes[group], samples[group], losses[group], curve, centre, noise, replicates, rng)
        for group, (curve, centre, _) in zip(groups, curves, strict=True)
    ]


def _curve(sizes: Floats, losses: Floats) -> tuple[Floats, float, Floats]:
    """Coefficients, centre and residuals of log loss; a cubic takes five sizes, a parabola four."""
    logs, different = np.log(sizes), len(set(sizes.tolist()))
    centre = float(logs.mean())
    curve = np.polyfit(logs - centre, np.log(losses), 3 if different > _MIN_SIZES else 2)
    return curve, centre, np.log(losses) - np.polyval(curve, logs - centre)


def _profile(
    flops: Floats,
    sizes: Floats,
    samples: Floats,
    losses: Floats,
    curve: Floats,
    centre: float,
    noise: tuple[float, int] | None,
    replicates: int,
    rng: np.random.Generator,
) -> Profile:
    bare = Profile(float(np.exp(np.log(flops).mean())), sizes, losses, curve, centre)
    grid = np.linspace(np.log(sizes.min()), np.log(sizes.max()), _GRID)
    fitted = np.polyval(curve, grid - centre)
    best = int(fitted.argmin())
    if best in (0, _GRID - 1):
        end, way = ("largest", "larger") if best else ("smallest", "smaller")
        return replace(
            bare,
            refused=f"the loss is least at the {end} size, {np.exp(grid[best]):.3g}; {way} ones would bracket it",
        )
    places_R = _minima(curve, np.log(sizes) - centre, grid - centre, noise, replicates, rng)
    outside = 0.0 if places_R is None else float(np.isin(places_R, grid[[0, -1]] - centre).mean())
    if outside > _MOST_OUTSIDE:
        return replace(
            bare,
            refused=f"the minimum is not bracketed in {outside:.0%} of tables with such noise",
        )
    even = np.exp(grid[fitted <= fitted[best] + np.log(FLAT)])
    order = np.argsort(sizes)
    between = None if places_R is None else np.array(interval(places_R + centre))

    def paid_for(log_size: Floats) -> Floats:
        return np.exp(np.interp(log_size, np.log(sizes[order]), np.log(samples[order])))

    return replace(
        bare,
        parameters=float(np.exp(grid[best])),
        parameters_interval=_ends(None if between is None else np.exp(between)),
        samples=float(paid_for(grid[best])),
        samples_interval=_ends(None if between is None else paid_for(between)),
        loss=float(np.exp(fitted[best])),
        flat=(float(even.min()), float(even.max())),
    )


def _minima(
    curve: Floats,
    places: Floats,
    grid: Floats,
    noise: tuple[float, int] | None,
    replicates: int,
    rng: np.random.Generator,
) -> Floats | None:
    """Where on the grid curves through tables with fresh noise are least [R]; the noise itself is known by its degrees
    of freedom only. None without any."""
    if noise is None:
        return None
    sd, freedom = noise
    spread_R = sd * np.sqrt(freedom / rng.chisquare(freedom, replicates))
    tables_MR = np.polyval(curve, places)[:, None] + spread_R * rng.standard_normal((len(places), replicates))
    curves_PR = np.polyfit(places, tables_MR, len(curve) - 1)
    heights_GR = np.vander(grid, len(curve)) @ curves_PR
    return np.asarray(grid[heights_GR.argmin(axis=0)])


def _ends(bounds: Floats | None) -> tuple[float, float] | None:
    return None if bounds is None else (float(bounds.min()), float(bounds.max()))


def disagreement(profile: Profile, law_interval: tuple[float, float] | None) -> str | None:
    """What to say where the law's N* of a budget and its profile's have intervals that do not overlap."""
    ours = profile.parameters_interval
    if ours is None or law_interval is None or (ours[0] <= law_interval[1] and law_interval[0] <= ours[1]):
        return None
    return (
        f"at {profile.flops:.3g} FLOPs the runs put the best size between {ours[0]:.3g} and {ours[1]:.3g} parameters, "
        f"the law between {law_interval[0]:.3g} and {law_interval[1]:.3g}"
    )


def exponent(found: Sequence[Profile]) -> float | None:
    """a of N* ∝ C^a over the budgets that have an N*; None with fewer than two."""
    points = [(profile.flops, profile.parameters) for profile in found if profile.parameters is not None]
    if len(points) < 2:
        return None
    flops, sizes = np.log(np.array(points, np.float64)).T
    return float(np.polyfit(flops, sizes, 1)[0])
