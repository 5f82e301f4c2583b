"""Which test images a variant answers otherwise than the base: a table of all, and a picture of the first."""

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
class Flip:
    """An image, by its number in the split, whose class a variant answers otherwise than the base."""

    image: int
    variant: str
    actual: int
    base: int
    answered: int


def flips(answers: Mapping[str, Labels], labels_N: Labels) -> list[Flip]:
    """Of every variant against the first, the base: the images that most variants flip come first."""
    base, *variants = answers
    found = [
        Flip(int(image), name, int(labels_N[image]), int(answers[base][image]), int(answers[name][image]))
        for name in variants
        for image in (answers[name] != answers[base]).nonzero()[0]
    ]
    count = Counter(flip.image for flip in found)
    return sorted(found, key=lambda flip: (-count[flip.image], flip.image))


def write_flips(found: Iterable[Flip], classes: list[str], file: Path) -> None:
    """A CSV row a flip: ``change`` is lost (right before), gained (right now) or neither."""
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(["image", "variant", "actual", "base", "answered", "change"])
        for flip in found:
            named = (classes[label] for label in (flip.actual, flip.base, flip.answered))
            change = {flip.base: "lost", flip.answered: "gained"}.get(flip.actual, "neither")
            rows.writerow([flip.image, flip.variant, *named, change])


def draw_flips(found: Iterable[Flip], test: Split, file: Path) -> None:
    """A PNG of the images with what they are, what the base says, and what the variants say that say otherwise."""
    by_image: dict[int, list[Flip]] = {}
    for flip in found:
        by_image.setdefault(flip.image, []).append(flip)
    shown = list(by_image.values())[:_MOST_IMAGES]
    columns = min(_COLUMNS, max(1, len(shown)))
    rows = max(1, -(-len(shown) // columns))
    figure = new_figure(1.7 * columns + 0.3, 2.75 * rows + 0.2)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    if not shown:
        grid[0].text(0.5, 0.5, "no flips", ha="center", va="center")
    names = [shortened(name) for name in test.input_spec.classes]
    for axes, of_image in zip(grid, shown, strict=False):
        first = of_image[0]
        axes.imshow(test.images[first.image].squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        said = [f"{flip.variant}: {names[flip.answered]}" for flip in of_image[:_MOST_NAMED]]
        said += [f"and {len(of_image) - _MOST_NAMED} more"] if len(of_image) > _MOST_NAMED else []
        lines = [f"is {names[first.actual]}", f"base: {names[first.base]}", *said]
        axes.set_title("\n".join(lines), fontsize=7, loc="left", parse_math=False)
    save(figure, file)
