"""Figures without a screen, written with the same bytes whenever: PNG for pictures, SVG for lines."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito: safe for the colour-blind
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")


def new_figure(width: float, height: float, dpi: int = 100) -> Figure:
    """An empty figure of so many inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, file: Path) -> None:
    """As PNG, or as SVG where the file is named so."""
    if file.suffix == ".svg":
        file.write_text(svg(figure), encoding="utf-8")
    else:
        figure.savefig(file, format="png", metadata={"Software": None})


def svg(figure: Figure) -> str:
    """The figure as SVG on no background, its text as text."""
    import matplotlib

    text = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "isoflop"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
    return text.getvalue()


def shortened(name: str) -> str:
    """A name that fits a picture, without what a font cannot draw."""
    name = name.encode("utf-8", "backslashreplace").decode()
    return name if len(name) <= 18 else name[:17] + "…"
