"""The figures of a study for the report: one panel a file, and no file where there is nothing to draw."""

from __future__ import annotations

from pathlib import Path

from isoflop.plotting import save
from isoflop.scaling.analysis import Analysis
from isoflop.scaling.figures.axes import panels
from isoflop.scaling.figures.compute_optimal_plots import profiles_panel, surface_panel
from isoflop.scaling.figures.law_plots import held_out_panel, law_panels


def write_pictures(analysis: Analysis, folder: Path) -> None:
    """Write the new folder with ``AXIS.svg``, ``held_out.svg``, ``isoflop.svg`` and ``surface.svg``."""
    folder.mkdir(parents=True)
    others = {"held_out": held_out_panel, "isoflop": profiles_panel, "surface": surface_panel}
    for name, draw in (law_panels(analysis) | others).items():
        figure, (axes,) = panels(1)
        if draw(figure, axes, analysis) is None:
            save(figure, folder / f"{name}.svg")
