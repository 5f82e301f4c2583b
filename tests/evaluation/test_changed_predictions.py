"""Changed predictions: the images for which a variant predicts another class than the base."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

from isoflop.evaluation.changed_predictions import (
    changed_predictions,
    draw_changed_predictions,
    write_changed_predictions,
)
from tests.networks import digits_split

LABELS = np.array([0, 1, 2, 3])
ANSWERS = {"base": np.array([0, 1, 9, 9]), "a": np.array([0, 2, 9, 3]), "b": np.array([0, 1, 8, 3])}


def test_changed_predictions_by_hand(tmp_path: Path) -> None:
    found = changed_predictions(ANSWERS, LABELS)
    write_changed_predictions(found, [f"class {number}" for number in range(10)], tmp_path / "changed_predictions.csv")
    with (tmp_path / "changed_predictions.csv").open(newline="") as stream:
        rows = [(row["image"], row["variant"], row["answered"], row["change"]) for row in csv.DictReader(stream)]
    assert rows == [
        ("3", "a", "class 3", "gained"),  # two variants change it, so it comes first
        ("3", "b", "class 3", "gained"),
        ("1", "a", "class 2", "lost"),
        ("2", "b", "class 8", "neither"),
    ]


def test_the_picture_shows_them_or_that_there_are_none(tmp_path: Path) -> None:
    test = digits_split(tmp_path / "test", 0, 40)
    labels = np.asarray(test.labels)
    many = changed_predictions({"base": labels, "a": (labels + 1) % 10}, labels)
    for name, found in (("none", changed_predictions({"base": labels}, labels)), ("few", many[:2]), ("many", many)):
        draw_changed_predictions(found, test, tmp_path / f"{name}.png")
    sizes = []
    for name in ("none", "few", "many"):
        with Image.open(tmp_path / f"{name}.png") as shown:
            sizes.append(shown.size)
    assert sizes[0] < sizes[1] < sizes[2] and sizes[2][1] < 1300  # 24 of 40 images
