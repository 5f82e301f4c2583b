"""Figures of the fit: loss vs. each axis with confidence and prediction bands, and the held-out predictions.

``compute_optimal_plots`` draws what follows from the law for a budget.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isoflop.plotting import COLOURS, save
from isoflop.scaling.analysis import Analysis
from isoflop.scaling.diagnostics import MAX_EXTRAPOLATION
from isoflop.scaling.forms import AXES, AXIS_NAMES, GREEK, Floats
from isoflop.scaling.held_out import HeldOut
from isoflop.scaling.laws import Law
from isoflop.scaling.plot_axes import (
    AXIS_LABELS,
    LOSS_LABEL,
    draw_sizes,
    log_losses,
    log_sizes,
    panels,
    shade_beyond,
    short,
    write_message,
)
from isoflop.scaling.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MAX_CURVES = 4  # per panel, so that their bands stay distinguishable
_POINTS = 60  # per curve


def draw_law(analysis: Analysis, file: Path) -> None:
    """Draw the loss vs. each axis of the study, one panel per axis, and vs. compute.

    The curves are of the law that was fitted without the held-out level, with 95 % confidence bands (dark) and
    prediction bands (light). Points are runs, open circles held-out runs.
    """
    axes_names = analysis.study.axes
    compute = analysis.optima and axes_names != ("flops",)
    count = len(axes_names) + bool(compute)
    figure, panes = panels(count)
    for index, (axes, axis) in enumerate(zip(panes, axes_names, strict=False)):
        _draw_axis(axes, analysis, axis)
        axes.set_ylabel("" if index % 2 else LOSS_LABEL)
    if compute:
        _draw_compute(panes[-1], analysis)
    held_out = analysis.held_out
    fitted = f"fitted without {held_out.name} (open circles: held out)" if held_out else "fitted to all runs"
    law = held_out.law if held_out else analysis.law
    figure.suptitle(
        f"{_equation(law)}\n{fitted}; 95 % confidence bands (dark) and prediction bands (light)",
        fontsize=11,
        parse_math=False,
    )
    save(figure, file)


def _equation(law: Law) -> str:
    values = dict(zip(law.form.names, law.values.tolist(), strict=True))
    return f"{law.form.label}:  " + ", ".join(
        f"{GREEK.get(name, name)} = {value:.3g}" for name, value in values.items()
    )


def _draw_axis(axes: Axes, analysis: Analysis, axis: str) -> None:
    """One panel with a curve for each of up to four levels of the first other axis."""
    study, held_out = analysis.study, analysis.held_out
    law = held_out.law if held_out else analysis.law
    fitted = [run for run in study.runs if held_out is None or not held_out.includes(run)]
    others = [other for other in study.axes if other != axis]
    largest = max(float(getattr(run, axis)) for run in fitted)
    smallest = min(float(getattr(run, axis)) for run in fitted)
    end = 1.5 * max(MAX_EXTRAPOLATION * largest, max(study.column(axis)))
    grid = np.geomspace(0.8 * smallest, end, _POINTS)
    curves = _curves(analysis, axis, others, grid)
    rest = set(study.runs) - {run for _, _, runs in curves for run in runs}
    if rest:
        points = ([getattr(run, axis) for run in rest], [run.loss for run in rest])
        axes.plot(*points, "o", ms=3, color="#bbbbbb", label="other runs")
    for index, (label, levels, runs) in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot(grid, law.predict(levels), color=colour, lw=1.8, label=label)
        _draw_bands(axes, law, levels, grid, colour)
        _draw_runs(axes, runs, axis, colour, held_out)
    shade_beyond(axes, MAX_EXTRAPOLATION * largest, end, "fitted run")
    axes.set(title=f"Loss vs. {AXIS_NAMES[axis]}", xlabel=AXIS_LABELS[axis], xlim=(grid[0], end))
    log_sizes(axes)
    axes.set_ylim(max(axes.get_ylim()[0], 0.5 * study.losses.min()), min(axes.get_ylim()[1], 1.5 * study.losses.max()))
    log_losses(axes)
    if others:
        axes.legend(fontsize=9, frameon=False, loc="lower left")


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
    """The 95 % confidence band (dark) and prediction band (light) of ``law`` along ``grid``."""
    if law.noise.degrees_of_freedom:
        axes.fill_between(grid, *law.confidence_band(levels), color=colour, alpha=0.25, lw=0)
    prediction = law.prediction_band(levels)
    if prediction:
        axes.fill_between(grid, *prediction, color=colour, alpha=0.1, lw=0)


def _draw_runs(axes: Axes, runs: list[Run], axis: str, colour: str, held_out: HeldOut | None) -> None:
    for is_held_out in (False, True):
        chosen = [run for run in runs if (held_out is not None and held_out.includes(run)) == is_held_out]
        points = ([getattr(run, axis) for run in chosen], [run.loss for run in chosen])
        style = {"mfc": "white", "mew": 2, "ms": 8} if is_held_out else {"mfc": colour, "mew": 1, "ms": 5}
        axes.plot(*points, "o", color=colour, zorder=3, **style)  # type: ignore[arg-type]


def _draw_compute(axes: Axes, analysis: Analysis) -> None:
    """Loss vs. compute: all runs, and the law along the compute-optimal sizes."""
    study, planner = analysis.study, analysis.planner
    flops = study.column("flops")
    end = 1.5 * MAX_EXTRAPOLATION * flops.max()
    budgets = np.geomspace(flops.min(), end, _POINTS)
    optima = [(budget, best[0]) for budget in budgets if (best := planner.best(float(budget)))]
    if optima:
        spent, sizes = np.array(optima, np.float64).T
        levels = planner.levels(sizes, spent / (planner.sizes.cost * sizes**planner.sizes.growth))
        axes.plot(spent, planner.law.predict(levels), color=COLOURS[0], lw=1.8, label="compute-optimal")
        _draw_bands(axes, planner.law, levels, spent, COLOURS[0])
    draw_sizes(axes, study.column("parameters"), flops, study.losses)
    shade_beyond(axes, MAX_EXTRAPOLATION * flops.max(), end, "run")
    axes.set(title="Loss vs. compute", xlabel=AXIS_LABELS["flops"], xlim=(0.8 * flops.min(), end))
    log_sizes(axes)
    axes.set_ylim(max(axes.get_ylim()[0], 0.5 * study.losses.min()), min(axes.get_ylim()[1], 1.5 * study.losses.max()))
    log_losses(axes)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, frameon=False, loc="lower left")


def draw_held_out(analysis: Analysis, file: Path) -> None:
    """Draw predicted vs. measured loss: fitted runs in gray, held-out runs in color with 95 % prediction intervals."""
    figure, (axes,) = panels(1)
    held_out = analysis.held_out
    if held_out is None:
        (diagnostic,) = [one for one in analysis.diagnostics if one.kind == "no_held_out"]
        write_message(figure, axes, diagnostic.message, file)
        return
    fitted = [run for run in analysis.study.runs if not held_out.includes(run)]
    levels: dict[str, Floats | float] = {
        axis: np.array([getattr(run, axis) for run in fitted], np.float64) for axis in AXES
    }
    axes.plot(
        [run.loss for run in fitted], held_out.law.predict(levels), "o", ms=5, color="#888888", label="fitted runs"
    )
    for index, one in enumerate(held_out.comparisons):
        if one.low is not None and one.high is not None:
            axes.plot([one.actual] * 2, [one.low, one.high], color=COLOURS[1], lw=5, alpha=0.3, solid_capstyle="butt",
                      label=None if index else "95 % prediction interval (mean over seeds)")  # fmt: skip
        axes.plot(
            one.actual, one.predicted, "D", ms=7, color=COLOURS[1], label=None if index else f"held-out {held_out.name}"
        )
    every = [run.loss for run in analysis.study.runs] + [one.predicted for one in held_out.comparisons]
    ends = (0.93 * min(every), 1.07 * max(every))
    axes.plot(ends, ends, color="#444444", lw=1, ls="--", label="predicted = measured")
    axes.set(xlabel="Measured loss", ylabel="Predicted loss", xlim=ends, ylim=ends)
    log_losses(axes, "xy")
    last = held_out.comparisons[-1]
    inside = {True: "inside its interval", False: "outside its interval", None: "no interval"}[last.covered]
    title = (
        f"Held-out {held_out.name}: predicted vs. measured\n(with the most data: {last.relative_error:+.1%}, {inside})"
    )
    axes.set_title(title, fontsize=12, parse_math=False)
    axes.legend(fontsize=10, frameon=False, loc="upper left")
    save(figure, file)
