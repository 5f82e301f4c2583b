"""Figures of compute-optimal training: IsoFLOP profiles with their optima, and the loss surface over size and data.

``law_plots`` draws the fit itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isoflop.plotting import COLOURS
from isoflop.scaling.analysis import Analysis
from isoflop.scaling.figures.axes import AXIS_LABELS, LOSS_LABEL, legend, log_losses, log_sizes, write_panel
from isoflop.scaling.forms import AXES, Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GRID_SIZE = 80  # of the surface, per axis
_FLAT = 1.0001  # a surface whose losses differ by at most this factor has no contours


def draw_profiles(analysis: Analysis, file: Path) -> None:
    """Draw the IsoFLOP curves, or why there are none."""
    write_panel(profiles_panel, analysis, file)


def draw_surface(analysis: Analysis, file: Path) -> None:
    """Draw the loss surface, or why there is none."""
    write_panel(surface_panel, analysis, file)


def profiles_panel(figure: Figure, axes: Axes, analysis: Analysis) -> str | None:
    """Loss vs. size for each budget of the study, with the 95 % interval of each compute-optimal size.

    A study without IsoFLOP runs gets the law's own curves.
    """
    del figure
    if analysis.profiles:
        _draw_measured_profiles(axes, analysis)
    elif analysis.optima:
        _draw_predicted_profiles(axes, analysis)
    else:
        return "no compute-optimal size: the study varies only one of size and samples"
    axes.set(xlabel=AXIS_LABELS["parameters"], ylabel=LOSS_LABEL)
    log_sizes(axes)
    log_losses(axes)
    legend(axes)
    return None


def _draw_measured_profiles(axes: Axes, analysis: Analysis) -> None:
    for index, profile in enumerate(analysis.profiles):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(profile.sizes, profile.losses, "o", ms=4, color=colour, label=f"{profile.flops:.2g} FLOPs")
        grid = np.geomspace(profile.sizes.min(), profile.sizes.max(), 200)
        if len(profile.curve):
            axes.plot(grid, profile.predict(grid), color=colour, lw=1.6)
        by_law = analysis.planner.optimum(profile.flops)
        low, high = profile.losses.min(), profile.losses.max()
        base = low * (low / high) ** (0.06 * (1 + index))
        _draw_interval(axes, profile.parameters, profile.parameters_interval, base, colour, "-")
        _draw_interval(axes, by_law.parameters, by_law.parameters_interval, base * (low / high) ** 0.025, colour, ":")


def _draw_predicted_profiles(axes: Axes, analysis: Analysis) -> None:
    planner = analysis.planner
    heights: list[float] = []
    for index, (name, best) in enumerate(analysis.optima.items()):
        colour = COLOURS[index % len(COLOURS)]
        grid = np.geomspace(planner.smallest / 4, planner.largest * 16, 200)
        losses = planner.law.predict(planner.levels(grid, planner.sizes.samples(best.flops, grid)))
        axes.plot(grid, losses, color=colour, lw=1.8, label=f"{name}: {best.flops:.2g} FLOPs")
        heights.append(best.loss or float(losses.min()))
        if best.parameters is None or best.loss is None:
            continue
        axes.plot(best.parameters, best.loss, "D", ms=5, color=colour)
        bounds = best.parameters_interval
        if bounds:
            axes.plot(bounds, [best.loss] * 2, color=colour, lw=5, alpha=0.35, solid_capstyle="butt")
    axes.set_ylim(0.9 * min(heights), 1.3 * analysis.study.losses.max())


def _draw_interval(
    axes: Axes, size: float | None, bounds: tuple[float, float] | None, height: float, colour: str, style: str
) -> None:
    if size is None:
        return
    axes.plot(size, height, "|", ms=12, mew=2, color=colour)
    if bounds:
        axes.plot(bounds, [height] * 2, color=colour, lw=2, ls=style)


def surface_panel(figure: Figure, axes: Axes, analysis: Analysis) -> str | None:
    """Contours of the predicted loss over size and data (unique samples, or samples seen if epochs vary).

    The runs are colored by their deviation from the law; a line shows the compute-optimal sizes.
    """
    study, planner = analysis.study, analysis.planner
    data = study.data_axis
    if "parameters" not in study.axes or data not in study.axes:
        return "no loss surface: the study varies only one of size and data"
    sizes, samples = study.column("parameters"), study.column(data)
    across = np.geomspace(sizes.min() / 1.5, 1.5 * sizes.max(), _GRID_SIZE)
    up = np.geomspace(samples.min() / 1.3, 1.3 * samples.max(), _GRID_SIZE)
    axes.set(xlim=(across[0], across[-1]), ylim=(up[0], up[-1]))
    log_sizes(axes, "xy")  # before the contours, whose labels are placed at once
    _draw_contours(axes, analysis, across, up)
    levels: dict[str, Floats | float] = {axis: study.column(axis) for axis in AXES}
    deviations = 100 * (study.losses / planner.law.predict(levels) - 1)
    limit = max(1.0, float(np.abs(deviations).max()))
    jitter = np.exp(0.02 * (study.column("flops").argsort().argsort() % 3 - 1))  # separates the seeds
    dots = axes.scatter(sizes * jitter, samples, c=deviations, cmap="PuOr", vmin=-limit, vmax=limit, s=40,
                        edgecolors="#333333", linewidths=0.7, zorder=3)  # fmt: skip
    bar = figure.colorbar(dots, location="bottom", aspect=40, shrink=0.9)
    bar.set_label("measured / predicted − 1, %", fontsize=9)
    bar.ax.tick_params(labelsize=8)
    _draw_optima(axes, analysis)
    axes.set(xlabel=AXIS_LABELS["parameters"], ylabel=AXIS_LABELS[data])
    axes.set(xlim=(across[0], across[-1]), ylim=(up[0], up[-1]))
    return None


def _draw_contours(axes: Axes, analysis: Analysis, across: Floats, up: Floats) -> None:
    """Draw contours of the law over sizes ``across`` and samples ``up``, unless it is flat."""
    planner = analysis.planner
    grid_N, grid_D = np.meshgrid(across, up)
    seen = grid_D.ravel() * (1 if planner.data_axis == "seen_samples" else planner.epochs)
    losses = planner.law.predict(planner.levels(grid_N.ravel(), seen)).reshape(grid_N.shape)
    if losses.max() < _FLAT * losses.min():  # the runs show no effect of size or data
        return
    heights = np.geomspace(losses.min(), losses.max(), 10)[1:-1]
    lines = axes.contour(across, up, losses, levels=heights, colors="#888888", linewidths=1)
    axes.clabel(lines, fmt=lambda loss: f"{loss:.3g}", fontsize=8)


def _draw_optima(axes: Axes, analysis: Analysis) -> None:
    """A line through the compute-optimal sizes and samples of budgets around those of the study."""
    planner, flops = analysis.planner, analysis.study.column("flops")
    optima = [
        (best[0], float(planner.sizes.samples(budget, np.array([best[0]]))[0]))
        for budget in np.geomspace(flops.min() / 10, 100 * flops.max(), 60)
        if (best := planner.best(float(budget)))
    ]
    if optima:
        best_N, best_S = np.array(optima).T
        epochs = 1 if planner.data_axis == "seen_samples" else planner.epochs
        axes.plot(best_N, best_S / epochs, color=COLOURS[0], lw=2, label="compute-optimal")
        axes.legend(fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderpad=0)
