"""What to drop from a data set, and who goes to which split, decided on what is known of each image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import Field

from isoflop.data import duplicates
from isoflop.data.arrays import Resize
from isoflop.data.duplicates import Catalogue
from isoflop.data.splitting import assign_splits, check_every_class
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section

REASONS = ("undecodable", "blank", "conflicting_labels", "leak", "exact_duplicate", "near_duplicate")


class Drop(Section):
    """What to drop. Off means: keep it (for ``undecodable``, stop with an error)."""

    undecodable: bool  # files that are no readable image
    blank: bool  # images of one colour
    exact_duplicates: bool  # of the same pixels, but for the first
    leaks: bool  # images of train or val that are in a later split too
    conflicting_labels: bool  # all images whose pixels are there under two labels
    near_duplicate_distance: int | None = Field(ge=0, le=16)  # bits of a 64-bit perceptual hash; null: not looked for


class Prepare(Section):
    """Section ``prepare``."""

    image_size: int = Field(ge=1, le=2048)  # pixels, side of the square
    channels: Literal[1, 3]  # 1: grey; 3: red, green, blue
    resize: Resize  # the centred square; or all of it, filled up; or stretched
    normalization: Literal["unit", "symmetric", "standard"]  # to 0 … 1, to -1 … 1, or to mean 0 and deviation 1
    val_fraction: float = Field(gt=0, lt=1)  # of the images that are not test images
    test_fraction: float = Field(gt=0, lt=1)  # of all images, where the source has no test split
    min_images_per_class: int = Field(ge=3)  # that are left after cleaning, else it stops; 3: one for each split
    seed: int = Field(ge=0)  # of the draw of splits
    drop: Drop


@dataclass
class Cleaning:
    """What happened to each image of the source: dropped for a reason, or put in a split."""

    catalogue: Catalogue = field(default_factory=Catalogue)
    kept: list[int] = field(default_factory=list)  # numbers of images, in the order of the source
    dropped: dict[int, tuple[str, str]] = field(default_factory=dict)  # number → reason, detail
    splits: dict[int, str] = field(default_factory=dict)  # number → split, of the kept

    def drop(self, reason: str, details: dict[int, str]) -> None:
        self.dropped.update({index: (reason, detail) for index, detail in details.items()})
        self.kept = [index for index in self.kept if index not in details]


def drop_and_split(cleaning: Cleaning, classes: Sequence[str], params: Prepare) -> None:
    """Drop what is there twice, and give every image that stays its split.

    Where the source has no splits, duplicates are dropped before the draw, so there is nothing to leak. Leaks are
    looked for again after it: with ``exact_duplicates`` off, the draw can put twins into two splits.
    """
    catalogue, drop = cleaning.catalogue, params.drop
    if drop.conflicting_labels:
        cleaning.drop("conflicting_labels", duplicates.conflicting_labels(cleaning.kept, catalogue, classes))
    if drop.leaks:
        cleaning.drop("leak", duplicates.leaks(cleaning.kept, catalogue))
    if drop.exact_duplicates:
        cleaning.drop("exact_duplicate", duplicates.exact_duplicates(cleaning.kept, catalogue))
    if drop.near_duplicate_distance is not None:
        within, across = duplicates.near_duplicates(
            cleaning.kept, catalogue, drop.near_duplicate_distance, across_splits=drop.leaks
        )
        cleaning.drop("near_duplicate", within)
        cleaning.drop("leak", across)
    _check_counts(cleaning, classes, params.min_images_per_class)
    cleaning.splits = assign_splits(
        cleaning.kept,
        catalogue.labels,
        catalogue.splits,
        classes,
        val_fraction=params.val_fraction,
        test_fraction=params.test_fraction,
        seed=params.seed,
    )
    if drop.leaks:
        catalogue.splits = [cleaning.splits.get(index) for index in range(len(catalogue))]
        cleaning.drop("leak", duplicates.leaks(cleaning.kept, catalogue))
        cleaning.splits = {index: cleaning.splits[index] for index in cleaning.kept}
        check_every_class(cleaning.splits, catalogue.labels, classes)


def _check_counts(cleaning: Cleaning, classes: Sequence[str], needed: int) -> None:
    labels = cleaning.catalogue.labels
    counts = Counter(labels[index] for index in cleaning.kept)
    for label, name in enumerate(classes):
        if counts[label] < needed:
            reasons = Counter(reason for index, (reason, _) in cleaning.dropped.items() if labels[index] == label)
            why = ", ".join(f"{reasons[reason]} {reason}" for reason in REASONS if reasons[reason])
            raise UserError(
                f"class {name!r}: found {counts[label]} images after cleaning"
                + (f" (dropped: {why})" if why else "")
                + f", expected at least {needed} (prepare.min_images_per_class)"
            )
