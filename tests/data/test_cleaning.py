"""Stage prepare on real image files and the real digits: what is dropped and why, the splits, and the outputs."""

import hashlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from isoflop.data.cleaning import Prepare
from isoflop.data.readers import RawImage
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section, load_params
from tests.raw_images import Pixels, Prepared, picture, plain, png, prepared


def official() -> list[RawImage]:
    return plain(30, "train") + plain(10, "val", 100) + plain(10, "test", 200)


def all_pixels(done: Prepared) -> list[bytes]:
    return [image.tobytes() for split in (done.train, done.val, done.test) for image in split.images]


def test_a_clean_source_loses_nothing(tmp_path: Path) -> None:
    done = prepared(tmp_path, plain())
    assert done.dropped == {}
    assert [len(split) for split in (done.train, done.val, done.test)] == [24, 8, 8]
    for split in (done.train, done.val, done.test):
        assert split.images.shape[1:] == (16, 16, 3)
        assert (split.labels == 0).mean() == 0.5
    assert len(set(all_pixels(done))) == 40
    assert done.facts["images"] == {"source": 40, "train": 24, "val": 8, "test": 8}
    assert done.facts["per_class"]["dog"] == {"train": 12, "val": 4, "test": 4}
    assert done.facts["dropped"]["total"] == 0


def test_pixels_and_labels_stay_together(tmp_path: Path) -> None:
    done = prepared(tmp_path, plain(), image_size=24)
    labels = {picture(number).tobytes(): number % 2 for number in range(40)}
    for split in (done.train, done.val, done.test):
        assert [labels[image.tobytes()] for image in split.images] == split.labels.tolist()


def test_the_same_bytes_again_and_others_by_another_seed(tmp_path: Path) -> None:
    def digest(name: str, **changes: Any) -> str:
        (tmp_path / name).mkdir()
        prepared(tmp_path / name, plain(), **changes)
        files = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    assert digest("a") == digest("b") != digest("c", seed=1)


