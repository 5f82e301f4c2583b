"""Who goes to train, val and test: the source's own splits where it has them, else stratified draws by seed."""

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
    """Give each image of ``kept`` its split.

    Official splits stay as they are; images without one count as train. If then there is no test split,
    ``test_fraction`` of each class is drawn from train for it; if there is no val split, ``val_fraction`` of what is
    left of each class is. A class's draw depends on the seed and its own images only.

    Raises:
        UserError: a class is left without images in some split.
    """
    splits = {index: official[index] or "train" for index in kept}
    present = set(splits.values())
    for number, (name, fraction) in enumerate([("test", test_fraction), ("val", val_fraction)]):
        if name not in present:
            _draw(splits, labels, classes, name, fraction, seed=[seed, number])
    check_every_class(splits, labels, classes)
    return splits


def check_every_class(splits: dict[int, str], labels: Sequence[int], classes: Sequence[str]) -> None:
    """Raises: UserError: a class has no image in some split."""
    counts = Counter((split, labels[index]) for index, split in splits.items())
    for split in SPLITS:
        for label, name in enumerate(classes):
            if not counts[split, label]:
                raise UserError(f"class {name!r}: found no images in the {split} split, expected at least one")


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
            left = "no" if count == 0 else "only"
            raise UserError(
                f"prepare.{name}_fraction: found {fraction}, which leaves class {classes[label]!r} ({len(indices)} "
                f"images) with {left} {name} images; expected at least one {name} and one training image of each class"
            )
        for position in np.random.default_rng([*seed, label]).permutation(len(indices))[:count]:
            splits[indices[position]] = name
