"""Which images to drop from a data set, and which split each remaining image goes to. Works on metadata only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from isoflop.data import duplicates
from isoflop.data.arrays import Resize
from isoflop.data.duplicates import Catalogue
from isoflop.data.splitting import Assignment, assign_by_content, assign_splits, check_every_class
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import RandomSeed, Section

_MOST_LOST = 0.5  # share of a class; a rule that would drop more of it is off for that class
REASONS = ("undecodable", "blank", "conflicting_labels", "leak", "exact_duplicate", "near_duplicate")

_KEYS = {  # reason → the setting that keeps such images
    "blank": "prepare.drop.blank: false",
    "conflicting_labels": "prepare.drop.conflicting_labels: false",
    "exact_duplicate": "prepare.drop.exact_duplicates: false",
    "leak": "prepare.drop.leaks: false",
    "near_duplicate": "prepare.drop.near_duplicate_distance: null",
}


def _increasing(values: list[float]) -> list[float]:
    if values[0] >= values[1]:
        raise ValueError("expected the lower sample first")
    return values


Range = Annotated[
    list[Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]],
    Field(min_length=2, max_length=2),
    AfterValidator(_increasing),
]


class Drop(Section):
    """Which images to drop. `false` keeps them; for `undecodable`, `false` stops with an error instead."""

    undecodable: bool  # files that cannot be decoded as an image
    blank: bool  # images of a single color
    exact_duplicates: bool  # images with the same pixels as an earlier one of the same split and class
    leaks: bool  # images of train whose pixels are also in val or test, and of val whose pixels are also in test
    conflicting_labels: bool  # all images whose pixels occur under two or more labels
    near_duplicate_distance: int | None = Field(
        ge=0, le=16
    )  # maximum distance in bits of a 64-bit hash; off for a class that would lose most of its images; null: off


class Prepare(Section):
    """Section ``prepare``."""

    image_size: int = Field(ge=1, le=2048)  # height and width of the prepared images, in pixels
    channels: Literal[1, 3]  # 1: grayscale; 3: RGB
    resize: Resize  # crop: the centered square; pad: fill up to a square; stretch: change the aspect ratio
    sample_range: Range | None  # 16-bit or float samples that become black and white; null: 0 and the white level
    normalization: Literal[
        "unit", "symmetric", "standard", "pretrained"
    ]  # range [0, 1], range [-1, 1], mean 0 and std 1, or as the network of model.pretrained was trained
    val_fraction: float = Field(gt=0, lt=1)  # share of the non-test images, if the source has no validation split
    test_fraction: float = Field(gt=0, lt=1)  # share of all images, if the source has no test split
    min_images_per_class: int = Field(
        ge=3, le=1_000_000
    )  # images that each class must have after cleaning, at least one per split
    seed: RandomSeed  # random seed of the train/val/test draw
    drop: Drop

    def cross_check(self, params: Mapping[str, Any], file: Path) -> list[str]:
        """Raise UserError if the normalization or the channels are not those of the pretrained network."""
        source = params["model"]["pretrained"]
        if source == "none":
            if self.normalization == "pretrained":
                raise UserError(
                    f"{file}: prepare.normalization: got pretrained with model.pretrained none, expected standard"
                )
            return []
        if self.channels != 3:
            raise UserError(f"{file}: prepare.channels: got 1, expected 3, which model.pretrained {source} takes")
        if self.normalization != "pretrained":
            return [
                f"{file}: prepare.normalization: got {self.normalization}, which is not how {source} was trained; "
                "fix: pretrained"
            ]
        return []


@dataclass
class Cleaning:
    """What happened to each image of the source: dropped for a reason, or assigned to a split."""

    catalogue: Catalogue = field(default_factory=Catalogue)
    kept: list[int] = field(default_factory=list)  # indices of images, in the order of the source
    dropped: dict[int, tuple[str, str]] = field(default_factory=dict)  # index → reason, detail
    splits: dict[int, str] = field(default_factory=dict)  # index → split, of the kept images
    moved: dict[int, str] = field(default_factory=dict)  # index → split by its own content, see splitting.Assignment
    blank: dict[int, str] = field(default_factory=dict)  # index → detail, of images of a single color
    exempt: dict[str, dict[int, int]] = field(default_factory=dict)  # reason → label → images that it would drop

    def drop(self, reason: str, details: dict[int, str]) -> None:
        self.dropped.update({index: (reason, detail) for index, detail in details.items()})
        self.kept = [index for index in self.kept if index not in details]


def drop_and_split(cleaning: Cleaning, classes: Sequence[str], params: Prepare, *, by_content: bool) -> None:
    """Drop blank images, duplicates, leaks and conflicting labels, then assign every kept image to a split.

    If the source has no splits, duplicates are dropped before splits are drawn, so none can leak. Leaks are dropped
    once more after the draw: with ``exact_duplicates`` off, the draw can put duplicates into different splits.

    Args:
        by_content: split by the content of the images; else by stratified random draws.

    Raises:
        UserError: a class has too few images after cleaning, or none in some split.
    """
    catalogue, drop = cleaning.catalogue, params.drop
    cleaning.drop("blank", _unless_most(cleaning, "blank", cleaning.blank))
    if drop.conflicting_labels:
        cleaning.drop("conflicting_labels", duplicates.conflicting_labels(cleaning.kept, catalogue, classes))
    if drop.leaks:
        cleaning.drop("leak", duplicates.leaks(cleaning.kept, catalogue))
    if drop.exact_duplicates:
        cleaning.drop("exact_duplicate", duplicates.exact_duplicates(cleaning.kept, catalogue))
    before = cleaning.kept
    if drop.near_duplicate_distance is not None:
        within, across = duplicates.near_duplicates(
            before, catalogue, drop.near_duplicate_distance, across_splits=drop.leaks
        )
        near = _unless_most(cleaning, "near_duplicate", within | across)
        cleaning.drop("near_duplicate", {index: near[index] for index in within if index in near})
        cleaning.drop("leak", {index: near[index] for index in across if index in near})
    _check_counts(cleaning, classes, params.min_images_per_class)
    assigned = _assigned(cleaning, before, classes, params, by_content)
    cleaning.splits, cleaning.moved = assigned.splits, assigned.moved
    if drop.leaks:
        catalogue.splits = [cleaning.splits.get(index) for index in range(len(catalogue))]
        cleaning.drop("leak", duplicates.leaks(cleaning.kept, catalogue))
        cleaning.splits = {index: cleaning.splits[index] for index in cleaning.kept}
        check_every_class(cleaning.splits, catalogue.labels, classes)


def _assigned(
    cleaning: Cleaning, before: Sequence[int], classes: Sequence[str], params: Prepare, by_content: bool
) -> Assignment:
    of = cleaning.catalogue
    fractions = {"val_fraction": params.val_fraction, "test_fraction": params.test_fraction}
    if not by_content:
        return assign_splits(cleaning.kept, of.labels, of.splits, classes, **fractions, seed=params.seed)
    similar = cleaning.exempt.get("near_duplicate", {})  # whole classes, which cannot be kept together
    groups = duplicates.groups(before, of, params.drop.near_duplicate_distance, similar)
    return assign_by_content(
        cleaning.kept, of.labels, of.splits, classes, of.keys, groups, **fractions, seed=params.seed
    )


def _unless_most(cleaning: Cleaning, reason: str, details: dict[int, str]) -> dict[int, str]:
    """Return the images to drop, without those of classes that would lose most of their images: the rule, made for
    exceptions, does not suit them. ``cleaning.exempt`` counts these."""
    labels = cleaning.catalogue.labels
    sizes = Counter(labels[index] for index in cleaning.kept)
    losses = Counter(labels[index] for index in details)
    exempt = {label: count for label, count in losses.items() if count > _MOST_LOST * sizes[label]}
    if exempt:
        cleaning.exempt[reason] = exempt
    return {index: detail for index, detail in details.items() if labels[index] not in exempt}


def _check_counts(cleaning: Cleaning, classes: Sequence[str], needed: int) -> None:
    labels = cleaning.catalogue.labels
    counts = Counter(labels[index] for index in cleaning.kept)
    for label, name in enumerate(classes):
        if counts[label] < needed:
            reasons = Counter(reason for index, (reason, _) in cleaning.dropped.items() if labels[index] == label)
            why = ", ".join(f"{reasons[reason]} {reason}" for reason in REASONS if reasons[reason])
            raise UserError(
                f"class {name!r}: got {counts[label]} images after cleaning"
                + (f" (dropped: {why})" if why else "")
                + f", expected at least {needed} (prepare.min_images_per_class)"
                + (f"; fix: add images, or `{_KEYS[most]}` keeps them" if (most := _most(reasons)) in _KEYS else "")
            )


def _most(reasons: Counter[str]) -> str:
    return reasons.most_common(1)[0][0] if reasons else ""
