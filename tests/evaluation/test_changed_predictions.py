"""Changed predictions: the images for which a variant predicts another class than the base."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from isoflop.evaluation.changed_predictions import (
    changed_predictions,
    draw_changed_predictions,
    write_changed_predictions,
)
from isoflop.report.montages import read_montage
from tests.networks import digits_split

LABELS = np.array([0, 1, 2, 3])
ANSWERS = {"base": np.array([0, 1, 9, 9]), "a": np.array([0, 2, 9, 3]), "b": np.array([0, 1, 8, 3])}


def test_changed_predictions_by_hand(tmp_path: Path) -> None:
    found = changed_predictions(ANSWERS, LABELS)
    classes, names = [f"class {number}" for number in range(10)], [f"{number}.jpg" for number in range(4)]
    write_changed_predictions(found, classes, names, tmp_path / "changed_predictions.csv")
    with (tmp_path / "changed_predictions.csv").open(newline="") as stream:
        read = list(csv.DictReader(stream))
    assert all(row["name"] == f"{row['image']}.jpg" for row in read)
    rows = [(row["image"], row["variant"], row["answered"], row["change"]) for row in read]
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
    names = [f"photos/{number}.jpg" for number in range(40)]
    shown = {}
    for name, found in (("none", changed_predictions({"base": labels}, labels)), ("few", many[:2]), ("many", many)):
        draw_changed_predictions(found, test, names, tmp_path / f"{name}.svg")
        rows = read_montage(tmp_path / f"{name}.svg")
        shown[name] = [tile.lines for row in rows for tile in row.tiles]
    assert shown["none"] == [] and len(shown["few"]) == 2 and len(shown["many"]) == 24  # of 40 images
    assert "no changed predictions" in (tmp_path / "none.svg").read_text()
    first = many[0]
    assert shown["few"][0] == [f"photos/{first.image}.jpg", f"label: {first.actual}", f"base: {first.base}",
                               f"a: {first.answered}"]  # fmt: skip
