"""Pictures of a law: loss against size, data, training and compute with both bands; predicted against measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isoflop.plotting import COLOURS, save
from isoflop.scaling.analysis import Analysis, HeldOut
from isoflop.scaling.canvas import (
    AXIS_LABELS,
    LOSS_LABEL,
    log_losses,
    log_sizes,
    panels,
    say,
    shade_beyond,
    short,
)
from isoflop.scaling.diagnosis import MAX_EXTRAPOLATION
from isoflop.scaling.forms import AXES, Floats
from isoflop.scaling.laws import Law
from isoflop.scaling.runs import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_CURVES = 4  # of one panel, at most: the bands of more would hide each other
_POINTS = 60  # of a curve


def draw_law(analysis: Analysis, file: Path) -> None:
    """Loss against each axis of the study, a panel an axis, and against compute: runs as points, the law that did not
    see the largest size as curves with its 95 % confidence band (dark) and that of new runs (light), the held-out
    runs as rings, and shading from four times the largest fitted run on.
    """
    axes_names = analysis.study.axes
    compute = analysis.optima and axes_names != ("flops",)
    count = len(axes_names) + bool(compute)
    figure, panes = panels(count)
    for number, (axes, axis) in enumerate(zip(panes, axes_names, strict=False)):
        _draw_axis(axes, analysis, axis)
        axes.set_ylabel("" if number % 2 else LOSS_LABEL)
    if compute:
        _draw_compute(panes[-1], analysis)
    held_out = analysis.held_out
    fitted = f"fitted without {held_out.name} (rings)" if held_out else "fitted to all runs"
    law = held_out.law if held_out else analysis.law
    figure.suptitle(
        f"{_equation(law)}\n{fitted}; bands: 95 %, dark for the law, light for a new run",
        fontsize=11,
        parse_math=False,
    )
    save(figure, file)


def _equation(law: Law) -> str:
    values = dict(zip(law.form.names, law.values.tolist(), strict=True))
    return f"{law.form.label}:  " + ", ".join(f"{name} {value:.3g}" for name, value in values.items())


def _draw_axis(axes: Axes, analysis: Analysis, axis: str) -> None:
    """One panel: a curve for each level (of up to four) of the other axis that matters most, at most of the rest."""
    study, held_out = analysis.study, analysis.held_out
    law = held_out.law if held_out else analysis.law
    fitted = [run for run in study.runs if held_out is None or not held_out.holds(run)]
    others = [other for other in study.axes if other != axis]
    largest = max(float(getattr(run, axis)) for run in fitted)
    smallest = min(float(getattr(run, axis)) for run in fitted)
    end = 1.5 * max(MAX_EXTRAPOLATION * largest, max(study.column(axis)))
    ladder = np.geomspace(0.8 * smallest, end, _POINTS)
    curves = _curves(analysis, axis, others, ladder)
    rest = set(study.runs) - {run for _, _, runs in curves for run in runs}
    if rest:
        points = ([getattr(run, axis) for run in rest], [run.loss for run in rest])
        axes.plot(*points, "o", ms=3, color="#bbbbbb", label="other runs")
    for number, (label, curve, runs) in enumerate(curves):
        colour = COLOURS[number % len(COLOURS)]
        axes.plot(ladder, law.predict(curve), color=colour, lw=1.8, label=label)
        if law.noise.freedom:
            axes.fill_between(ladder, *law.band(curve), color=colour, alpha=0.25, lw=0)
        new = law.prediction_band(curve)
        if new:
            axes.fill_between(ladder, *new, color=colour, alpha=0.1, lw=0)
        _draw_runs(axes, runs, axis, colour, held_out)
    shade_beyond(axes, MAX_EXTRAPOLATION * largest, end, "fitted")
    axes.set(xlabel=AXIS_LABELS[axis], xlim=(ladder[0], end))
    log_sizes(axes)
    axes.set_ylim(max(axes.get_ylim()[0], 0.5 * study.losses.min()), min(axes.get_ylim()[1], 1.5 * study.losses.max()))
    log_losses(axes)
    if others:
        axes.legend(fontsize=9, frameon=False, loc="lower left")


def _curves(
    analysis: Analysis, axis: str, others: list[str], ladder: Floats
) -> list[tuple[str, dict[str, Floats | float], list[Run]]]:
    """Label, levels and runs of each curve of a panel: a level of the first other axis each, the most of the rest."""
    study = analysis.study
    if not others:
        first = study.runs[0]
        return [("", _levels(analysis, first, axis, ladder), list(study.runs))]
    chosen = study.level_values(others[0])
    if len(chosen) > _CURVES:
        chosen = [chosen[place] for place in np.linspace(0, len(chosen) - 1, _CURVES).round().astype(int)]
    curves = []
    for level in reversed(chosen):
        runs = [run for run in study.runs if abs(getattr(run, others[0]) / level - 1) < 0.02]
        if "seen_samples" in others[1:]:  # one length of training a curve: of those that most levels had, the longest
            levels_of: dict[float, set[float]] = {}
            for run in runs:
                levels_of.setdefault(round(run.epochs, 2), set()).add(float(getattr(run, axis)))
            length = max(levels_of, key=lambda epochs: (len(levels_of[epochs]), epochs))
            runs = [run for run in runs if round(run.epochs, 2) == length]
        letter = AXIS_LABELS[others[0]].split()[-1]
        label = f"{letter} = {short(level)}"
        curves.append((label, _levels(analysis, runs[-1], axis, ladder), runs))
    return curves


def _levels(analysis: Analysis, run: Run, axis: str, ladder: Floats) -> dict[str, Floats | float]:
    """Levels by axis along ``ladder``; more data are seen as often as those of ``run``."""
    levels: dict[str, Floats | float] = {name: float(getattr(run, name)) for name in AXES}
    levels[axis] = ladder
    if axis == "unique_samples":
        levels["seen_samples"] = run.epochs * ladder
    if axis != "flops":
        levels["flops"] = (
            analysis.planner.sizes.cost
            * np.asarray(levels["parameters"]) ** (analysis.planner.sizes.growth)
            * np.asarray(levels["seen_samples"])
        )
    return levels


def _draw_runs(axes: Axes, runs: list[Run], axis: str, colour: str, held_out: HeldOut | None) -> None:
    for ring in (False, True):
        chosen = [run for run in runs if (held_out is not None and held_out.holds(run)) == ring]
        points = ([getattr(run, axis) for run in chosen], [run.loss for run in chosen])
        style = {"mfc": "white", "mew": 2, "ms": 8} if ring else {"mfc": colour, "mew": 1, "ms": 5}
        axes.plot(*points, "o", color=colour, zorder=3, **style)  # type: ignore[arg-type]


def _draw_compute(axes: Axes, analysis: Analysis) -> None:
    """Loss against compute: every run, and the law's best size a budget with its bands."""
    study, planner = analysis.study, analysis.planner
    flops = study.column("flops")
    end = 1.5 * MAX_EXTRAPOLATION * flops.max()
    budgets = np.geomspace(flops.min(), end, _POINTS)
    found = [(budget, best[0]) for budget in budgets if (best := planner.best(float(budget)))]
    if found:
        spent, sizes = np.array(found, np.float64).T
        levels = planner.levels(sizes, spent / (planner.sizes.cost * sizes**planner.sizes.growth))
        axes.plot(spent, planner.law.predict(levels), color=COLOURS[0], lw=1.8, label="best size for its compute")
        axes.fill_between(spent, *planner.law.band(levels), color=COLOURS[0], alpha=0.25, lw=0)
        new = planner.law.prediction_band(levels)
        if new:
            axes.fill_between(spent, *new, color=COLOURS[0], alpha=0.1, lw=0)
    for number, size in enumerate(reversed(study.sizes)):
        runs = [run for run in study.runs if run.parameters == size]
        axes.plot([run.flops for run in runs], [run.loss for run in runs], "o", ms=4,
                  color=COLOURS[(number + 1) % len(COLOURS)], label=f"N = {short(size)}")  # fmt: skip
    shade_beyond(axes, MAX_EXTRAPOLATION * flops.max(), end, "run")
    axes.set(xlabel=AXIS_LABELS["flops"], xlim=(0.8 * flops.min(), end))
    log_sizes(axes)
    axes.set_ylim(max(axes.get_ylim()[0], 0.5 * study.losses.min()), min(axes.get_ylim()[1], 1.5 * study.losses.max()))
    log_losses(axes)
    axes.legend(fontsize=8, frameon=False, loc="lower left", ncols=2 if len(study.sizes) > 4 else 1)


