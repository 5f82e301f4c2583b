"""Axes that the figures of a study share: panels, logarithmic scales with plain tick labels, shading. No data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.plotting import COLOURS, new_figure, save
from isoflop.scaling.forms import Floats

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from isoflop.scaling.analysis import Analysis

    # draws an analysis, or returns why there is nothing to draw
    Panel = Callable[[Figure, Axes, Analysis], str | None]

_WIDTH, _HEIGHT = 4.1, 3.6  # inches: text of 9 points stays legible on a phone
_DPI = 200  # of a PNG
_MAX_LEGEND = 6  # sizes in a legend; more would cover the runs
LOSS_LABEL = "Validation loss"
AXIS_LABELS = {
    "parameters": "Parameters N",
    "unique_samples": "Unique training samples D",
    "seen_samples": "Training samples seen S",
    "flops": "Training compute C (FLOPs)",
}


def panels(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with ``count`` axes, two per row."""
    columns, rows = min(count, 2), -(-count // 2)
    figure = new_figure(_WIDTH * columns, _HEIGHT * rows + (0.5 if count > 1 else 0), _DPI)
    axes = [figure.add_subplot(rows, columns, index + 1) for index in range(count)]
    for one in axes:
        one.grid(color="#dddddd", lw=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=9)
    return figure, axes


def write_panel(draw: Panel, analysis: Analysis, file: Path) -> None:
    """Write a figure of one panel; if there is nothing to draw, a figure that explains why."""
    figure, (axes,) = panels(1)
    nothing = draw(figure, axes, analysis)
    if nothing:
        axes.text(0.5, 0.5, nothing, ha="center", va="center", wrap=True, fontsize=10, transform=axes.transAxes)
        axes.set_axis_off()
    save(figure, file)


def log_losses(axes: Axes, which: str = "y") -> None:
    """Set a logarithmic scale for losses with plain numbers as tick labels, enough of them within a decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    for name in which:
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        low, high = sorted(getattr(axes, f"get_{name}lim")())
        fine = high / max(low, 1e-12) < 3
        subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0) if high / max(low, 1e-12) < 10 else (1.0, 2.0, 5.0)
        coarse = LogLocator(subs=subs, numticks=15)
        axis.set_major_locator(MaxNLocator(7) if fine else coarse)
        axis.set_major_formatter(FuncFormatter(lambda loss, _: f"{loss:.3g}"))
        axis.set_minor_formatter(NullFormatter())


def log_sizes(axes: Axes, which: str = "x") -> None:
    """Set a logarithmic scale for sizes with tick labels by ``short``: decades, and values between if they are few."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for name in which:
        getattr(axes, f"set_{name}scale")("log")
        axis = getattr(axes, f"{name}axis")
        low, high = sorted(getattr(axes, f"get_{name}lim")())
        ratio = high / low
        axis.set_major_locator(
            LogLocator(subs=(1.0,) if ratio > 1e3 else (1.0, 3.0) if ratio > 30 else (1.0, 2.0, 5.0))
        )
        axis.set_major_formatter(FuncFormatter(lambda size, _: short(size)))
        axis.set_minor_formatter(NullFormatter())


def draw_sizes(axes: Axes, sizes: Floats, across: Floats, losses: Floats) -> None:
    """Draw runs [M] in a color per model size: a legend for few sizes, else a color bar over log N."""
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, NullFormatter

    different = sorted(set(sizes.tolist()), reverse=True)
    if len(different) <= _MAX_LEGEND:
        for index, size in enumerate(different):
            at = sizes == size
            colour = COLOURS[(index + 1) % len(COLOURS)]
            axes.plot(across[at], losses[at], "o", ms=4, color=colour, label=f"N = {short(size)}")
        return
    norm = LogNorm(different[-1], different[0])
    dots = axes.scatter(across, losses, c=sizes, cmap="viridis", norm=norm, s=14, zorder=2)
    bar = axes.figure.colorbar(dots, ax=axes, label=AXIS_LABELS["parameters"])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda size, _: short(size)))
    bar.ax.yaxis.set_minor_formatter(NullFormatter())


def short(number: float) -> str:
    """A number with three digits and a unit: ``50k``, ``1.2M``, ``3.1e+14``."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if unit <= number < 1000 * unit and number < 1e12:
            return f"{number / unit:.3g}{name}"
    return f"{number:.3g}"


def legend(axes: Axes) -> None:
    """A legend below the axes, where it covers no data."""
    axes.legend(fontsize=8, frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=2)


def shade_beyond(axes: Axes, start: float, end: float, what: str) -> None:
    """Shade the range beyond four times the largest run, where extrapolations are not trusted."""
    axes.axvspan(start, end, color="#888888", alpha=0.12, lw=0)
    label: dict[str, Any] = {"va": "top", "fontsize": 8, "color": "#555555", "rotation": 90}
    axes.text(start, 0.98, f" > 4× largest {what}", transform=axes.get_xaxis_transform(), **label)
