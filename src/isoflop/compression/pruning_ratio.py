"""The share of channels to remove for a target: a ratio, a share of the MACs, or a measured speed-up."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from isoflop.compression.channel_removal import channel_remover
from isoflop.models.model_files import Model
from isoflop.runtime.errors import UserError

if TYPE_CHECKING:
    from torch import nn

_RATIOS = [number / 40 for number in range(1, 39)]  # candidates, of which the lowest that reaches the target is taken


@dataclass(frozen=True)
class _Shape:
    """A network as one candidate ratio leaves it, untrained."""

    macs: int
    ratio: float
    net: nn.Module


def channel_ratio(
    base: Model,
    ratio: float | None,
    macs_ratio: float | None,
    target_speedup: float | None,
    *,
    scope: str,
    round_to: int,
) -> float:
    """The lowest candidate share of channels that reaches the one target that is given; ``ratio`` itself if that is it.

    Raises:
        UserError: no candidate reaches the target.
    """
    from isoflop.models.costs import count_macs

    if ratio is not None:
        return ratio
    macs = count_macs(base.net, base.architecture)
    shapes = [shape for shape in _shapes(base, scope, round_to) if shape.macs < macs]
    if macs_ratio is not None:
        return _for_macs(shapes, macs, macs_ratio, round_to)
    assert target_speedup is not None
    return _for_speedup(base, shapes, target_speedup)


def _shapes(base: Model, scope: str, round_to: int) -> list[_Shape]:
    """One shape per number of MACs, the largest first: rounding gives many ratios the same shape."""
    from isoflop.models.costs import count_macs

    shapes: dict[int, _Shape] = {}
    for ratio in _RATIOS:
        net = deepcopy(base.net)
        # the importance decides which channels go, not how many, so the cheap one without gradients is enough
        channel_remover(net, base.architecture, ratio, importance="l2", scope=scope, round_to=round_to)(None)
        macs = count_macs(net, base.architecture)
        shapes.setdefault(macs, _Shape(macs, ratio, net))
    return sorted(shapes.values(), key=lambda shape: -shape.macs)


def _for_macs(shapes: list[_Shape], macs: int, macs_ratio: float, round_to: int) -> float:
    for shape in shapes:
        if shape.macs <= macs_ratio * macs:
            return shape.ratio
    least = min((shape.macs for shape in shapes), default=macs) / macs
    raise UserError(
        f"params.yaml: prune.macs_ratio: got {macs_ratio}, expected at least {least:.3g}, the share of the base's MACs "
        f"left after removing {max(_RATIOS):.0%} of its channels in multiples of {round_to}"
    )


def _for_speedup(base: Model, shapes: list[_Shape], target: float) -> float:
    """Bisect the shapes, sorted from the largest to the smallest, for the first that is fast enough."""
    from isoflop.inference.timing import measured_speedups

    low, high, best = 0, len(shapes) - 1, None
    fastest = 1.0
    while low <= high:
        middle = (low + high) // 2
        (speedup,) = measured_speedups(base, [replace(base, net=shapes[middle].net)])
        fastest = max(fastest, speedup)
        if speedup >= target:
            best, high = middle, middle - 1
        else:
            low = middle + 1
    if best is not None:
        return shapes[best].ratio
    if not shapes:
        raise UserError(f"params.yaml: prune.target_speedup: got {target:g}, but no channel of the base can be removed")
    raise UserError(
        f"params.yaml: prune.target_speedup: got {target:g}, expected at most {fastest:.3g}, the speed-up "
        f"measured with {shapes[-1].ratio:.0%} of the channels removed"
    )
