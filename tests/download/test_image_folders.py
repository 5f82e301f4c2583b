"""Finding images in folders and archives, their classes and splits, and packing them."""

from __future__ import annotations

import os
import shutil
import subprocess
import tarfile
import zipfile
from functools import partial
from pathlib import Path

import pytest

from isoflop.data.readers import RawDataset, read_raw
from isoflop.download.archives import archive_entries
from isoflop.download.image_folders import check_names, folder_entries, pack_images
from isoflop.download.raw_format import write_manifest
from isoflop.runtime.errors import UserError
from tests.conftest import run_command

JPEG = b"\xff\xd8\xff\xe0"


def tree(folder: Path, *names: str) -> Path:
    for name in names:
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(JPEG + os.fsencode(name))
    return folder


def packed(source: Path, raw: Path) -> RawDataset:
    raw.mkdir(parents=True)
    entries = partial(folder_entries if source.is_dir() else archive_entries, source)
    write_manifest(raw, pack_images(entries, str(source), raw))
    return read_raw(raw)


def summary(dataset: RawDataset) -> list[tuple[str, str, str | None]]:
    assert all(image.content == JPEG + os.fsencode(image.name) for image in dataset)
    return [(image.name, dataset.classes[image.label], image.split) for image in dataset]


def layout(tmp_path: Path, *names: str) -> list[tuple[str, str, str | None]]:
    return summary(packed(tree(tmp_path / "images", *names), tmp_path / "raw"))


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    found = layout(tmp_path, "dog/1.jpg", "cat/2.JPEG", "cat/1.png", "cat/deeper/3.gif")
    assert found == [
        ("cat/1.png", "cat", None),
        ("cat/2.JPEG", "cat", None),
        ("cat/deeper/3.gif", "cat", None),
        ("dog/1.jpg", "dog", None),
    ]


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("Train", "VALID", "TEST"),
        ("training", "validation", "testing"),
        ("training_set/training_set", "val_set", "test_set/test_set"),
        ("seg_train/seg_train", "seg_val", "seg_test"),
        ("Train Images", "valset/images", "testing data 2"),
    ],
)
def test_splits_above(tmp_path: Path, train: str, val: str, test: str) -> None:
    found = layout(tmp_path, f"{train}/cat/1.jpg", f"{val}/cat/1.jpg", f"{test}/dog/1.jpg", f"{train}/dog/x/1.jpg")
    assert sorted(found, key=str) == sorted(
        [
            (f"{train}/cat/1.jpg", "cat", "train"),
            (f"{val}/cat/1.jpg", "cat", "val"),
            (f"{test}/dog/1.jpg", "dog", "test"),
            (f"{train}/dog/x/1.jpg", "dog", "train"),
        ],
        key=str,
    )


def test_wrapping_folders_are_looked_through(tmp_path: Path) -> None:
    assert layout(tmp_path / "a", "pets/v2/cat/1.jpg", "pets/v2/dog/1.jpg", "pets/cover.jpg") == [
        ("pets/v2/cat/1.jpg", "cat", None),
        ("pets/v2/dog/1.jpg", "dog", None),
    ]
    assert layout(tmp_path / "b", "pets/train/cat/1.jpg") == [("pets/train/cat/1.jpg", "cat", "train")]
    assert layout(tmp_path / "c", "cat/1.jpg") == [("cat/1.jpg", "cat", None)]


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    assert {name for _, name, _ in layout(tmp_path, "bus/1.jpg", "train/1.jpg")} == {"bus", "train"}


def test_a_folder_alone_in_a_split_may_be_a_class(tmp_path: Path) -> None:
    names = ["train/cat/a/1.jpg", "train/cat/b/1.jpg", "test/dog/1.jpg"]
    assert {(name, split) for _, name, split in layout(tmp_path, *names)} == {("cat", "train"), ("dog", "test")}


