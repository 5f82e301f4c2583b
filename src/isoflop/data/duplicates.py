"""Find duplicate images: exact (same pixels) or near (perceptual hash), within or across splits, or under two labels.

Each function takes the indices of the images ``kept`` so far and returns the indices to drop, each with a detail text.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import numpy.typing as npt

# Of duplicates across splits, the one in the first of these is kept: keeping the test set whole matters most.
_PRECEDENCE = {"test": 0, "val": 1, "train": 2, None: 3}


@dataclass
class Catalogue:
    """Metadata of each image (everything except the pixels), in the order of the source."""

    names: list[str] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    splits: list[str | None] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)  # hash of the decoded pixels before resizing
    hashes: list[int] = field(default_factory=list)  # 64-bit perceptual hash
    keys: list[bytes] = field(default_factory=list)  # hash of the file

    def __len__(self) -> int:
        return len(self.names)


def conflicting_labels(kept: Iterable[int], of: Catalogue, classes: Sequence[str]) -> dict[int, str]:
    """Return every image whose pixels also occur under another label. All are dropped: either label may be wrong."""
    drops = {}
    for group in _same_pixels(kept, of):
        if len({of.labels[index] for index in group}) > 1:
            for index in group:
                other = next(other for other in group if of.labels[other] != of.labels[index])
                drops[index] = f"the same pixels as {of.names[other]}, which is labelled {classes[of.labels[other]]}"
    return drops


def leaks(kept: Iterable[int], of: Catalogue) -> dict[int, str]:
    """Return images of train whose pixels are also in val or test, and images of val whose pixels are also in test."""
    drops = {}
    for group in _same_pixels(kept, of):
        owner = min(group, key=lambda index: (_PRECEDENCE[of.splits[index]], index))
        for index in group:
            if of.splits[index] != of.splits[owner]:
                drops[index] = f"the same pixels as {of.names[owner]} in {of.splits[owner]}"
    return drops


def exact_duplicates(kept: Iterable[int], of: Catalogue) -> dict[int, str]:
    """Return all but the first of the images with the same split, label and pixels."""
    drops = {}
    for group in _same_pixels(kept, of):
        first: dict[tuple[str | None, int], int] = {}
        for index in group:
            owner = first.setdefault((of.splits[index], of.labels[index]), index)
            if owner != index:
                drops[index] = f"the same pixels as {of.names[owner]}"
    return drops


def near_duplicates(
    kept: Iterable[int], of: Catalogue, distance: int, *, across_splits: bool
) -> tuple[dict[int, str], dict[int, str]]:
    """Return images whose perceptual hash is within ``distance`` bits of a kept image of the same label.

    Images are visited in order (test, val, train; then as in the source) and compared only with images kept so far, so
    that a chain of similar images does not drop dissimilar ones. Similar images under different labels are kept: a
    64-bit hash is too coarse to call a label wrong.

    Returns:
        The drops within a split, and those across splits (empty unless ``across_splits``).
    """
    within: dict[int, str] = {}
    across: dict[int, str] = {}
    by_label: dict[int, list[int]] = defaultdict(list)
    for index in kept:
        by_label[of.labels[index]].append(index)
    for members in by_label.values():
        members.sort(key=lambda index: (_PRECEDENCE[of.splits[index]], index))
        for index, owner in _near_owners(members, of, distance, across_splits=across_splits):
            bits = (of.hashes[index] ^ of.hashes[owner]).bit_count()
            where = f" in {of.splits[owner]}" if of.splits[owner] != of.splits[index] else ""
            drops = across if where else within
            drops[index] = f"perceptual hash {bits} bits from {of.names[owner]}{where}"
    return within, across


def _near_owners(members: list[int], of: Catalogue, distance: int, *, across_splits: bool) -> Iterator[tuple[int, int]]:
    """Yield each of ``members`` (one label, in order of precedence) to drop, with the kept image that it is near."""
    hashes = np.array([of.hashes[index] for index in members], np.uint64)
    unique, inverse = np.unique(hashes, return_inverse=True)
    neighbours: dict[int, list[int]] = defaultdict(list)
    for left, right in near_pairs(unique, distance).tolist():
        neighbours[left].append(right)
        neighbours[right].append(left)
    owners: dict[tuple[str | None, int], int] = {}  # (split, index of the unique hash) → the kept image
    for index, code in zip(members, inverse.tolist(), strict=True):
        split = of.splits[index]
        splits = dict.fromkeys([split, "test", "val"] if across_splits else [split])
        codes = [code, *neighbours[code]] if code in neighbours else [code]
        owner = next((owners[s, c] for s in splits for c in codes if (s, c) in owners), None)
        if owner is None:
            owners[split, code] = index
        else:
            yield index, owner


def groups(kept: Sequence[int], of: Catalogue, distance: int | None, exempt: Container[int]) -> dict[int, int]:
    """Return index → the first image of its group, for images that are alike, directly or through others.

    Alike: the same pixels, or the same label and perceptual hashes within ``distance`` bits (None: any).

    Args:
        exempt: labels whose images are not compared by perceptual hash.
    """
    roots = {index: index for index in kept}

    def root(index: int) -> int:
        while roots[index] != index:
            roots[index] = roots[roots[index]]
            index = roots[index]
        return index

    def join(left: int, right: int) -> None:
        first, second = sorted((root(left), root(right)))
        roots[second] = first

    for group in _same_pixels(kept, of):
        for index in group[1:]:
            join(group[0], index)
    firsts: dict[int, dict[int, int]] = defaultdict(dict)  # label → perceptual hash → its first image
    for index in kept if distance is not None else ():
        if of.labels[index] not in exempt:
            join(firsts[of.labels[index]].setdefault(of.hashes[index], index), index)
    for first in firsts.values():
        unique = np.array(sorted(first), np.uint64)
        for left, right in near_pairs(unique, distance or 0).tolist():
            join(first[int(unique[left])], first[int(unique[right])])
    return {index: found for index in kept if (found := root(index)) != index}


def near_pairs(hashes: npt.NDArray[np.uint64], distance: int) -> npt.NDArray[np.int64]:
    """Return index pairs [P, 2], left < right, of distinct 64-bit ``hashes`` that differ in at most ``distance`` bits.

    By the pigeonhole principle, such a pair agrees in at least one of ``distance + 1`` bands of bits. So only hashes
    with an equal band are compared: sorted by the band, each with the next, the one after, and so on while the band is
    equal.
    """
    found: list[npt.NDArray[np.int64]] = [np.zeros((0, 2), np.int64)]
    edges = np.linspace(0, 64, distance + 2).round().astype(int)
    for low, high in pairwise(edges.tolist()):
        band = (hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)
        order = np.argsort(band, kind="stable")
        ordered_band, ordered = band[order], hashes[order]
        left = np.arange(len(hashes))
        for step in range(1, len(hashes)):
            left = left[left < len(hashes) - step]
            left = left[ordered_band[left] == ordered_band[left + step]]
            if not len(left):
                break
            near = left[np.bitwise_count(ordered[left] ^ ordered[left + step]) <= distance]
            found.append(np.sort(np.stack([order[near], order[near + step]], axis=1), axis=1))
    return np.unique(np.concatenate(found), axis=0)


def _same_pixels(kept: Iterable[int], of: Catalogue) -> list[list[int]]:
    groups: dict[bytes, list[int]] = defaultdict(list)
    for index in kept:
        groups[of.digests[index]].append(index)
    return [group for group in groups.values() if len(group) > 1]
