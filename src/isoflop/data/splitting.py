"""Assign images to train, val and test: the source's own splits if it has them, else by content or by random draws.

A published data set never changes, and a stratified draw gives each class its exact share. A folder of images grows:
there the hash of an image's content decides, so that an image keeps its split when others are added or removed.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from isoflop.runtime.errors import UserError

SPLITS = ("train", "val", "test")
_DRAWN = ("test", "val")  # in this order, from train


@dataclass(frozen=True)
class Assignment:
    """The split of each image, as index → split.

    ``moved`` has the images that are not where their own content puts them, and where that is: they are in the split
    of a group of near duplicates, or a class would have no image in a split.
    """

    splits: dict[int, str]
    moved: dict[int, str] = field(default_factory=dict)


def assign_splits(
    kept: Iterable[int],
    labels: Sequence[int],
    official: Sequence[str | None],
    classes: Sequence[str],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> Assignment:
    """Assign each image of ``kept`` to a split, by stratified random draws where the source has none.

    Official splits are kept; images without one count as train. If the source has no test split, ``test_fraction`` of
    each class is drawn from train. If it has no val split, ``val_fraction`` of each class's remaining train images is
    drawn. The draw for a class depends only on the seed and on the images of that class.

    Raises:
        UserError: a class has no image in some split.
    """
    splits = {index: official[index] or "train" for index in kept}
    fractions = {"test": test_fraction, "val": val_fraction}
    for stream, name in _absent(splits):
        for label, indices in _in_train(splits, labels).items():
            count = _count(name, fractions[name], len(indices), classes[label])
            for drawn in np.random.default_rng([seed, stream, label]).permutation(len(indices))[:count]:
                splits[indices[drawn]] = name
    check_every_class(splits, labels, classes)
    return Assignment(splits)


def assign_by_content(
    kept: Iterable[int],
    labels: Sequence[int],
    official: Sequence[str | None],
    classes: Sequence[str],
    keys: Sequence[bytes],
    groups: Mapping[int, int],
    *,
    val_fraction: float,
    test_fraction: float,
    seed: int,
) -> Assignment:
    """Assign each image of ``kept`` to a split by its content where the source has none.

    As ``assign_splits``, but an image goes to test if the hash of its group's key is below ``test_fraction`` of all
    hashes, and of the others to val if another hash is below ``val_fraction``. So the fractions hold on average, and
    additional images move no other. Only a class that would have less than half or more than twice its share in a
    split gets or gives the groups with the nearest hashes.

    Args:
        keys: digest of each image's file.
        groups: index → the first image of its group, whose key decides, for images that belong to one.

    Raises:
        UserError: a class has no image in some split.
    """
    splits = {index: official[index] or "train" for index in kept}
    fractions = {"test": test_fraction, "val": val_fraction}
    absent = _absent(splits)
    sizes: dict[int, int] = {}  # label → images of train, if each split had its exact share
    own = {index: split for index, split in splits.items() if split == "train"}
    for stream, name in absent:
        left = len(absent) - stream if len(absent) == len(_DRAWN) else 1  # splits that train must still fill
        for label, indices in _in_train(splits, labels).items():
            sizes.setdefault(label, len(indices))
            count = _count(name, fractions[name], sizes[label], classes[label])
            sizes[label] -= count
            members: dict[int, list[int]] = defaultdict(list)
            for index in indices:
                members[groups.get(index, index)].append(index)
            hashes = {first: _hash(keys[first], seed, stream) for first in members}
            for first in _below(hashes, fractions[name], count, len(hashes) - left):
                splits.update(dict.fromkeys(members[first], name))
        for index, split in own.items():
            if split == "train" and _hash(keys[index], seed, stream) < fractions[name]:
                own[index] = name
    check_every_class(splits, labels, classes)
    return Assignment(splits, {index: split for index, split in own.items() if split != splits[index]})


def check_every_class(splits: Mapping[int, str], labels: Sequence[int], classes: Sequence[str]) -> None:
    """Check that every class has an image in every split.

    Raises:
        UserError: a class has no image in some split.
    """
    counts = Counter((split, labels[index]) for index, split in splits.items())
    for split in SPLITS:
        for label, name in enumerate(classes):
            if not counts[split, label]:
                raise UserError(f"class {name!r}: got no images in the {split} split, expected at least one")


def _absent(splits: Mapping[int, str]) -> list[tuple[int, str]]:
    """Return the splits that the source lacks, each with the number of its random stream."""
    present = set(splits.values())
    return [(stream, name) for stream, name in enumerate(_DRAWN) if name not in present]


def _in_train(splits: Mapping[int, str], labels: Sequence[int]) -> dict[int, list[int]]:
    """Return the training images of each class, by label."""
    members: dict[int, list[int]] = defaultdict(list)
    for index, split in splits.items():
        if split == "train":
            members[labels[index]].append(index)
    return dict(sorted(members.items()))


def _count(name: str, fraction: float, size: int, of: str) -> int:
    """Return how many of the ``size`` images of class ``of`` the fraction is.

    Raises:
        UserError: none, or all.
    """
    count = round(fraction * size)
    if not 0 < count < size:
        lacking = name if count == 0 else "training"
        raise UserError(
            f"prepare.{name}_fraction: got {fraction}, which gives class {of!r} ({size} images) no {lacking} "
            f"images, expected at least one {name} and one training image of each class"
        )
    return count


def _hash(key: bytes, seed: int, stream: int) -> float:
    """Return a number from 0 to 1 that depends on the arguments alone."""
    digest = hashlib.blake2b(key, digest_size=8, person=b"%d" % stream, salt=b"%d" % (seed % 10**16)).digest()
    return int.from_bytes(digest) / 2**64


def _below(hashes: Mapping[int, float], fraction: float, share: int, most: int) -> list[int]:
    """Return those whose hash is below the fraction: from half to twice their share, and at most ``most``."""
    ordered = sorted(hashes, key=lambda first: hashes[first])
    count = sum(number < fraction for number in hashes.values())
    return ordered[: max(1, min(max(count, -(-share // 2)), 2 * share, most))]