def test_undecodable_files_are_dropped_or_named(tmp_path: Path) -> None:
    content = png(picture(7))
    bad = [RawImage("cut.png", 0, None, content[: len(content) // 2]), RawImage("text.png", 1, None, b"hello")]
    done = prepared(tmp_path, bad[:1] + plain() + bad[1:])
    assert {name: reason for name, (reason, _) in done.dropped.items()} == dict.fromkeys(
        ["cut.png", "text.png"], "undecodable"
    )
    assert "truncated" in done.dropped["cut.png"][1] and "unknown format" in done.dropped["text.png"][1]
    assert len(all_pixels(done)) == 40 == len(set(all_pixels(done)))
    with pytest.raises(UserError, match=r"^cut\.png: not a readable image"):
        prepared(tmp_path / "again", bad + plain(), undecodable=False)


@pytest.mark.parametrize("channels", [1, 3])
def test_blank_images(tmp_path: Path, channels: int) -> None:
    blank = [
        RawImage("grey", 0, None, np.full((9, 9), 7, np.uint8)),
        RawImage("red.png", 1, None, png(np.full((9, 30, 3), (255, 0, 0), np.uint8))),
    ]
    nearly = np.zeros((24, 24), np.uint8)
    nearly[3:6, 3:6] = 1
    kept = RawImage("nearly.png", 0, None, png(nearly))
    done = prepared(tmp_path, [*blank, *plain(), kept], channels=channels, image_size=24)
    assert {name: reason for name, (reason, _) in done.dropped.items()} == {"grey": "blank", "red.png": "blank"}
    assert "every pixel of the resized image is 7" in done.dropped["grey"][1]
    (tmp_path / "again").mkdir()
    assert prepared(tmp_path / "again", [*blank, *plain(), kept], blank=False).dropped == {}


def test_exact_duplicates_keep_the_first(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.fromarray(picture(3)).save(stream, "BMP")  # another file, the same pixels
    twins = [RawImage("copy.bmp", 1, None, stream.getvalue()), RawImage("array", 1, None, picture(3))]
    done = prepared(tmp_path, plain() + twins)
    expected = ("exact_duplicate", "the same pixels as all/3.png")
    assert done.dropped == {"copy.bmp": expected, "array": expected}
    assert done.facts["dropped"]["exact_duplicate"] == 2


def test_the_same_bytes_in_another_shape_are_no_duplicate(tmp_path: Path) -> None:
    wide = np.arange(128, dtype=np.uint8).reshape(8, 16)
    shapes = [RawImage("wide", 0, None, wide), RawImage("tall", 0, None, wide.reshape(16, 8))]
    assert prepared(tmp_path, plain() + shapes, resize="stretch").dropped == {}


def test_without_exact_duplicates_twins_stay_but_not_in_two_splits(tmp_path: Path) -> None:
    twins = [RawImage(f"{item.name} again", item.label, None, item.content) for item in plain()]
    done = prepared(tmp_path, plain() + twins, exact_duplicates=False)
    splits = [{image.tobytes() for image in split.images} for split in (done.train, done.val, done.test)]
    assert not (splits[0] & splits[1] or splits[0] & splits[2] or splits[1] & splits[2])
    assert {reason for reason, _ in done.dropped.values()} == {"leak"}
    assert len(done.test) == 16 and len(done.train) > len(splits[0])


def test_official_splits_are_kept(tmp_path: Path) -> None:
    done = prepared(tmp_path, official(), image_size=24)
    assert [len(split) for split in (done.train, done.val, done.test)] == [30, 10, 10]
    assert {image.tobytes() for image in done.test.images} == {picture(number).tobytes() for number in range(200, 210)}


def test_val_is_drawn_from_train_and_test_only_where_there_is_none(tmp_path: Path) -> None:
    done = prepared(tmp_path / "a", plain(40, "train") + plain(10, "test", 200))
    assert [len(split) for split in (done.train, done.val, done.test)] == [30, 10, 10]
    done = prepared(tmp_path / "b", plain(40, "train") + plain(10, "val", 200))
    assert [len(split) for split in (done.train, done.val, done.test)] == [32, 10, 8]


def test_leaks_leave_train_and_val_and_never_test(tmp_path: Path) -> None:
    leaks = [
        RawImage("train/leak", 0, "train", picture(200)),
        RawImage("train/second", 0, "train", picture(200)),
        RawImage("val/leak", 0, "val", picture(200)),
        RawImage("train/of val", 0, "train", picture(100)),
    ]
    done = prepared(tmp_path, leaks + official(), image_size=24)
    into_test, into_val = "the same pixels as test/200.png in test", "the same pixels as val/100.png in val"
    assert done.dropped == {
        "train/leak": ("leak", into_test),
        "train/second": ("leak", into_test),
        "val/leak": ("leak", into_test),
        "train/of val": ("leak", into_val),
    }
    assert len(done.test) == 10
    done = prepared(tmp_path / "again", leaks + official(), leaks=False)
    assert {name: reason for name, (reason, _) in done.dropped.items()} == {"train/second": "exact_duplicate"}


def test_one_image_under_two_labels_drops_all_of_them(tmp_path: Path) -> None:
    conflict = [RawImage("dogs/4.png", 1, None, png(picture(4))), RawImage("cats/4 too", 0, None, picture(4))]
    done = prepared(tmp_path, plain() + conflict)
    assert done.dropped == {
        "all/4.png": ("conflicting_labels", "the same pixels as dogs/4.png, which is labelled dog"),
        "dogs/4.png": ("conflicting_labels", "the same pixels as all/4.png, which is labelled cat"),
        "cats/4 too": ("conflicting_labels", "the same pixels as dogs/4.png, which is labelled dog"),
    }
    kept = prepared(tmp_path / "again", plain() + conflict, conflicting_labels=False, leaks=False)
    assert {name: reason for name, (reason, _) in kept.dropped.items()} == {"cats/4 too": "exact_duplicate"}


def jpeg(pixels: Pixels, quality: int = 80) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def test_near_duplicates_of_the_same_label(tmp_path: Path) -> None:
    resaved = [RawImage("resaved.jpg", 1, None, jpeg(picture(5))), RawImage("larger.png", 1, None, png(picture(5, 60)))]
    other_label = RawImage("as cat.jpg", 0, None, jpeg(picture(5), quality=85))
    done = prepared(tmp_path, [*plain(), *resaved, other_label], near_duplicate_distance=4)
    assert set(done.dropped) == {"resaved.jpg", "larger.png"}
    reason, detail = done.dropped["resaved.jpg"]
    assert reason == "near_duplicate" and detail.endswith("bits from all/5.png")
    assert prepared(tmp_path / "again", [*plain(), *resaved]).dropped == {}


def test_near_duplicates_across_splits_are_leaks(tmp_path: Path) -> None:
    leaks = [RawImage("train/near.jpg", 0, "train", jpeg(picture(200)))]
    done = prepared(tmp_path, leaks + official(), near_duplicate_distance=4)
    (dropped,) = done.dropped.items()
    assert dropped[0] == "train/near.jpg" and dropped[1][0] == "leak"
    assert dropped[1][1].endswith("bits from test/200.png in test")
    assert prepared(tmp_path / "again", leaks + official(), near_duplicate_distance=4, leaks=False).dropped == {}


def test_pictures_of_a_fixed_camera_are_no_near_duplicates(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Within a class all look alike to a perceptual hash: the rule would drop most of it, so it is off there."""
    rng = np.random.default_rng(1)
    part = np.kron(rng.integers(60, 200, (8, 8, 1)), np.ones((12, 12, 3)))
    fixed = [np.clip(part + rng.normal(0, 4, part.shape), 0, 255).astype(np.uint8) for _ in range(20)]
    images = [RawImage(f"fixed/{n}.png", 0, None, png(pixels)) for n, pixels in enumerate(fixed)]
    others = [image for image in plain(40) if image.label == 1]
    resaved = RawImage("resaved.jpg", 1, None, jpeg(picture(5)))
    done = prepared(tmp_path, [*images, *others, resaved], near_duplicate_distance=4, can_grow=True)
    assert set(done.dropped) == {"resaved.jpg"} and done.facts["per_class"]["cat"]["train"] > 0
    assert 10 < done.facts["exempt"]["near_duplicate"] < 20
    assert "warning: class 'cat': the rule for near duplicate images would drop 1" in capsys.readouterr().err


def test_a_class_of_single_colors_is_kept(tmp_path: Path) -> None:
    frames = [RawImage(f"lamp off/{n}", 0, None, np.full((9, 9), n, np.uint8)) for n in range(20)]
    done = prepared(tmp_path, [*frames, *(image for image in plain() if image.label == 1)])
    assert done.dropped == {} and done.facts["exempt"] == {"blank": 20}
    with pytest.raises(
        UserError, match=r"dropped: 19 exact_duplicate\), .*; fix: add images, or `prepare\.drop\.exact_"
    ):
        same = [RawImage(f"lamp off/{n}", 0, None, np.full((9, 9), 7, np.uint8)) for n in range(20)]
        prepared(tmp_path / "again", [*same, *(image for image in plain() if image.label == 1)])


@pytest.mark.parametrize(("name", "mean", "std"), [("unit", [0.0] * 3, [1.0] * 3), ("symmetric", [0.5] * 3, [0.5] * 3)])
def test_fixed_normalizations(tmp_path: Path, name: str, mean: list[float], std: list[float]) -> None:
    input_spec = prepared(tmp_path, plain(), normalization=name).test.input_spec
    assert (input_spec.mean, input_spec.std) == (mean, std)


def test_standard_normalization_is_of_the_training_split_alone(tmp_path: Path) -> None:
    done = prepared(tmp_path, plain())
    images = np.asarray(done.train.images, np.float64) / 255
    np.testing.assert_allclose(done.train.input_spec.mean, images.mean(axis=(0, 1, 2)), atol=1e-6)
    np.testing.assert_allclose(done.train.input_spec.std, images.std(axis=(0, 1, 2)), atol=1e-6)
    assert done.train.input_spec == done.val.input_spec == done.test.input_spec
    assert done.facts["mean"] == done.train.input_spec.mean


def test_a_channel_without_variation_has_a_std_of_one(tmp_path: Path) -> None:
    no_blue = np.array([1, 1, 0], np.uint8)
    images = [RawImage(str(number), number % 2, None, picture(number) * no_blue) for number in range(40)]
    input_spec = prepared(tmp_path, images).train.input_spec
    assert (input_spec.mean[2], input_spec.std[2]) == (0.0, 1.0)


def test_the_digits(tmp_path: Path) -> None:
    source = load_digits()
    images = [
        RawImage(f"digit {number}", int(label), None, np.rint(pixels * 255 / 16).astype(np.uint8))
        for number, (pixels, label) in enumerate(zip(source.images, source.target, strict=True))
    ]
    done = prepared(tmp_path, images, tuple("0123456789"), image_size=8, channels=1)
    assert done.dropped == {}
    assert sum(map(len, (done.train, done.val, done.test))) == 1797
    for split in (done.train, done.val, done.test):
        shares = np.bincount(split.labels) / len(split)
        np.testing.assert_allclose(shares, np.bincount(source.target) / 1797, atol=0.005)


def one_class() -> list[RawImage]:
    return [image for image in plain() if image.label == 0]


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        (list, {}, "data: got no images, expected some of each class"),
        (plain, {"classes": ("cat",)}, "data: got 1 classes (cat), expected at least two"),
        (one_class, {}, "class 'dog': got 0 images after cleaning, expected at least 5 (prepare."),
        (lambda: [*one_class(), *(RawImage(f"{n}", 1, None, b"") for n in range(9))], {},
         "class 'dog': got 0 images after cleaning (dropped: 9 undecodable), expected at least 5"),
        (lambda: plain(10), {"val_fraction": 0.05}, "prepare.val_fraction: got 0.05, which gives class 'cat' "
         "(4 images) no val images"),
        (lambda: plain(10), {"test_fraction": 0.95}, "prepare.test_fraction: got 0.95, which gives class 'cat' "
         "(5 images) no training images"),
        (lambda: plain(20, "test"), {}, "class 'cat': got no images in the train split"),
        (lambda: [*plain(40, "train"), *(i for i in plain(10, "test", 200) if i.label)], {},
         "class 'cat': got no images in the test split"),
    ],
)  # fmt: skip
def test_too_little_is_refused_and_leaves_nothing_but_partial_outputs(
    tmp_path: Path, images: Callable[[], list[RawImage]], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        prepared(tmp_path, images(), **changes)
    assert str(error.value).startswith(message)
    assert list(tmp_path.iterdir()) == []


class Sections(Section):
    prepare: Prepare


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("resize: crop", "resize: squash", "prepare.resize: got 'squash' (string), expected 'crop', 'pad' or"),
        ("channels: 1", "channels: 2", "prepare.channels: got 2 (integer), expected 1 or 3"),
        ("val_fraction: 0.4", "val_fraction: 1.0", "prepare.val_fraction: got 1.0 (number), expected less than 1"),
        ("blank: true", "blanc: true", "prepare.drop.blanc: unknown key; did you mean 'blank'?"),
        ("near_duplicate_distance: null", "near_duplicate_distance: 17", "near_duplicate_distance: got 17"),
        ("image_size: 8", "image_size: 8.5", "prepare.image_size: got 8.5 (number), expected a valid integer"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (Path(__file__).parents[2] / "params.yaml").read_text()
    load_params(Sections, Path(__file__).parents[2] / "params.yaml")
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_params(Sections, tmp_path / "params.yaml")
    assert message in str(error.value)
