"""Pictures of what a budget buys: IsoFLOP profiles with their best sizes, and the law as a surface."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isoflop.plotting import COLOURS, save
from isoflop.scaling.analysis import Analysis
from isoflop.scaling.canvas import AXIS_LABELS, LOSS_LABEL, log_losses, log_sizes, panels, say
from isoflop.scaling.forms import AXES, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_RUNGS = 80  # of the surface, each way
_LEVEL = 1.0001  # times the least loss: a surface within it is flat


def draw_profiles(analysis: Analysis, file: Path) -> None:
    """Loss against size at each budget that the study holds: the runs, the curve through them, and bars for the best
    size with its 95 % interval, by the runs (solid) and by the law (dashed). Where the study holds no such runs, the
    law's own curves for its budgets."""
    figure, (axes,) = panels(1)
    planner = analysis.planner
    if analysis.profiles:
        for number, profile in enumerate(analysis.profiles):
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(profile.sizes, profile.losses, "o", ms=6, color=colour, label=f"{profile.flops:.2g} FLOPs")
            ladder = np.geomspace(profile.sizes.min(), profile.sizes.max(), 200)
            if len(profile.curve):
                axes.plot(ladder, profile.predict(ladder), color=colour, lw=1.6)
            by_law = planner.optimum(profile.flops)
            low, high = profile.losses.min(), profile.losses.max()
            base = low * (low / high) ** (0.06 * (1 + number))
            _bar(axes, profile.parameters, profile.parameters_interval, base, colour, "-")
            _bar(axes, by_law.parameters, by_law.parameters_interval, base * (low / high) ** 0.025, colour, ":")
        title = "runs of one budget each; bars: the best size with 95 %, by the runs (solid) and by the law (dotted)"
    elif any(best.parameters for best in analysis.optima.values()):
        for number, (name, best) in enumerate(analysis.optima.items()):
            if best.parameters is None or best.loss is None:
                continue
            colour = COLOURS[number % len(COLOURS)]
            ladder = np.geomspace(planner.smallest / 4, planner.largest * 16, 200)
            losses = planner.law.predict(planner.levels(ladder, planner.sizes.samples(best.flops, ladder)))
            axes.plot(ladder, losses, color=colour, lw=1.8, label=f"{name}: {best.flops:.2g} FLOPs")
            axes.plot(best.parameters, best.loss, "D", ms=7, color=colour)
            bounds = best.parameters_interval
            if bounds:
                axes.plot(bounds, [best.loss] * 2, color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
        axes.set_ylim(0.9 * min(b.loss for b in analysis.optima.values() if b.loss), 1.3 * analysis.study.losses.max())
        title = "by the law alone: no budget of the study was spent on 4 sizes; bars: the best size with 95 %"
    else:
        say(figure, axes, "no best size for a budget: the study or its law does not tell size from samples", file)
        return
    axes.set(xlabel=AXIS_LABELS["parameters"], ylabel=LOSS_LABEL)
    log_sizes(axes)
    log_losses(axes)
    axes.set_title(title, fontsize=10)
    axes.legend(fontsize=10, frameon=False)
    save(figure, file)


def _bar(
    axes: Axes, size: float | None, bounds: tuple[float, float] | None, at: float, colour: str, style: str
) -> None:
    if size is None:
        return
    axes.plot(size, at, "|", ms=12, mew=2, color=colour)
    if bounds:
        axes.plot(bounds, [at] * 2, color=colour, lw=2, ls=style)


def draw_surface(analysis: Analysis, file: Path) -> None:
    """The law over size and data (or passes over them) as lines of equal loss, the runs in the colour of how far they
    miss it, and the best size for each budget as a line."""
    study, planner = analysis.study, analysis.planner
    figure, (axes,) = panels(1)
    data = study.data_axis
    if "parameters" not in study.axes or data not in study.axes:
        say(figure, axes, "no surface: the study varies one of size and data alone", file)
        return
    sizes, samples = study.column("parameters"), study.column(data)
    across = np.geomspace(sizes.min() / 1.5, 1.5 * sizes.max(), _RUNGS)
    up = np.geomspace(samples.min() / 1.3, 1.3 * samples.max(), _RUNGS)
    grid_N, grid_D = np.meshgrid(across, up)
    seen = grid_D.ravel() * (1 if data == "seen_samples" else planner.epochs)
    losses = planner.law.predict(planner.levels(grid_N.ravel(), seen)).reshape(grid_N.shape)
    is_flat = losses.max() < _LEVEL * losses.min()  # a law of runs that show no effect of size or data
    if not is_flat:
        heights = np.geomspace(losses.min(), losses.max(), 10)[1:-1]
        lines = axes.contour(across, up, losses, levels=heights, colors="#888888", linewidths=1)
        axes.clabel(lines, fmt=lambda loss: f"{loss:.3g}", fontsize=9)
    levels: dict[str, Floats | float] = {axis: study.column(axis) for axis in AXES}
    missed = 100 * (study.losses / planner.law.predict(levels) - 1)
    limit = max(1.0, float(np.abs(missed).max()))
    jitter = np.exp(0.02 * (study.column("flops").argsort().argsort() % 3 - 1))  # seeds lie on each other
    dots = axes.scatter(sizes * jitter, samples, c=missed, cmap="PuOr", vmin=-limit, vmax=limit, s=55,
                        edgecolors="#333333", linewidths=0.8, zorder=3)  # fmt: skip
    figure.colorbar(dots, label="measured / law - 1 (%)")
    found = [(best[0], float(planner.sizes.samples(budget, np.array([best[0]]))[0]))
             for budget in np.geomspace(study.column("flops").min() / 10, 100 * study.column("flops").max(), 60)
             if (best := planner.best(float(budget)))]  # fmt: skip
    if found:
        best_N, best_S = np.array(found).T
        axes.plot(best_N, best_S / (1 if data == "seen_samples" else planner.epochs), color=COLOURS[0], lw=2,
                  label="best size for its compute")  # fmt: skip
        axes.legend(fontsize=10, framealpha=0.9, edgecolor="none", loc="upper left")
    axes.set(xlabel=AXIS_LABELS["parameters"], ylabel=AXIS_LABELS[data])
    axes.set(xlim=(across[0], across[-1]), ylim=(up[0], up[-1]))
    log_sizes(axes, "xy")
    drawn = "the same loss everywhere, by the law" if is_flat else "lines of equal loss"
    axes.set_title(f"{planner.law.form.label}; {drawn}", fontsize=11, parse_math=False)
    save(figure, file)
