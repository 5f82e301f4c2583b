"""Pictures of a scaling study: loss against size with the law's curves; the held-out width, predicted and measured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isoflop.scaling.analysis import Analysis, HeldOut
from isoflop.scaling.diagnosis import MAX_EXTRAPOLATION
from isoflop.scaling.laws import L_N

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
)  # Okabe and Ito: safe for the colour-blind
_LOSS_LABEL = "validation loss (NLL, nats per image)"


def draw_law(analysis: Analysis, file: Path) -> None:
    """Loss against parameters, a colour a data size: runs as points, the law that did not see the widest width as
    lines with its 95 % confidence band, the held-out runs as rings, and shading from four times the largest model on.
    """
    from matplotlib.lines import Line2D

    figure, axes = _figure()
    law = analysis.held_out.law if analysis.held_out else analysis.law
    held_out_width = analysis.held_out.width if analysis.held_out else None
    runs = analysis.study.runs
    fitted_sizes = [run.parameters for run in runs if run.width != held_out_width]
    largest = max(fitted_sizes)
    end = 1.5 * max(MAX_EXTRAPOLATION * largest, max(run.parameters for run in runs))
    sizes = np.geomspace(0.8 * min(fitted_sizes), end, 200)
    handles = []
    for number, images in enumerate(sorted({run.unique_images for run in runs})):
        colour = _COLOURS[number % len(_COLOURS)]
        levels = sizes[None] if law.form == L_N else np.stack([sizes, np.full(len(sizes), images)])
        axes.plot(sizes, law.predict(levels), color=colour, lw=1.8)
        axes.fill_between(sizes, *law.band(levels), color=colour, alpha=0.15, lw=0)
        for held_out in (False, True):
            chosen = [run for run in runs if run.unique_images == images and (run.width == held_out_width) == held_out]
            face = "white" if held_out else colour
            points = ([run.parameters for run in chosen], [run.val_nll for run in chosen])
            axes.plot(*points, "o", ms=8 if held_out else 6, color=colour, mfc=face, mew=2 if held_out else 1, zorder=3)
        handles.append(Line2D([], [], color=colour, marker="o", lw=1.8, label=f"{images:,} images"))
    if held_out_width is not None:
        ring = {"marker": "o", "mfc": "white", "mew": 2.0, "ms": 8, "lw": 0}
        handles.append(Line2D([], [], color="#444444", label=f"held out: width {held_out_width}", **ring))  # type: ignore[arg-type]
    axes.axvspan(MAX_EXTRAPOLATION * largest, end, color="#888888", alpha=0.12, lw=0)
    axes.text(MAX_EXTRAPOLATION * largest, 0.98, " > 4× the largest fitted", transform=axes.get_xaxis_transform(),
              va="top", fontsize=9, color="#555555", rotation=90)  # fmt: skip
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel=_LOSS_LABEL, xlim=(sizes[0], end))
    _plain_ticks(axes)
    low, high = axes.get_ylim()  # a band that is wide beyond the runs must not flatten them
    losses_M = analysis.study.losses
    axes.set_ylim(max(low, 0.5 * losses_M.min()), min(high, 2 * losses_M.max()))
    fitted_to = "all widths" if held_out_width is None else f"all widths but {held_out_width}"
    title = f"{_equation(law.form.names, law.values.tolist())}   (fitted to {fitted_to}; band: 95 %)"
    axes.set_title(title, fontsize=11, parse_math=False)
    axes.legend(handles=handles, fontsize=10, frameon=False)
    figure.savefig(file, format="png", metadata={"Software": None})


def draw_held_out(analysis: Analysis, file: Path) -> None:
    """The widest width, which the law never saw: predicted with 95 % intervals and measured, a column a data size."""
    figure, axes = _figure()
    if analysis.held_out is None:
        (doubt,) = [diagnosis for diagnosis in analysis.diagnoses if diagnosis.kind == "no_held_out"]
        axes.text(0.5, 0.5, doubt.message, ha="center", va="center", wrap=True, transform=axes.transAxes)
        axes.set_axis_off()
    else:
        _draw_comparisons(axes, analysis, analysis.held_out)
    figure.savefig(file, format="png", metadata={"Software": None})


def _draw_comparisons(axes: Axes, analysis: Analysis, held_out: HeldOut) -> None:
    predicted, measured = _COLOURS[0], _COLOURS[1]
    for column, comparison in enumerate(held_out.comparisons):
        first = column == 0
        if comparison.low is not None and comparison.high is not None:
            axes.plot([column - 0.06] * 2, [comparison.low, comparison.high], color=predicted, lw=7, alpha=0.3,
                      solid_capstyle="butt", label="95 % prediction interval" if first else None)  # fmt: skip
        axes.plot(column - 0.06, comparison.predicted, "_", ms=18, mew=2.5, color=predicted,
                  label="predicted without this width" if first else None)  # fmt: skip
        losses = [
            run.val_nll
            for run in analysis.study.runs
            if run.width == held_out.width and run.unique_images == comparison.unique_images
        ]
        axes.plot([column + 0.06] * len(losses), losses, "o", ms=7, mfc="white", mew=1.5, color=measured,
                  label="measured, a ring a seed" if first else None)  # fmt: skip
        top = max(comparison.high or 0, comparison.predicted, *losses, comparison.actual)
        axes.annotate(f"{comparison.relative_error:+.1%}", (column, top), xytext=(0, 7), textcoords="offset points",
                      ha="center", fontsize=10)  # fmt: skip
    axes.set_xticks(range(len(held_out.comparisons)), [f"{one.unique_images:,}" for one in held_out.comparisons])
    axes.set(xlabel="unique training images", ylabel=_LOSS_LABEL, yscale="log")
    axes.set_xlim(-0.6, len(held_out.comparisons) - 0.4)
    axes.margins(y=0.15)
    _plain_ticks(axes)
    title = f"Width {held_out.width} ({held_out.parameters:,} parameters), held out; at each: predicted / measured − 1"
    axes.set_title(title, fontsize=11, parse_math=False)
    axes.legend(fontsize=10, frameon=False)


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5.5), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(which="both", color="#dddddd", lw=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _plain_ticks(axes: Axes) -> None:
    """Losses as plain numbers, at as many places as a range of less than a decade needs."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _equation(names: list[str], values: list[float]) -> str:
    known = dict(zip(names, values, strict=True))
    law = f"L = {known['E']:.3g} + {known['A']:.3g} / N^{known['alpha']:.3g}"
    return law + (f" + {known['B']:.3g} / D^{known['beta']:.3g}" if "B" in known else "")
