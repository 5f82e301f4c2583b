"""A picture of what the augmentation policy does: a few training images and their augmented views."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from isoflop.data.arrays import Images, Split
from isoflop.montage import Row, Tile, write_montage

_MOST_ROWS = 10
_MOST_VIEWS = 7


def write_contact_sheet(train: Split, views: Images, file: Path) -> None:
    """Draw an SVG with one row for each of the first 10 classes: its first training image and up to 7 of its views.

    Args:
        views: uint8 [K, N, H, W, C], K views of the N images of ``train``; with K = 0 there is nothing to draw.
    """
    rows = []
    for label, name in enumerate(train.input_spec.classes[: _MOST_ROWS if len(views) else 0]):
        index = int(np.flatnonzero(train.labels == label)[0])
        tiles = [Tile([train.images[index]], ["prepared"])]
        tiles += [Tile([view[index]], [f"view {number}"]) for number, view in enumerate(views[:_MOST_VIEWS], 1)]
        rows.append(Row(name, tiles))
    write_montage(rows, file, nothing="no augmented views")
