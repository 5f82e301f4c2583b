"""The figure of a study at several image sizes: loss vs. training compute, a line per size."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from isoflop.plotting import COLOURS, save
from isoflop.scaling.figures.axes import AXIS_LABELS, LOSS_LABEL, legend, log_losses, log_sizes, panels
from isoflop.scaling.image_sizes import points_by_width
from isoflop.scaling.tables.runs import Study


def write_image_sizes(studies: Mapping[int, Study], file: Path) -> None:
    """Draw the best run of each width at each image size; nothing if there is none."""
    points = {size: points_by_width(study) for size, study in studies.items()}
    if not any(points.values()):
        return
    figure, (axes,) = panels(1)
    for index, (size, found) in enumerate(points.items()):
        colour = COLOURS[index % len(COLOURS)]
        axes.plot([one.flops for one in found], [one.loss for one in found], "o-", ms=4, lw=1.2, color=colour,
                  label=f"{size} pixels")  # fmt: skip
    axes.set_xlabel(AXIS_LABELS["flops"])
    axes.set_ylabel(LOSS_LABEL)
    log_sizes(axes)
    log_losses(axes)
    legend(axes)
    save(figure, file)
