"""IsoFLOP profiles: the compute-optimal size of each budget, read from the runs instead of the law.

Hoffmann et al. 2022, Approach 2, with a cubic in log N instead of a parabola. Profiles rise faster towards large
models, which see few samples, than towards small ones, so a parabola underestimates the optimum (by 30 % on the public
CIFAR-10 study).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from isoflop.scaling.fitting.uncertainty import interval
from isoflop.scaling.forms import Floats
from isoflop.scaling.planning import FLAT

_SAME_BUDGET = 1.15  # maximum ratio of the FLOPs of two runs of one profile
_NEIGHBOURHOOD = 4.0  # factor on each side of a budget in which runs show how dense a random design would be
_ROUNDED = 1.02  # ratio of FLOPs that rounded epochs and sizes cause
_BY_CHANCE = 0.01  # probability that a random design has a group that counts as a budget
_MIN_SIZES = 4  # of a profile: three sizes leave no degrees of freedom for a parabola's error
_MAX_UNBRACKETED = 0.05  # a profile is rejected if more than this share of replicates has its minimum at an end
_GRID_SIZES = 2001  # at which the curve is evaluated


@dataclass(frozen=True)
class Profile:
    """The runs of one budget and their compute-optimal size N*, with 95 % intervals.

    ``rejected`` is the reason why the profile has no N*; ``parameters`` and the fields after it are then None.
    """

    flops: float
    sizes: Floats  # [M] parameters of the runs
    losses: Floats  # [M]
    curve: Floats  # coefficients of the polynomial of log loss in log N - centre, highest degree first
    centre: float
    rejected: str | None = None
    parameters: float | None = None
    parameters_interval: tuple[float, float] | None = None
    samples: float | None = None  # samples that the budget pays for at N*
    samples_interval: tuple[float, float] | None = None
    loss: float | None = None
    flat: tuple[float, float] | None = None  # range of sizes with a loss within 1 % of the minimum

    def predict(self, sizes: Floats) -> Floats:
        """Losses of the fitted curve at ``sizes``, of any shape."""
        return np.asarray(np.exp(np.polyval(self.curve, np.log(sizes) - self.centre)))


def group_by_budget(flops: Floats) -> list[npt.NDArray[np.int64]]:
    """Indices of the runs of each budget, budgets ascending."""
    groups: list[list[int]] = []
    for index in np.argsort(flops, kind="stable"):
        if not groups or flops[index] > _SAME_BUDGET * flops[groups[-1][0]]:
            groups.append([])
        groups[-1].append(int(index))
    return [np.sort(np.array(group, np.int64)) for group in groups]


def _is_budget(spent: Floats, low: float, high: float, windows: int) -> bool:
    """Whether the configurations from ``low`` to ``high`` FLOPs share them on purpose.

    Checkpoints and random designs have runs at all FLOPs, of which some window always looks like a budget. So few
    others may lie near, and the number must be unlikely in a random design as dense as the neighborhood, at 1 % over
    all ``windows``.

    Args:
        spent: [C] FLOPs of all configurations.
    """
    from scipy.special import pdtrc

    def count(factor: float) -> int:
        return int(((spent >= low / factor) & (spent <= high * factor)).sum())

    own = count(1.0)
    if count(_SAME_BUDGET) > 1.5 * own:
        return False
    expected = (count(_NEIGHBOURHOOD) - own) * np.log(max(high / low, _ROUNDED)) / (2 * np.log(_NEIGHBOURHOOD))
    return bool(pdtrc(own - 1, expected) < _BY_CHANCE / windows)


def profiles(
    flops: Floats, sizes: Floats, samples: Floats, losses: Floats, replicates: int, rng: np.random.Generator
) -> list[Profile]:
    """Fit the profile of every budget that was spent on at least four sizes, and that runs share on purpose.

    Args:
        flops: [M] training FLOPs of the runs.
        sizes: [M] parameters.
        samples: [M] samples seen in training, including repeats.
        losses: [M] validation losses.
        replicates: number of parametric bootstrap replicates for the intervals. Their noise is that of the runs of all
            profiles about their curves.
    """
    every, spent = group_by_budget(flops), np.unique(np.stack([flops, sizes]), axis=1)[0]
    groups = [
        group
        for group in every
        if len(set(sizes[group].tolist())) >= _MIN_SIZES
        and _is_budget(spent, flops[group].min(), flops[group].max(), len(every))
    ]
    curves = [_curve(sizes[group], losses[group]) for group in groups]
    squares = sum(float((residuals**2).sum()) for _, _, residuals in curves)
    dof = sum(len(residuals) - len(curve) for curve, _, residuals in curves)
    noise = (np.sqrt(squares / dof), dof) if dof > 0 else None
    return [
        _profile(flops[group], sizes[group], samples[group], losses[group], curve, centre, noise, replicates, rng)
        for group, (curve, centre, _) in zip(groups, curves, strict=True)
    ]


def _curve(sizes: Floats, losses: Floats) -> tuple[Floats, float, Floats]:
    """Fit log loss by a cubic (a parabola for four sizes): coefficients, center and residuals."""
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
    grid = np.linspace(np.log(sizes.min()), np.log(sizes.max()), _GRID_SIZES)
    fitted = np.polyval(curve, grid - centre)
    best = int(fitted.argmin())
    if best in (0, _GRID_SIZES - 1):
        end, way = ("largest", "larger") if best else ("smallest", "smaller")
        return replace(
            bare,
            rejected=f"the loss is lowest at the {end} size, {np.exp(grid[best]):.3g}; add {way} models to bracket it",
        )
    minima_R = _minima(curve, np.log(sizes) - centre, grid - centre, noise, replicates, rng)
    unbracketed = 0.0 if minima_R is None else float(np.isin(minima_R, grid[[0, -1]] - centre).mean())
    if unbracketed > _MAX_UNBRACKETED:
        return replace(
            bare,
            rejected=f"the minimum is not bracketed in {unbracketed:.0%} of the bootstrap replicates",
        )
    flat = np.exp(grid[fitted <= fitted[best] + np.log(FLAT)])
    order = np.argsort(sizes)
    bounds = None if minima_R is None else np.array(interval(minima_R + centre))

    def paid_for(log_size: Floats) -> Floats:
        return np.exp(np.interp(log_size, np.log(sizes[order]), np.log(samples[order])))

    return replace(
        bare,
        parameters=float(np.exp(grid[best])),
        parameters_interval=_sorted(None if bounds is None else np.exp(bounds)),
        samples=float(paid_for(grid[best])),
        samples_interval=_sorted(None if bounds is None else paid_for(bounds)),
        loss=float(np.exp(fitted[best])),
        flat=(float(flat.min()), float(flat.max())),
    )


def _minima(
    curve: Floats,
    logs: Floats,
    grid: Floats,
    noise: tuple[float, int] | None,
    replicates: int,
    rng: np.random.Generator,
) -> Floats | None:
    """Minima [R] on the grid of curves refitted to replicates, whose noise varies with its degrees of freedom (χ²).

    None if the noise is not identifiable.
    """
    if noise is None:
        return None
    sd, dof = noise
    sd_R = sd * np.sqrt(dof / rng.chisquare(dof, replicates))
    tables_MR = np.polyval(curve, logs)[:, None] + sd_R * rng.standard_normal((len(logs), replicates))
    curves_PR = np.polyfit(logs, tables_MR, len(curve) - 1)
    heights_GR = np.vander(grid, len(curve)) @ curves_PR
    return np.asarray(grid[heights_GR.argmin(axis=0)])


def _sorted(bounds: Floats | None) -> tuple[float, float] | None:
    return None if bounds is None else (float(bounds.min()), float(bounds.max()))


def disagreement(profile: Profile, law_interval: tuple[float, float] | None) -> str | None:
    """The message if the 95 % intervals of N* by the law and by the profile do not overlap, else None."""
    ours = profile.parameters_interval
    if ours is None or law_interval is None or (ours[0] <= law_interval[1] and law_interval[0] <= ours[1]):
        return None
    return (
        f"at {profile.flops:.3g} FLOPs the 95 % intervals of the compute-optimal size do not overlap: "
        f"{ours[0]:.3g} to {ours[1]:.3g} parameters by the IsoFLOP profile, "
        f"{law_interval[0]:.3g} to {law_interval[1]:.3g} by the law"
    )


def exponent(found: Sequence[Profile]) -> float | None:
    """The exponent a of N* ∝ C^a over the profiles that have an N*; None with fewer than two."""
    points = [(profile.flops, profile.parameters) for profile in found if profile.parameters is not None]
    if len(points) < 2:
        return None
    flops, sizes = np.log(np.array(points, np.float64)).T
    return float(np.polyfit(flops, sizes, 1)[0])
