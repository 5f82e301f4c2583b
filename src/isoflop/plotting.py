"""Matplotlib figures without a display, written with reproducible bytes as PNG or SVG. No data, no axes."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito: distinguishable with color vision deficiency
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def new_figure(width: float, height: float, dpi: int = 100) -> Figure:
    """An empty figure of ``width`` x ``height`` inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, file: Path) -> None:
    """Write the figure as SVG if the file's suffix is .svg, else as PNG."""
    if file.suffix == ".svg":
        file.write_text(svg(figure), encoding="utf-8")
    else:
        _lay_out(figure)
        figure.savefig(file, format="png", metadata={"Software": None})


def _lay_out(figure: Figure) -> None:
    """Place the axes once: with a layout engine, ``savefig`` draws twice and places them each time."""
    if engine := figure.get_layout_engine():
        engine.execute(figure)
    figure.set_layout_engine(None)


def svg(figure: Figure) -> str:
    """The figure as SVG source with a transparent background; text stays text."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "isoflop"}), warnings.catch_warnings():
        # the reader's fonts draw the text: what matplotlib's own fonts lack does not matter
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        _lay_out(figure)
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return text.getvalue()
