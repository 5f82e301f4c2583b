"""Test images whose predicted class a variant changes: a CSV of all of them, and a picture of the first."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from isoflop.data.arrays import Labels, Split
from isoflop.plotting import new_figure, save, shortened

_COLUMNS = 6
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


def write_changed_predictions(changes: Iterable[ChangedPrediction], classes: list[str], file: Path) -> None:
    """Write one CSV row per change. Column ``change``: lost (only the base is correct), gained (only the variant is
    correct) or neither."""
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["image", "variant", "actual", "base", "answered", "change"])
        for change in changes:
            named = (classes[label] for label in (change.actual, change.base, change.answered))
            kind = {change.base: "lost", change.answered: "gained"}.get(change.actual, "neither")
            rows.writerow([change.image, change.variant, *named, kind])


def draw_changed_predictions(changes: Iterable[ChangedPrediction], test: Split, file: Path) -> None:
    """Draw the first images as PNG, with their label, the base's prediction and those of the variants that differ."""
    by_image: dict[int, list[ChangedPrediction]] = {}
    for change in changes:
        by_image.setdefault(change.image, []).append(change)
    shown = list(by_image.values())[:_MOST_IMAGES]
    columns = min(_COLUMNS, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = new_figure(1.7 * columns + 0.3, 2.75 * rows + 0.2)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    if not shown:
        grid[0].text(0.5, 0.5, "no changed predictions", ha="center", va="center")
    names = [shortened(name) for name in test.input_spec.classes]
    for axes, of_image in zip(grid, shown, strict=False):
        first = of_image[0]
        axes.imshow(test.images[first.image].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        lines = [f"label: {names[first.actual]}", f"base: {names[first.base]}"]
        lines += [f"{change.variant}: {names[change.answered]}" for change in of_image[:_MOST_NAMED]]
        lines += [f"and {len(of_image) - _MOST_NAMED} more"] if len(of_image) > _MOST_NAMED else []
        axes.set_title("\n".join(lines), fontsize=7, loc="left", parse_math=False)
    save(figure, file)