def test_class_folders_beside_train_are_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"images: got the folders 'cat', 'train', expected only class folders, or only"
    ):
        layout(tmp_path, "cat/1.jpg", "train/cat/1.jpg")


def test_clutter_is_left_out_and_odd_files_are_looked_into(tmp_path: Path) -> None:
    folder = tree(
        tmp_path / "images", "cat/1.jpg", "dog/no_suffix", "dog/1.jpg_large", "cat/.hidden.jpg", ".git/cat/1.jpg"
    )
    tree(folder, "__MACOSX/cat/1.jpg", "cat/__MACOSX/1.jpg")
    for name in ("README.md", "cat/Thumbs.db", "dog/.DS_Store", "cat/labels.csv", "dog/notes"):
        (folder / name).write_text("BM hello")
    assert [name for name, _, _ in summary(packed(folder, tmp_path / "raw"))] == [
        "cat/1.jpg",
        "dog/1.jpg_large",
        "dog/no_suffix",
    ]


def test_files_that_claim_to_be_pictures_are_kept_for_prepare(tmp_path: Path) -> None:
    folder = tree(tmp_path / "images", "cat/1.jpg")
    for name in ("cat/empty.jpg", "cat/text.png", "cat/phone.heic"):
        (folder / name).write_bytes(b"" if "empty" in name else b"text")
    contents = {image.name: image.content for image in packed(folder, tmp_path / "raw")}
    assert contents == {
        "cat/1.jpg": JPEG + b"cat/1.jpg",
        "cat/empty.jpg": b"",
        "cat/phone.heic": b"text",
        "cat/text.png": b"text",
    }


