"""Predict from the folders how many images of each class each split will get, and warn where they are too few."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from isoflop.data.splitting import SPLITS
from isoflop.download.image_folders import Place
from isoflop.runtime.errors import UserError

_FEWEST_OF_CLASS = 10  # test images per class
_FEWEST_VALIDATION = 100  # validation images: they decide which model ships
_NAMED = 3  # classes listed in a message

SplitSizes = dict[str, Counter[str]]  # class → split → images


def split_sizes(places: Iterable[Place], prepare: Mapping[str, Any]) -> SplitSizes:
    """Return the split sizes of each class as ``splitting.assign_splits`` draws them if no image is dropped.

    Raises:
        UserError: classes would have no image in some split; the message lists the smallest.
    """
    given = Counter(places)
    absent = [split for split in ("test", "val") if split not in {split for split, _ in given}]
    sizes: SplitSizes = {name: Counter() for name in sorted({name for _, name in given})}
    for (split, name), images in given.items():
        sizes[name][split or "train"] += images
    for counts in sizes.values():
        _draw(counts, absent, prepare)
    lacking = {name: sum(counts.values()) for name, counts in sizes.items() if not all(counts[one] for one in SPLITS)}
    if lacking:
        expected = f"at least one image of each class in each of {', '.join(SPLITS)}"
        if len(absent) == 2:
            expected = f"at least {_least(absent, prepare)} of each class"
        cure = "add images to these folders, or remove them"
        raise UserError(f"--images: got too few images: {_listed(lacking)}, expected {expected}; fix: {cure}")
    return sizes


def warnings(sizes: SplitSizes, given: Collection[str]) -> Iterator[str]:
    """Yield a warning for each accuracy that will be too coarse, with the share that a single image has in it.

    Args:
        given: splits that the folders name; the others are drawn.
    """
    few = {name: counts["test"] for name, counts in sizes.items() if counts["test"] < _FEWEST_OF_CLASS}
    if few:
        coarse = f"one image changes the accuracy of a class by {_percentage_points(min(few.values()))}"
        yield f"few test images in {_listed(few)}: {coarse}; fix: {_cure('test', given)}"
    validation = sum(counts["val"] for counts in sizes.values())
    if validation < _FEWEST_VALIDATION:
        coarse = f"one image changes the accuracy that decides which model ships by {_percentage_points(validation)}"
        yield f"only about {validation} validation images: {coarse}; fix: {_cure('val', given)}"


def _draw(counts: Counter[str], absent: Iterable[str], prepare: Mapping[str, Any]) -> None:
    for split in absent:
        counts[split] = round(prepare[f"{split}_fraction"] * counts["train"])
        counts["train"] -= counts[split]


def _least(absent: Iterable[str], prepare: Mapping[str, Any]) -> int:
    """Return the smallest class size with which each split gets at least one image."""
    for images in range(len(SPLITS), 10_000):
        counts = Counter(train=images)
        _draw(counts, absent, prepare)
        if all(counts[split] for split in SPLITS):
            return images
    raise ValueError(f"{prepare}: fractions that leave a split empty")


def _cure(split: str, given: Collection[str]) -> str:
    return f"add images to {split}/" if split in given else f"add images, or raise prepare.{split}_fraction"


def _listed(counts: Mapping[str, int]) -> str:
    """List the smallest classes first, and how many more there are."""
    smallest = sorted(counts.items(), key=lambda item: item[1])[:_NAMED]
    more = len(counts) - len(smallest)
    return ", ".join(f"{name!r} ({count})" for name, count in smallest) + (f" and {more} more" if more else "")


def _percentage_points(images: int) -> str:
    return f"{100 / images:.2g} pp" if images > 1 else "100 pp"
