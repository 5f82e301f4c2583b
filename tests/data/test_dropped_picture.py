"""The picture of dropped images and the names under them, and the table of names of those kept."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from isoflop.data.image_names import read_names, write_names
from isoflop.data.images import decode, fit_to_square
from isoflop.data.readers import RawImage
from isoflop.report.montages import read_montage
from isoflop.runtime.dvc_md5 import dvc_md5
from isoflop.runtime.errors import UserError
from tests.raw_images import picture, plain, png, prepared


def test_the_dropped_are_shown_by_reason_and_the_splits_named_as_dvc_names_them(tmp_path: Path) -> None:
    twins = [RawImage(f"twin {number}.png", 0, None, png(picture(0))) for number in range(12)]
    broken = [RawImage("broken.png", 1, None, b"no image")]
    found = {}
    for name, more in (("none", []), ("one", broken), ("two", [*broken, *twins])):
        (tmp_path / name).mkdir()
        facts = prepared(tmp_path / name, [*plain(), *more]).facts
        assert facts["md5"] == {split: dvc_md5(tmp_path / name / split) for split in ("train", "val", "test")}
        rows = read_montage(tmp_path / name / "dropped.svg")
        found[name] = {row.heading: [tile.lines[0] for tile in row.tiles] for row in rows}
    assert found["none"] == {} and found["one"] == {"undecodable": ["dog/broken.png"]}
    assert found["two"]["exact duplicate"] == [f"cat/twin {number}.png" for number in range(8)]  # 8 of 12
    assert "nothing was dropped" in (tmp_path / "none" / "dropped.svg").read_text()


def test_the_names_belong_to_the_images_of_each_split(tmp_path: Path) -> None:
    raw = {image.name: image.content for image in plain()}
    done = prepared(tmp_path, plain())
    for name, split in (("train", done.train), ("val", done.val), ("test", done.test)):
        names = read_names(tmp_path / "names.csv", name, len(split))
        for image, pixels in zip(names, split.images, strict=True):
            content = raw.pop(image)
            assert isinstance(content, bytes)
            assert np.array_equal(pixels, fit_to_square(decode(content, image), 16, 3, "crop"))
    assert not raw


def test_names_cannot_control_a_terminal(tmp_path: Path) -> None:
    """The table is shown and copied into others; it may also come from a cache."""
    names = ["\x1b]0;PWN\x07.png", "a\nb.png", "\u202egnp.exe", "\udcff.png"]
    write_names([("test", name) for name in names], tmp_path / "names.csv")
    assert "\x1b" not in (tmp_path / "names.csv").read_text()
    found = read_names(tmp_path / "names.csv", "test", 4)
    assert found == ["\\x1b]0;PWN\\x07.png", "a\\nb.png", "\\u202egnp.exe", "\\xff.png"]
    (tmp_path / "names.csv").write_text("split,name\ntest,\x1b[31m.png\n")
    assert read_names(tmp_path / "names.csv", "test", 1) == ["\\x1b[31m.png"]


def test_names_of_another_number_of_images_are_an_error(tmp_path: Path) -> None:
    prepared(tmp_path, plain())
    with pytest.raises(UserError, match=r"names\.csv: got \d+ names for split test, expected 999; fix: `dvc checkout`"):
        read_names(tmp_path / "names.csv", "test", 999)
    with pytest.raises(UserError, match=r"none\.csv: not found; fix: `dvc repro` writes it"):
        read_names(tmp_path / "none.csv", "test", 1)
    with (tmp_path / "names.csv").open(newline="") as stream:
        assert list(next(csv.DictReader(stream))) == ["split", "name"]
