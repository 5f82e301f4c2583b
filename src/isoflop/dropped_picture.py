"""A picture of the images that cleaning dropped: a row a reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from isoflop.arrays import Images
from isoflop.figures import new_figure, save, shortened

MOST_IMAGES = 8  # of a reason


def write_dropped_picture(images: Mapping[str, Images], names: Mapping[str, list[str]], file: Path) -> None:
    """Draw a PNG of ``images``: reason → uint8 [N, H, W, C], and ``names`` of as many images, shown above them.

    Where a reason has names and no images, those could not be read: a cross stands for each.
    """
    rows = {reason: named for reason, named in names.items() if named}
    columns = max((len(named) for named in rows.values()), default=1)
    figure = new_figure(1.6 + 1.15 * columns, 0.3 + 1.3 * max(1, len(rows)))
    grid = figure.subplots(max(1, len(rows)), columns, squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if not rows:
        grid[0, 0].text(0.5, 0.5, "nothing was dropped", ha="center", va="center")
    for line, (reason, named) in zip(grid, rows.items(), strict=False):
        line[0].set_ylabel(reason.replace("_", "\n"), fontsize=9, rotation=0, ha="right", va="center")
        for number, (axes, name) in enumerate(zip(line, named, strict=False)):
            if len(images[reason]):
                axes.imshow(images[reason][number].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            else:
                axes.plot([0, 1, 0.5, 0, 1], [0, 1, 0.5, 1, 0], color="#888888", lw=1)
            axes.set_title(shortened(name.rpartition("/")[2]), fontsize=7, parse_math=False)
    save(figure, file)
