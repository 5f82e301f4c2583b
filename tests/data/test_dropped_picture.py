"""The picture of dropped images and the names above them."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from isoflop.data import dropped_picture
from isoflop.data.readers import RawImage
from isoflop.plotting import new_figure
from isoflop.runtime.dvc_md5 import dvc_md5
from tests.raw_images import picture, plain, png, prepared


def test_the_dropped_are_shown_by_reason_and_the_splits_named_as_dvc_names_them(tmp_path: Path) -> None:
    twins = [RawImage(f"twin {number}.png", 0, None, png(picture(0))) for number in range(12)]
    broken = [RawImage("broken.png", 1, None, b"no image")]
    heights, contents = [], set()
    for name, more in (("none", []), ("one", broken), ("two", [*broken, *twins])):
        (tmp_path / name).mkdir()
        facts = prepared(tmp_path / name, [*plain(), *more]).facts
        assert facts["md5"] == {split: dvc_md5(tmp_path / name / split) for split in ("train", "val", "test")}
        contents.add((tmp_path / name / "dropped.png").read_bytes())
        with Image.open(tmp_path / name / "dropped.png") as shown:
            heights.append(shown.height)
            assert name != "two" or shown.width == 1080  # 8 of the 12 duplicates
    assert heights[0] == heights[1] < heights[2] and len(contents) == 3


@pytest.mark.parametrize(
    "name", ["IMG_20260114_123456_portrait.jpg", "$\\frac$ and $", "W" * 40, "i" * 100_000, "", " " * 50, "b.png"]
)
def test_a_title_is_the_class_above_the_end_of_the_name_and_fits(name: str) -> None:
    width = partial(dropped_picture._width, new_figure(4, 1))
    above, below = dropped_picture._title(f"a class with a long name, too/{name}", width).split("\n")
    assert above.startswith("a class with") and above.endswith("…")
    assert below == name or (len(name) > 20 and below.startswith("…") and name.endswith(below[1:]))
    assert 0.9 < width(above) < 1.15 and width(below) < 1.15  # a column of the picture
