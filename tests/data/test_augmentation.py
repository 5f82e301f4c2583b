"""Policies are validated before any work starts; the views do not depend on the number of processes."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from sklearn.datasets import load_digits

from isoflop.data.arrays import InputSpec, Split, SplitWriter, read_split, read_views
from isoflop.data.augmentation import Augment, check_policy, write_augmented
from isoflop.data.contact_sheet import write_contact_sheet
from isoflop.report.montages import read_montage
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section, load_params

AFFINE = {"name": "Affine", "rotate": [-12, 12], "translate_percent": [-0.06, 0.06], "p": 1.0}
Policy = list[dict[str, Any]]


def write_split(
    folder: Path, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], classes: list[str]
) -> Split:
    channels = images.shape[3]
    with SplitWriter(folder, images.shape[1:]) as writer:
        writer.append(images, labels)
        writer.finish(InputSpec(classes, [0.0] * channels, [1.0] * channels, "crop"))
    return read_split(folder)


@pytest.fixture
def digits(tmp_path: Path) -> Split:
    """600 real grayscale digits of 8x8: more than two chunks."""
    source = load_digits()
    images = np.rint(source.images[:600] * 255 / 16).astype(np.uint8)[..., None]
    return write_split(tmp_path / "train", images, source.target[:600], [str(digit) for digit in range(10)])


@pytest.fixture
def colours(tmp_path: Path) -> Split:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (20, 16, 16, 3)).astype(np.uint8)
    return write_split(tmp_path / "colours", images, np.arange(20) % 2, ["cat", "dog"])


def views_of(
    train: Split, folder: Path, policy: Policy, *, views: int = 2, seed: int = 0, workers: int = 1
) -> npt.NDArray[np.uint8]:
    write_augmented(train, folder, views, policy, seed, workers)
    return np.array(read_views(folder))


def test_the_same_bytes_whatever_the_number_of_workers(digits: Split, tmp_path: Path) -> None:
    policy: Policy = [AFFINE, {"name": "OneOf", "p": 0.5, "transforms": [{"name": "GaussNoise"}, {"name": "Blur"}]}]
    digests = set()
    for number, workers in enumerate([1, 2]):
        views_of(digits, tmp_path / str(number), policy, workers=workers)
        digests.add(hashlib.sha256((tmp_path / str(number) / "views.npy").read_bytes()).hexdigest())
    assert len(digests) == 1


def test_views_differ_from_each_other_and_from_the_images(digits: Split, tmp_path: Path) -> None:
    views = views_of(digits, tmp_path / "views", [AFFINE], views=3)
    assert views.shape == (3, 600, 8, 8, 1)
    everything = [np.asarray(digits.images), *views]
    for left in range(4):
        for right in range(left):
            same = (everything[left] == everything[right]).all(axis=(1, 2, 3)).mean()
            assert same < 0.1
    # each view belongs to its image
    assert np.corrcoef(views[0].ravel(), digits.images.ravel())[0, 1] > 0.6


def test_the_seed_decides_and_a_view_does_not_depend_on_how_many_there_are(digits: Split, tmp_path: Path) -> None:
    two = views_of(digits, tmp_path / "two", [AFFINE], views=2, seed=1)
    three = views_of(digits, tmp_path / "three", [AFFINE], views=3, seed=1)
    other = views_of(digits, tmp_path / "other", [AFFINE], views=2, seed=2)
    np.testing.assert_array_equal(two, three[:2])
    assert (two != other).any()


def test_no_views(digits: Split, tmp_path: Path) -> None:
    assert views_of(digits, tmp_path / "views", [], views=0).shape == (0, 600, 8, 8, 1)


def test_a_flip_flips(colours: Split, tmp_path: Path) -> None:
    views = views_of(colours, tmp_path / "views", [{"name": "HorizontalFlip", "p": 1.0}], views=1)
    np.testing.assert_array_equal(views[0], colours.images[:, :, ::-1])


def test_names_of_opencv_constants_are_understood(colours: Split, tmp_path: Path) -> None:
    shifted: dict[str, Any] = {"name": "Affine", "translate_px": {"x": [8, 8], "y": [0, 0]}, "p": 1.0}
    views = views_of(colours, tmp_path / "views", [{**shifted, "border_mode": "BORDER_REPLICATE"}], views=1)
    np.testing.assert_array_equal(views[0, :, :, 2], colours.images[:, :, 0])


def test_a_crop_that_a_resize_undoes_is_fine(colours: Split, tmp_path: Path) -> None:
    policy: Policy = [
        {"name": "RandomCrop", "height": 12, "width": 12, "p": 1.0},
        {"name": "Resize", "height": 16, "width": 16, "interpolation": "INTER_AREA", "p": 1.0},
    ]
    assert views_of(colours, tmp_path / "views", policy).shape == (2, 20, 16, 16, 3)


@pytest.mark.parametrize(
    ("policy", "message"),
    [
        ([{"name": "Afine"}], "augment.policy.0.name: unknown transform 'Afine'; did you mean 'Affine'?"),
        ([AFFINE, {"name": "horizontalflip"}], "augment.policy.1.name: unknown transform 'horizontalflip'; "
         "did you mean 'HorizontalFlip'?"),
        ([{"name": "Compose", "transforms": []}], "augment.policy.0.name: unknown transform 'Compose'"),
        ([{"name": "Affine", "rotat": 3}], "augment.policy.0.rotat: unknown argument of Affine; did you mean "
         "'rotate'?"),
        ([{"name": "HorizontalFlip", "probability": 1}], "augment.policy.0.probability: unknown argument of "
         "HorizontalFlip; expected one of p"),
        ([{"name": "HorizontalFlip", "p": 3}], "augment.policy.0: invalid arguments for HorizontalFlip: "
         "p: Input should be less than or equal to 1"),
        ([{"name": "Affine", "rotate": "much"}], "augment.policy.0: invalid arguments for Affine: rotate"),
        ([{"name": "Affine", "border_mode": "BORDER_NONE"}], "augment.policy.0: invalid arguments for Affine: "),
        ([{"name": "RandomCrop"}], "augment.policy.0: invalid arguments for RandomCrop: height: Field required"),
        ([{"rotate": 3}], "augment.policy.0: got {'rotate': 3}, expected a mapping with the name"),
        ([{"name": "OneOf", "transforms": [{"name": "Blurr"}]}], "augment.policy.0.transforms.0.name: unknown "
         "transform 'Blurr'; did you mean 'Blur'?"),
        ([{"name": "OneOf", "transforms": [{"name": "Blur", "limit": 3}]}], "augment.policy.0.transforms.0.limit: "
         "unknown argument of Blur; did you mean 'blur_limit'?"),
        ([{"name": "OneOf", "transforms": "Blur"}], "augment.policy.0: invalid arguments for OneOf"),
    ],
)  # fmt: skip
def test_a_wrong_policy_is_refused_at_load(policy: Policy, message: str) -> None:
    with pytest.raises(UserError) as error:
        check_policy(policy)
    assert str(error.value).startswith(f"params.yaml: {message}")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ({"name": "RandomCrop", "height": 4, "width": 4}, "RandomCrop): got uint8[4, 4, 1] from an image "
         "uint8[8, 8, 1], expected the same shape and type"),
        ({"name": "Normalize"}, "Normalize): got float32[8, 8, 1] from an image uint8[8, 8, 1]"),
        ({"name": "ToTensorV2"}, "ToTensorV2): got torch.uint8[1, 8, 8] from an image uint8[8, 8, 1]"),
        ({"name": "ToRGB"}, "ToRGB): got uint8[8, 8, 3] from"),
        ({"name": "Sequential", "transforms": [{"name": "ToRGB"}]}, "Sequential): got uint8[8, 8, 3] from"),
        ({"name": "Crop"}, "Crop): cannot be applied to images [8, 8, 1]: "),
        ({"name": "ChannelDropout"}, "ChannelDropout): cannot be applied to images [8, 8, 1]: "),
        ({"name": "HistogramMatching"}, "HistogramMatching): cannot be applied to images [8, 8, 1]: "),
        ({"name": "HueSaturationValue"}, "HueSaturationValue): has no effect on images [8, 8, 1]: "),
    ],
)  # fmt: skip
def test_a_transform_that_does_not_fit_the_images_is_named_before_any_work(
    digits: Split, tmp_path: Path, item: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError) as error:
        write_augmented(digits, tmp_path / "views", 2, [AFFINE, {**item, "p": 0.01}], 0)
    assert str(error.value).startswith(f"params.yaml: augment.policy.1 ({message}")
    assert not (tmp_path / "views").exists()


def test_a_shape_that_changes_only_at_times_is_refused_too(digits: Split, tmp_path: Path) -> None:
    crop = {"name": "RandomCrop", "height": 4, "width": 4}
    policy: Policy = [{"name": "OneOf", "transforms": [{"name": "NoOp"}, crop], "p": 1.0}]
    with pytest.raises(UserError, match=r"augment\.policy.*got uint8\[4, 4, 1\] from an image uint8\[8, 8, 1\]"):
        write_augmented(digits, tmp_path / "views", 2, policy, 0, workers=2)


def test_a_choice_that_fails_only_at_times_is_refused_too(digits: Split, tmp_path: Path) -> None:
    choice = [{"name": "NoOp"}, {"name": "ChannelDropout"}]
    policy: Policy = [{"name": "SomeOf", "n": 1, "transforms": choice, "p": 1.0}]
    with pytest.raises(UserError, match=r"augment\.policy.*cannot be applied to images \[8, 8, 1\]: Images has one"):
        write_augmented(digits, tmp_path / "views", 2, policy, 0)


class Sections(Section):
    augment: Augment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("views: -1\n  seed: 0\n  policy: []", "augment.views: got -1 (integer), expected greater than or equal"),
        ("views: 1\n  seed: 0\n  policy: {name: Blur}", "augment.policy: got {'name': 'Blur'} (mapping), expected"),
        ("views: 1\n  seed: 0\n  policy: []", "policy: got an empty list with views 1, expected a transform or"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_refused(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(f"augment:\n  {text}\n")
    with pytest.raises(UserError) as error:
        load_params(Sections, file)
    assert message in str(error.value)


def test_the_default_policy_is_valid() -> None:
    root = Path(__file__).parents[2]
    for file in [root / "params.yaml", *sorted((root / "presets").glob("*.yaml"))]:
        check_policy(load_params(Sections, file).augment.policy)


def test_the_schema_loads_without_albumentations_and_albumentations_without_the_network() -> None:
    code = (
        "import sys, isoflop.data.augmentation as a; heavy = {'albumentations', 'torch', 'cv2', 'matplotlib', 'scipy'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules);"
        "import urllib.request as u; u.urlopen = u.OpenerDirector.open = lambda *a, **k: sys.exit('network');"
        "a.check_policy([{'name': 'Blur'}])"
    )
    environment = {name: value for name, value in os.environ.items() if name != "NO_ALBUMENTATIONS_UPDATE"}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_the_contact_sheet_shows_each_class_and_its_views(digits: Split, tmp_path: Path) -> None:
    views = views_of(digits, tmp_path / "views", [AFFINE], views=3)
    for number, count in enumerate([3, 3, 0]):
        write_contact_sheet(digits, views[:count], tmp_path / f"{number}.svg")
    rows = read_montage(tmp_path / "0.svg")
    assert [row.heading for row in rows] == digits.input_spec.classes
    assert all([tile.lines for tile in row.tiles] == [["prepared"], ["view 1"], ["view 2"], ["view 3"]] for row in rows)
    assert all(picture.exact for row in rows for tile in row.tiles for picture in tile.images)
    assert (tmp_path / "0.svg").read_bytes() == (tmp_path / "1.svg").read_bytes()
    assert read_montage(tmp_path / "2.svg") == []


def test_the_contact_sheet_takes_colour_and_class_names_that_look_like_formulae(colours: Split, tmp_path: Path) -> None:
    names = ["$a_{", "猫 <b>🐈‍⬛</b>, a very long name of a class, indeed"]
    views = np.zeros((1, 20, 16, 16, 3), np.uint8)
    write_contact_sheet(
        Split(colours.images, colours.labels, InputSpec(names, [0.0] * 3, [1.0] * 3, "crop")), views, tmp_path / "s.svg"
    )
    assert [row.heading for row in read_montage(tmp_path / "s.svg")] == names
