"""Figures of the fit: loss vs. each axis with confidence and prediction bands, and the held-out predictions.

``compute_optimal_plots`` draws what follows from the law for a budget.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isoflop.plotting import COLOURS, save
from isoflop.scaling.analysis import Analysis
from isoflop.scaling.diagnostics import MAX_EXTRAPOLATION
from isoflop.scaling.figures.axes import (
    AXIS_LABELS,
    LOSS_LABEL,
    draw_sizes,
    legend,
    log_losses,
    log_sizes,
    panels,
    shade_beyond,
    short,
    write_panel,
)
from isoflop.scaling.fitting.laws import Law
from isoflop.scaling.forms import AXES, AXIS_NAMES, GREEK, Floats
from isoflop.scaling.tables.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from isoflop.scaling.figures.axes import Panel

_MAX_CURVES = 3  # per panel, so that their bands stay distinguishable
_POINTS = 60  # per curve


def law_panels(analysis: Analysis) -> dict[str, Panel]:
    """Return axis → its panel: the loss vs. each axis of the study, and vs. compute.

    The curves are of the law that was fitted to all runs, as in scaling.json; bands are its 95 % confidence bands,
    dashed lines its prediction bands for a new run.
    """
    names = analysis.study.axes
    found: dict[str, Panel] = {axis: partial(_draw_axis, axis) for axis in names}
    if analysis.optima and names != ("flops",):
        found["flops"] = _draw_compute
    return found


def draw_law(analysis: Analysis, file: Path) -> None:
    """Draw all panels of the law in one figure, with its equation."""
    drawn = law_panels(analysis)
    figure, panes = panels(len(drawn))
    for axes, (axis, draw) in zip(panes, drawn.items(), strict=True):
        draw(figure, axes, analysis)
        axes.set_title(f"Loss vs. {'compute' if axis == 'flops' else AXIS_NAMES[axis]}", fontsize=10)
    title = f"{_equation(analysis.law)}\nshaded: 95 % confidence; dashed: 95 % prediction of a new run"
    figure.suptitle(title, fontsize=9, parse_math=False)
    save(figure, file)


def _equation(law: Law) -> str:
    values = dict(zip(law.form.names, law.values.tolist(), strict=True))
    return f"{law.form.label}:  " + ", ".join(
        f"{GREEK.get(name, name)} = {value:.3g}" for name, value in values.items()
    )


def _draw_axis(axis: str, figure: Figure, axes: Axes, analysis: Analysis) -> None:
    """One panel with a curve for each of up to three levels of the first other axis."""
    del figure
    study, law = analysis.study, analysis.law
    others = [other for other in study.axes if other != axis]
    values = study.column(axis)
    end = 1.5 * MAX_EXTRAPOLATION * values.max()
    grid = np.geomspace(0.8 * values.min(), end, _POINTS)
    curves = _curves(analysis, axis, others, grid)
    rest = set(study.runs) - {run for _, _, runs in curves for run in runs}
    if rest:
        points = ([getattr(run, axis) for run in rest], [run.loss for run in rest])
        axes.plot(*points, "o", ms=3, color="#bbbbbb", label="other runs")
    for index, (label, levels, runs) in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(grid, law.predict(levels), color=colour, lw=1.6, label=label)
        _draw_bands(axes, law, levels, grid, colour)
        axes.plot([getattr(run, axis) for run in runs], [run.loss for run in runs], "o", color=colour, ms=4, zorder=3)
    shade_beyond(axes, MAX_EXTRAPOLATION * values.max(), end, "run")
    axes.set(xlabel=AXIS_LABELS[axis], ylabel=LOSS_LABEL, xlim=(grid[0], end))
    log_sizes(axes)
    axes.set_ylim(max(axes.get_ylim()[0], 0.5 * study.losses.min()), min(axes.get_ylim()[1], 1.5 * study.losses.max()))
    log_losses(axes)
    if others:
        legend(axes)


def _curves(
    analysis: Analysis, axis: str, others: list[str], grid: Floats
) -> list[tuple[str, dict[str, Floats | float], list[Run]]]:
    """Label, levels and runs of each curve of a panel, one per level of the first other axis."""
    study = analysis.study
    if not others:
        first = study.runs[0]
        return [("", _levels(analysis, first, axis, grid), list(study.runs))]
    chosen = study.level_values(others[0])
    if len(chosen) > _MAX_CURVES:
        chosen = [chosen[index] for index in np.linspace(0, len(chosen) - 1, _MAX_CURVES).round().astype(int)]
    curves = []
    for level in reversed(chosen):
        runs = [run for run in study.runs if abs(getattr(run, others[0]) / level - 1) < 0.02]
        if "seen_samples" in others[1:]:  # the number of epochs with the most levels; of these the largest
            levels_of: dict[float, set[float]] = {}
            for run in runs:
                levels_of.setdefault(round(run.epochs, 2), set()).add(float(getattr(run, axis)))
            length = max(levels_of, key=lambda epochs: (len(levels_of[epochs]), epochs))
            runs = [run for run in runs if round(run.epochs, 2) == length]
        letter = AXIS_LABELS[others[0]].split()[-1]
        label = f"{letter} = {short(level)}"
        curves.append((label, _levels(analysis, runs[-1], axis, grid), runs))
    return curves


def _levels(analysis: Analysis, run: Run, axis: str, grid: Floats) -> dict[str, Floats | float]:
    """Levels by axis with ``axis`` along ``grid`` and the others as those of ``run``; epochs stay constant."""
    levels: dict[str, Floats | float] = {name: float(getattr(run, name)) for name in AXES}
    levels[axis] = grid
    if axis == "unique_samples":
        levels["seen_samples"] = run.epochs * grid
    if axis != "flops":
        levels["flops"] = (
            analysis.planner.sizes.cost
            * np.asarray(levels["parameters"]) ** (analysis.planner.sizes.growth)
            * np.asarray(levels["seen_samples"])
        )
    return levels


def _draw_bands(axes: Axes, law: Law, levels: dict[str, Floats | float], grid: Floats, colour: str) -> None:
    """The 95 % confidence band (shaded) and prediction band (dashed) of ``law`` along ``grid``."""
    if law.noise.degrees_of_freedom:
        axes.fill_between(grid, *law.confidence_band(levels), color=colour, alpha=0.2, lw=0)
    for edge in law.prediction_band(levels) or ():  # lines: several overlapping areas would be one gray
        axes.plot(grid, edge, color=colour, lw=0.8, ls=(0, (4, 3)), alpha=0.8)


def _draw_compute(figure: Figure, axes: Axes, analysis: Analysis) -> None:
    """Loss vs. compute: all runs, and the law along the compute-optimal sizes."""
    del figure
    study, planner = analysis.study, analysis.planner
    flops = study.column("flops")
    end = 1.5 * MAX_EXTRAPOLATION * flops.max()
    budgets = np.geomspace(flops.min(), end, _POINTS)
    optima = [(budget, best[0]) for budget in budgets if (best := planner.best(float(budget)))]
    if optima:
        spent, sizes = np.array(optima, np.float64).T
        levels = planner.levels(sizes, spent / (planner.sizes.cost * sizes**planner.sizes.growth))
        axes.plot(spent, planner.law.predict(levels), color=COLOURS[0], lw=1.6, label="compute-optimal")
        _draw_bands(axes, planner.law, levels, spent, COLOURS[0])
    draw_sizes(axes, study.column("parameters"), flops, study.losses)
    shade_beyond(axes, MAX_EXTRAPOLATION * flops.max(), end, "run")
    axes.set(xlabel=AXIS_LABELS["flops"], ylabel=LOSS_LABEL, xlim=(0.8 * flops.min(), end))
    log_sizes(axes)
    axes.set_ylim(max(axes.get_ylim()[0], 0.5 * study.losses.min()), min(axes.get_ylim()[1], 1.5 * study.losses.max()))
    log_losses(axes)
    if axes.get_legend_handles_labels()[0]:
        legend(axes)


def draw_held_out(analysis: Analysis, file: Path) -> None:
    """Draw the held-out test, or why there is none."""
    write_panel(held_out_panel, analysis, file)


def held_out_panel(figure: Figure, axes: Axes, analysis: Analysis) -> str | None:
    """Predicted vs. measured loss: fitted runs in gray, held-out runs in color with 95 % prediction intervals."""
    del figure
    held_out = analysis.held_out
    if held_out is None:
        (diagnostic,) = [one for one in analysis.diagnostics if one.kind == "no_held_out"]
        return diagnostic.message
    fitted = [run for run in analysis.study.runs if not held_out.includes(run)]
    levels: dict[str, Floats | float] = {
        axis: np.array([getattr(run, axis) for run in fitted], np.float64) for axis in AXES
    }
    axes.plot(
        [run.loss for run in fitted], held_out.law.predict(levels), "o", ms=4, color="#888888", label="fitted runs"
    )
    for index, one in enumerate(held_out.comparisons):
        if one.low is not None and one.high is not None:
            axes.plot([one.actual] * 2, [one.low, one.high], color=COLOURS[1], lw=5, alpha=0.3, solid_capstyle="butt",
                      label=None if index else "95 % PI (mean over seeds)")  # fmt: skip
        axes.plot(one.actual, one.predicted, "D", ms=5, color=COLOURS[1],
                  label=None if index else f"held-out {held_out.name}")  # fmt: skip
    every = [run.loss for run in analysis.study.runs] + [one.predicted for one in held_out.comparisons]
    ends = (0.93 * min(every), 1.07 * max(every))
    axes.plot(ends, ends, color="#444444", lw=1, ls="--", label="predicted = measured")
    axes.set(xlabel="Measured loss", ylabel="Predicted loss", xlim=ends, ylim=ends)
    log_losses(axes, "xy")
    legend(axes)
    return None
