"""Small photographs of three kinds, in a folder as people have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("Bäume", "c", "rote Äpfel")


def take_pictures(
    folder: Path,
    classes: tuple[str, ...] = CLASSES,
    count: int = 16,
    sides: tuple[int, int] = (20, 40),
    grey: bool = False,
) -> Path:
    """``count`` pictures of uneven sides a class, JPEGs and PNGs, some a folder deeper; classes differ in a colour."""
    rng = np.random.default_rng(0)
    for number, name in enumerate(classes):
        for index in range(count):
            width, height = (int(side) for side in rng.integers(sides[0], sides[1] + 1, 2))
            coarse = rng.integers(0, 256, (5, 5, 3)).astype(np.uint8)
            coarse[..., number % 3] = 255
            picture = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
            file = folder / name / ("deeper" if index % 5 == 0 else "") / f"no {index}.{'jpg' if index % 2 else 'png'}"
            file.parent.mkdir(parents=True, exist_ok=True)
            (picture.convert("L") if grey else picture).save(file)
    return folder


def litter(folder: Path) -> None:
    """What lies in such folders beside good pictures: a note, a stray picture, a JPEG cut off, a hidden folder."""
    some = next((folder / CLASSES[1]).glob("*.jpg"))
    (folder / "notes.txt").write_text("buy milk")
    (folder / CLASSES[1] / "list.csv").write_text("a,b")
    (folder / CLASSES[1] / "cut off.jpg").write_bytes(some.read_bytes()[:300])
    (folder / "stray.jpg").write_bytes(some.read_bytes())
    (folder / ".thumbnails").mkdir()
    (folder / ".thumbnails" / "x.jpg").write_bytes(some.read_bytes())


QUARTERS = ["top left", "top right", "bottom left", "bottom right"]


def write_image(file: Path, brightest: int, mode: str = "L", side: int = 8) -> Path:
    """Write a black image with one white quarter."""
    pixels = np.zeros((2, 2), np.uint8)
    pixels.ravel()[brightest] = 255
    grey = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
    if mode == "I;16":
        Image.fromarray(np.asarray(grey).astype(np.uint16) * 257).save(file)
    else:
        grey.convert("RGB").convert(mode).save(file)
    return file
