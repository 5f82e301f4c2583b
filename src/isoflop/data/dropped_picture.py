"""A picture of the images that cleaning dropped, one row per reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from isoflop.data.arrays import Images
from isoflop.montage import Pixels, Row, Tile, write_montage

MOST_IMAGES = 8  # per reason
_CROSS_SIDE = 32  # pixels


def write_dropped_picture(images: Mapping[str, Images], names: Mapping[str, list[str]], file: Path) -> None:
    """Draw an SVG of dropped images with their names under them.

    Args:
        images: reason → uint8 [N, H, W, C]; with N = 0 (undecodable files) a cross stands for each image.
        names: reason → the names of these images as class/file.
    """
    rows = []
    for reason, named in names.items():
        shown = images[reason] if len(images[reason]) else [_cross()] * len(named)
        tiles = [Tile([image], [name]) for image, name in zip(shown, named, strict=True)]
        rows.append(Row(reason.replace("_", " "), tiles))
    write_montage(rows, file, nothing="nothing was dropped")


def _cross() -> Pixels:
    lines_HW = np.eye(_CROSS_SIDE, dtype=bool) | np.eye(_CROSS_SIDE, dtype=bool)[::-1]
    return np.where(lines_HW, 80, 136).astype(np.uint8)[..., None]
