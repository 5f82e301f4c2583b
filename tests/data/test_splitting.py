"""Splits by content: images keep their split when others arrive, and groups of similar images stay together."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from isoflop.data.readers import RawImage
from isoflop.data.splitting import assign_by_content, assign_splits
from isoflop.runtime.errors import UserError
from tests.raw_images import Prepared, picture, plain, png, prepared

HOW: dict[str, Any] = {"val_fraction": 0.2, "test_fraction": 0.2, "seed": 0}


def by_content(keys: list[int], classes: int = 2, groups: dict[int, int] | None = None) -> dict[int, str]:
    """The split of each key, an image of class ``key % classes`` without an official split."""
    names = [f"class {number}" for number in range(classes)]
    labels, encoded = [key % classes for key in keys], [b"%d" % key for key in keys]
    found = assign_by_content(range(len(keys)), labels, [None] * len(keys), names, encoded, groups or {}, **HOW)
    return {key: found.splits[index] for index, key in enumerate(keys)}


def test_images_keep_their_split_when_others_arrive_or_go() -> None:
    old = by_content(list(range(300)))
    new = by_content([*range(1000, 1040), *range(300)])
    assert {key: new[key] for key in old} == old and len(set(new[key] for key in range(1000, 1040))) == 3
    assert by_content(list(range(0, 300, 3))) == {key: old[key] for key in range(0, 300, 3)}
    counts = np.unique([*by_content(list(range(4000))).values()], return_counts=True)
    assert dict(zip(*counts, strict=True)) == pytest.approx({"test": 800, "train": 2560, "val": 640}, rel=0.1)


def test_small_classes_have_an_image_in_each_split() -> None:
    for size in range(5, 14):
        for first in range(0, 2000, 100):
            splits = by_content(list(range(first, first + size)), classes=1)
            assert set(splits.values()) == {"train", "val", "test"}
    with pytest.raises(
        UserError, match=r"prepare\.test_fraction: got 0\.2, which gives class 'class 0' \(2 images\) no"
    ):
        by_content([1, 2], classes=1)


def test_a_group_is_in_the_split_of_its_first_image() -> None:
    keys = list(range(200))
    alone = by_content(keys, classes=1)
    away = [key for key in keys if alone[key] != alone[0]][:5]
    together = by_content(keys, classes=1, groups=dict.fromkeys(away, 0))
    assert {together[key] for key in away} == {alone[0]}
    assert {key: together[key] for key in keys if key not in away} == {
        key: alone[key] for key in keys if key not in away
    }


def test_official_splits_stay_as_published() -> None:
    official = ["train"] * 60 + ["test"] * 20
    for keys, groups in (([b"%d" % number for number in range(80)], {}), ([b""] * 80, {61: 0})):
        found = assign_by_content(range(80), [0, 1] * 40, official, ["a", "b"], keys, groups, **HOW)
        assert [index for index, split in found.splits.items() if split == "test"] == list(range(60, 80))
    drawn = assign_splits(range(80), [0, 1] * 40, official, ["a", "b"], **HOW)
    assert sum(split == "val" for split in drawn.splits.values()) == 12 and not drawn.moved


def names(done: Prepared, numbers: range) -> dict[int, str]:
    """number → the split that holds its picture."""
    known = {picture(number).tobytes(): number for number in numbers}
    splits = {"train": done.train, "val": done.val, "test": done.test}
    return {known[image.tobytes()]: name for name, split in splits.items() for image in split.images
            if image.tobytes() in known}  # fmt: skip


def test_new_images_move_no_old_one(tmp_path: Path) -> None:
    """Also with a new copy of an old image, and if an old one is removed."""
    before = prepared(tmp_path / "a", plain(60), image_size=24, can_grow=True)
    copy = io.BytesIO()
    Image.fromarray(picture(3)).save(copy, "JPEG", quality=80)
    more = [RawImage("zz/3 again.jpg", 1, None, copy.getvalue()), *plain(20, first=500)]
    after = prepared(tmp_path / "b", [*plain(60)[1:], *more], image_size=24, near_duplicate_distance=4, can_grow=True)
    assert set(after.dropped) == {"zz/3 again.jpg"}
    old, new = names(before, range(60)), names(after, range(60))
    assert len(old) == 60 and new == {number: split for number, split in old.items() if number != 0}
    assert before.facts["moved"]["images"] == len(before.facts["moved"]["first"])


def test_what_a_small_class_moves_is_listed(tmp_path: Path) -> None:
    found = []
    for start in range(0, 100, 10):
        images = [RawImage(f"{n}.png", n % 2, None, png(picture(n))) for n in range(start, start + 10)]
        (tmp_path / str(start)).mkdir()
        done = prepared(tmp_path / str(start), images, can_grow=True, min_images_per_class=5)
        assert min(len(split) for split in (done.train, done.val, done.test)) >= 2
        found += done.facts["moved"]["first"]
    assert found and all(" → " in line for line in found)
