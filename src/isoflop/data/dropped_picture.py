"""A picture of the images that cleaning dropped, one row per reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from isoflop.data.arrays import Images
from isoflop.plotting import new_figure, save

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_IMAGES = 8  # per reason
_FONT_POINTS = 7
_TITLE_WIDTH = 1.05  # inches
_MOST_CHARACTERS = 60  # more do not fit, and names in untrusted archives may have any length


def write_dropped_picture(images: Mapping[str, Images], names: Mapping[str, list[str]], file: Path) -> None:
    """Draw a PNG of dropped images with their names above them.

    Args:
        images: reason → uint8 [N, H, W, C]; with N = 0 (undecodable files) a cross stands for each image.
        names: reason → the names of these images as class/file.
    """
    rows = {reason: named for reason, named in names.items() if named}
    columns = max((len(named) for named in rows.values()), default=1)
    figure = new_figure(1.6 + 1.15 * columns, 0.3 + 1.4 * max(1, len(rows)))
    grid = figure.subplots(max(1, len(rows)), columns, squeeze=False)
    for axes in grid.ravel():
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(False)
    if not rows:
        grid[0, 0].text(0.5, 0.5, "nothing was dropped", ha="center", va="center")
    for line, (reason, named) in zip(grid, rows.items(), strict=False):
        line[0].set_ylabel(reason.replace("_", "\n"), fontsize=9, rotation=0, ha="right", va="center")
        for index, (axes, name) in enumerate(zip(line, named, strict=False)):
            if len(images[reason]):
                axes.imshow(images[reason][index].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            else:
                axes.plot([0, 1, 0.5, 0, 1], [0, 1, 0.5, 1, 0], color="#888888", lw=1)
            axes.set_title(_title(name, partial(_width, figure)), fontsize=_FONT_POINTS, parse_math=False)
    save(figure, file)


def _title(name: str, width: Callable[[str], float]) -> str:
    """Return two lines: the start of the class name and the end of the file name, as much of each as fits."""
    # escape what a font cannot draw
    above, _, below = name.encode("utf-8", "backslashreplace").decode().rpartition("/")
    above = _fitting(f"{above}/"[:_MOST_CHARACTERS], width, lambda text: text[:-2] + "…")
    return f"{above}\n{_fitting(below[-_MOST_CHARACTERS:], width, lambda text: '…' + text[2:])}"


def _fitting(text: str, width: Callable[[str], float], cut: Callable[[str], str]) -> str:
    while width(text) > _TITLE_WIDTH:
        text = cut(text)
    return text


def _width(figure: Figure, text: str) -> float:
    """Return the width of ``text`` as a title, in inches."""
    from matplotlib.font_manager import FontProperties

    renderer: Any = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    return float(renderer.get_text_width_height_descent(text, FontProperties(size=_FONT_POINTS), False)[0]) / figure.dpi
