"""The search for near duplicates finds the same pairs as comparing every pair."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isoflop.data.duplicates import Catalogue, near_duplicates, near_pairs


def every_pair(hashes: list[int], distance: int) -> list[list[int]]:
    return [
        [left, right]
        for left in range(len(hashes))
        for right in range(left + 1, len(hashes))
        if (hashes[left] ^ hashes[right]).bit_count() <= distance
    ]


@settings(max_examples=60, deadline=None)
@given(
    st.sets(st.integers(0, 2**64 - 1), max_size=12),
    st.lists(st.lists(st.integers(0, 63), max_size=18), max_size=12),
    st.integers(0, 16),
)
def test_near_pairs_are_those_of_comparing_every_pair(seeds: set[int], flips: list[list[int]], distance: int) -> None:
    hashes = set(seeds)
    for seed, bits in zip(sorted(seeds), flips, strict=False):  # random hashes are never near, so create some that are
        for bit in bits:
            seed ^= 1 << bit
            hashes.add(seed)
    values = sorted(hashes)
    assert near_pairs(np.array(values, np.uint64), distance).tolist() == every_pair(values, distance)


@pytest.mark.parametrize("distance", [0, 2, 7, 16])
def test_near_pairs_of_many(distance: int) -> None:
    rng = np.random.default_rng(distance)
    base = rng.integers(0, 2**63, 300, dtype=np.uint64)
    flipped = base ^ np.bitwise_or.reduce(np.uint64(1) << rng.integers(0, 64, (9, 300)).astype(np.uint64))
    hashes = np.unique(np.concatenate([base, flipped]))
    assert near_pairs(hashes, distance).tolist() == every_pair(hashes.tolist(), distance)


def catalogue(hashes: list[int], splits: list[str | None]) -> Catalogue:
    names = [f"image {number}" for number in range(len(hashes))]
    return Catalogue(names, [0] * len(hashes), splits, [name.encode() for name in names], hashes)


def test_a_chain_of_look_alikes_drops_only_neighbours_of_what_stays() -> None:
    chain = catalogue([0b0, 0b11, 0b1111, 0b111111], [None] * 4)  # each 2 bits from the next, 6 end to end
    within, across = near_duplicates(range(4), chain, 2, across_splits=True)
    assert within == {
        1: "perceptual hash 2 bits from image 0",
        3: "perceptual hash 2 bits from image 2",
    }
    assert across == {}


def test_equal_hashes_count_at_distance_zero() -> None:
    twins = catalogue([5, 5, 6, 5], ["train", "train", "train", "test"])
    within, across = near_duplicates(range(4), twins, 0, across_splits=True)
    assert within == {}
    assert across == dict.fromkeys([0, 1], "perceptual hash 0 bits from image 3 in test")
    within, across = near_duplicates(range(4), twins, 0, across_splits=False)
    assert (within, across) == ({1: "perceptual hash 0 bits from image 0"}, {})
