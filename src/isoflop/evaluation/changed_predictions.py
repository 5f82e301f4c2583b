"""Test images whose predicted class a variant changes: a CSV of all of them, and a picture of the first."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from isoflop.data.arrays import Labels, Split
from isoflop.montage import Row, Tile, write_montage

_MOST_IMAGES = 24
_MOST_NAMED = 3  # variants under an image


@dataclass(frozen=True)
class ChangedPrediction:
    """An image, by its index in the split, for which a variant predicts another class than the base."""

    image: int
    variant: str
    actual: int
    base: int
    answered: int


def changed_predictions(predictions: Mapping[str, Labels], labels_N: Labels) -> list[ChangedPrediction]:
    """Compare the predicted classes [N] of every variant with those of the first entry, the base.

    Images that most variants change come first.
    """
    base, *variants = predictions
    changes = [
        ChangedPrediction(
            int(image), name, int(labels_N[image]), int(predictions[base][image]), int(predictions[name][image])
        )
        for name in variants
        for image in (predictions[name] != predictions[base]).nonzero()[0]
    ]
    variants_of = Counter(change.image for change in changes)
    return sorted(changes, key=lambda change: (-variants_of[change.image], change.image))


def write_changed_predictions(
    changes: Iterable[ChangedPrediction], classes: Sequence[str], names: Sequence[str], file: Path
) -> None:
    """Write one CSV row per change. Column ``change``: lost (only the base is correct), gained (only the variant is
    correct) or neither.

    Args:
        names: file name of each image of the split.
    """
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["image", "name", "variant", "actual", "base", "answered", "change"])
        for change in changes:
            named = (classes[label] for label in (change.actual, change.base, change.answered))
            kind = {change.base: "lost", change.answered: "gained"}.get(change.actual, "neither")
            rows.writerow([change.image, names[change.image], change.variant, *named, kind])


def draw_changed_predictions(
    changes: Iterable[ChangedPrediction], test: Split, names: Sequence[str], file: Path
) -> None:
    """Draw the first images as SVG: file name, label, the base's prediction and those of the variants that differ."""
    by_image: dict[int, list[ChangedPrediction]] = {}
    for change in changes:
        by_image.setdefault(change.image, []).append(change)
    classes = test.input_spec.classes
    tiles = []
    for image, of_image in list(by_image.items())[:_MOST_IMAGES]:
        first = of_image[0]
        lines = [names[image], f"label: {classes[first.actual]}", f"base: {classes[first.base]}"]
        lines += [f"{change.variant}: {classes[change.answered]}" for change in of_image[:_MOST_NAMED]]
        lines += [f"and {len(of_image) - _MOST_NAMED} more"] if len(of_image) > _MOST_NAMED else []
        tiles.append(Tile([test.images[image]], lines))
    write_montage([Row("", tiles)], file, nothing="no changed predictions")