def draw_held_out(analysis: Analysis, file: Path) -> None:
    """Predicted against measured loss: the runs that the law was fitted to in grey, those of the largest size, which
    it never saw, in colour with the 95 % interval of their prediction."""
    figure, (axes,) = panels(1)
    held_out = analysis.held_out
    if held_out is None:
        (diagnostic,) = [diagnosis for diagnosis in analysis.diagnoses if diagnosis.kind == "no_held_out"]
        say(figure, axes, diagnostic.message, file)
        return
    fitted = [run for run in analysis.study.runs if not held_out.holds(run)]
    levels: dict[str, Floats | float] = {
        axis: np.array([getattr(run, axis) for run in fitted], np.float64) for axis in AXES
    }
    axes.plot(
        [run.loss for run in fitted], held_out.law.predict(levels), "o", ms=5, color="#888888", label="fitted runs"
    )
    for number, one in enumerate(held_out.comparisons):
        if one.low is not None and one.high is not None:
            axes.plot([one.actual] * 2, [one.low, one.high], color=COLOURS[1], lw=5, alpha=0.3, solid_capstyle="butt",
                      label=None if number else "95 % interval for the mean of its seeds")  # fmt: skip
        axes.plot(one.actual, one.predicted, "D", ms=7, color=COLOURS[1], label=None if number else held_out.name)
    every = [run.loss for run in analysis.study.runs] + [one.predicted for one in held_out.comparisons]
    ends = (0.93 * min(every), 1.07 * max(every))
    axes.plot(ends, ends, color="#444444", lw=1, ls="--", label="predicted = measured")
    axes.set(xlabel="measured loss", ylabel="predicted loss", xlim=ends, ylim=ends)
    log_losses(axes, "xy")
    last = held_out.comparisons[-1]
    verdict = {True: "inside its interval", False: "outside its interval", None: "no interval"}[last.covered]
    title = f"{held_out.name}, held out: {last.relative_error:+.1%} at the most data, {verdict}"
    axes.set_title(title, fontsize=12, parse_math=False)
    axes.legend(fontsize=10, frameon=False, loc="upper left")
    save(figure, file)
