"""Assign images to train, val and test: the source's own splits if it has them, else stratified random draws."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from isoflop.runtime.errors import UserError

SPLITS = ("train", "val", "test")


def assign_splits(
    kept: Iterable[int],
    labels: Sequence[int],
    official: Sequence[str | None],
    classes: Sequence[str],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> dict[int, str]:
    """Return the split of each image of ``kept``, as index → split.

    Official splits are kept; images without one count as train. If the source has no test split, ``test_fraction`` of
    each class is drawn from train. If it has no val split, ``val_fraction`` of each class's remaining train images is
    drawn. The draw for a class depends only on the seed and on the images of that class.

    Raises:
        UserError: a class has no image in some split.
    """
    splits = {index: official[index] or "train" for index in kept}
    present = set(splits.values())
    for stream, (name, fraction) in enumerate([("test", test_fraction), ("val", val_fraction)]):
        if name not in present:
            _draw(splits, labels, classes, name, fraction, seed=[seed, stream])
    check_every_class(splits, labels, classes)
    return splits


def check_every_class(splits: dict[int, str], labels: Sequence[int], classes: Sequence[str]) -> None:
    """Check that every class has an image in every split.

    Raises:
        UserError: a class has no image in some split.
    """
    counts = Counter((split, labels[index]) for index, split in splits.items())
    for split in SPLITS:
        for label, name in enumerate(classes):
            if not counts[split, label]:
                raise UserError(f"class {name!r}: got no images in the {split} split, expected at least one")


def _draw(
    splits: dict[int, str], labels: Sequence[int], classes: Sequence[str], name: str, fraction: float, seed: list[int]
) -> None:
    members: dict[int, list[int]] = defaultdict(list)
    for index, split in splits.items():
        if split == "train":
            members[labels[index]].append(index)
    for label, indices in sorted(members.items()):
        count = round(fraction * len(indices))
        if not 0 < count < len(indices):
            lacking = name if count == 0 else "training"
            raise UserError(
                f"prepare.{name}_fraction: got {fraction}, which gives class {classes[label]!r} ({len(indices)} "
                f"images) no {lacking} images, expected at least one {name} and one training image of each class"
            )
        for drawn in np.random.default_rng([*seed, label]).permutation(len(indices))[:count]:
            splits[indices[drawn]] = name
