"""A picture of what the augmentation policy does: a few training images and their augmented views."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isoflop.data.arrays import Images, Split
from isoflop.plotting import new_figure, save, shortened

_MOST_ROWS = 10
_MOST_VIEWS = 8


def write_contact_sheet(train: Split, views: Images, file: Path) -> None:
    """Draw a PNG with one row for each of the first 10 classes: its first training image and up to 8 of its views.

    Args:
        views: uint8 [K, N, H, W, C], K views of the N images of ``train``; K may be 0.
    """
    rows = [
        (name, int(np.flatnonzero(train.labels == label)[0]))
        for label, name in enumerate(train.input_spec.classes[:_MOST_ROWS])
    ]
    columns = 1 + min(len(views), _MOST_VIEWS)
    figure = new_figure(1.5 + columns, 0.6 + len(rows))
    axes_RV = figure.subplots(len(rows), columns, squeeze=False)
    for row, (name, index) in enumerate(rows):
        pictures = [train.images[index], *views[: columns - 1, index]]
        for column, picture in enumerate(pictures):
            axes = axes_RV[row, column]
            # nearest: show exactly the pixels that the network gets
            axes.imshow(picture.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title("prepared" if column == 0 else f"view {column}", fontsize=9)
        axes_RV[row, 0].set_ylabel(shortened(name), fontsize=9, rotation=0, ha="right", va="center", parse_math=False)
    save(figure, file)