def test_images_outside_of_class_folders_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = layout(tmp_path, "train/cat/1.jpg", "train/dog/1.jpg", "test/1.jpg", "test/2.jpg")
    assert [name for name, _, _ in found] == ["train/cat/1.jpg", "train/dog/1.jpg"]
    assert "skipped 2 images outside of class folders, first 'test/1.jpg'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "got no images, expected one folder of images for each class; fix: put them there,"),
        (("1.jpg", "2.jpg"), "got 2 images but no folders in it, expected one folder for each class"),
        (("train/1.jpg", "test/2.jpg"), "got 2 images but no folders in train, val and test, expected one folder"),
    ],
)  # fmt: skip
def test_no_classes(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    tree(tmp_path / "images", *names).mkdir(exist_ok=True)
    (tmp_path / "images" / "README.md").write_text("Put your own images here")
    with pytest.raises(UserError) as error:
        packed(tmp_path / "images", tmp_path / "raw")
    assert str(error.value).startswith(f"{tmp_path / 'images'}: {message}")


def test_names_that_are_no_utf8_and_two_spellings_of_an_accent(tmp_path: Path) -> None:
    found = layout(tmp_path, "train/caf\u00e9/\udce9.jpg", "test/cafe\u0301/1.jpg", "train/\udcff/1.jpg")
    assert {name for _, name, _ in found} == {"café", "\\xff"}
    assert ("train/caf\u00e9/\udce9.jpg", "café", "train") in found


def test_links(tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", "secret.jpg")
    folder = tree(tmp_path / "images", "cat/1.jpg", "dog/1.jpg")
    (folder / "dog" / "2.jpg").symlink_to("../cat/1.jpg")
    assert len(packed(folder, tmp_path / "raw")) == 3
    targets = [outside / "secret.jpg", outside, folder, tmp_path / "nothing"]
    for number, target in enumerate(targets):
        (folder / "cat" / "link.jpg").unlink(missing_ok=True)
        (folder / "cat" / "link.jpg").symlink_to(target)
        with pytest.raises(
            UserError, match=r"cat/link\.jpg: got a link to '.*', expected a file or a link to a file in"
        ):
            packed(folder, tmp_path / f"raw{number}")


def test_links_of_dvc_into_its_cache_are_files(tmp_path: Path) -> None:
    """`cache.type symlink`, which DVC recommends for large data and shared caches; also in a shared folder."""
    project = tmp_path / "project"
    folder = tree(project / "images", "cat/1.jpg", "dog/1.jpg")
    run_command("dvc", "init", "--no-scm", "-q", cwd=project)
    run_command("dvc", "config", "cache.type", "symlink", cwd=project)
    run_command("dvc", "cache", "dir", "--local", str(tmp_path / "shared"), cwd=project)
    run_command("dvc", "add", "-q", "images", cwd=project)
    shutil.rmtree(folder)
    run_command("dvc", "checkout", "-q", cwd=project)
    assert (folder / "cat" / "1.jpg").resolve().is_relative_to(tmp_path / "shared")
    assert len(packed(folder, tmp_path / "raw")) == 2
    (folder / "dog" / "2.jpg").symlink_to(tree(tmp_path / "outside", "secret.jpg") / "secret.jpg")
    with pytest.raises(UserError, match=r"dog/2\.jpg: got a link to"):
        packed(folder, tmp_path / "raw2")
    assert len(list(folder_entries(folder, follows_links=True))) == 3


def test_pipes_do_not_hang(tmp_path: Path) -> None:
    folder = tree(tmp_path / "images", "cat/1.jpg")
    os.mkfifo(folder / "cat" / "2.jpg")
    assert len(packed(folder, tmp_path / "raw")) == 1


def test_folder_zip_and_tar_give_the_same_images_in_the_same_order(tmp_path: Path) -> None:
    folder = tree(tmp_path / "images", "train/dog/2.jpg", "train/dog/10.jpg", "train/cat/1.jpg", "test/cat/1.jpg")
    (folder / "train" / "README").write_text("clutter")
    names = ["train/README", "train/dog/2.jpg", "test/cat/1.jpg", "train/dog/10.jpg", "train/cat/1.jpg"]
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.write(folder / name, name)
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        for name in names:
            tar.add(folder / name, name)
    one, two, three = (packed(tmp_path / name, tmp_path / f"raw-{name}") for name in ("images", "a.zip", "a.tar.gz"))
    assert summary(one) == summary(two) == summary(three)
    for file in ("images.bin", "index.jsonl", "dataset.json"):
        assert (tmp_path / "raw-images" / file).read_bytes() == (tmp_path / "raw-a.zip" / file).read_bytes()


def test_the_bytes_do_not_depend_on_the_place_or_the_time(tmp_path: Path) -> None:
    digests = []
    for place in ("a", "b/c"):
        folder = tree(tmp_path / place / "images", "cat/1.jpg", "dog/1.jpg")
        os.utime(folder / "cat/1.jpg", (len(place), len(place)))
        packed(folder, tmp_path / place / "raw")
        listing = subprocess.run(
            "sha256sum *", shell=True, cwd=tmp_path / place / "raw", capture_output=True, check=True
        )
        digests.append(listing.stdout)
    assert digests[0] == digests[1]


def test_class_names_cannot_control_a_terminal_or_a_table(tmp_path: Path) -> None:
    found = layout(tmp_path, "\x1b[31mred/1.jpg", "a\nb/1.jpg", "a\u202eb/1.jpg", "fam\u200dily 👩‍🔬/1.jpg")
    assert [of for _, of, _ in found] == ["\\x1b[31mred", "a\\nb", "a\\u202eb", "fam\u200dily 👩‍🔬"]


@pytest.mark.parametrize("name", [b"caf\xe9/1.jpg", b"cat/\xff.txt", b"cat/.hidden\xfe"])
def test_a_name_that_dvc_cannot_list_is_refused_with_the_name(tmp_path: Path, name: bytes) -> None:
    tree(tmp_path / "images", "cat/1.jpg", "dog/1.jpg", os.fsdecode(name))
    with pytest.raises(UserError) as error:
        check_names(tmp_path / "images", "--images 'images'")
    shown = name.decode(errors="backslashreplace")
    assert str(error.value).startswith(f"--images 'images': got the file name '{shown}', expected UTF-8")
