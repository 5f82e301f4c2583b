"""Reading the raw data set: CIFAR records, IDX files, packed images; damaged files are errors of one line."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np
import pytest

from isoflop.data.readers import RawImage, read_raw
from isoflop.download.raw_format import CifarPart, IdxPart, ImagePacker, Manifest, write_manifest
from isoflop.runtime.errors import UserError

COUNT = 600  # more than one read batch
RNG = np.random.default_rng(0)
IMAGES_NHWC = RNG.integers(0, 256, (COUNT, 32, 32, 3)).astype(np.uint8)
GREY_NHW = RNG.integers(0, 256, (COUNT, 5, 7)).astype(np.uint8)
LABELS = RNG.integers(0, 10, COUNT).astype(np.uint8)
CLASSES = list("abcdefghij")


def cifar(folder: Path, label_bytes: int) -> None:
    planes = IMAGES_NHWC.transpose(0, 3, 1, 2).reshape(COUNT, -1)
    coarse = np.full((COUNT, label_bytes - 1), 99, np.uint8)
    records = np.concatenate([coarse, LABELS[:, None], planes], axis=1)
    (folder / "1.bin").write_bytes(records[:400].tobytes())
    (folder / "2.bin").write_bytes(records[400:].tobytes())
    parts = [
        CifarPart(split="train", images=n, file=f, label_bytes=label_bytes) for f, n in [("1.bin", 400), ("2.bin", 200)]
    ]
    write_manifest(folder, Manifest(classes=CLASSES, parts=[*parts]))


def idx(folder: Path, suffix: str = "") -> None:
    for name, array in [("images", GREY_NHW), ("labels", LABELS)]:
        content = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    part = IdxPart(split=None, images=COUNT, images_file=f"images{suffix}", labels_file=f"labels{suffix}")
    write_manifest(folder, Manifest(classes=CLASSES, parts=[part]))


def packed(folder: Path) -> None:
    with ImagePacker(folder) as packer:
        packer.add("b/2.jpg", 1, "test", io.BytesIO(b"two"))
        packer.add("a/\udcff.jpg", 0, None, io.BytesIO(b""))
        write_manifest(folder, Manifest(classes=["a", "b"], parts=[packer.finish()]))


@pytest.mark.parametrize("label_bytes", [1, 2])
def test_cifar(tmp_path: Path, label_bytes: int) -> None:
    cifar(tmp_path, label_bytes)
    dataset = read_raw(tmp_path)
    images = list(dataset)
    assert len(dataset) == len(images) == COUNT and dataset.classes == CLASSES
    assert [image.label for image in images] == LABELS.tolist()
    np.testing.assert_array_equal(np.stack([np.asarray(image.content) for image in images]), IMAGES_NHWC)
    assert [image.name for image in images] == [f"train/{number}" for number in range(COUNT)]
    assert {image.split for image in images} == {"train"}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx(tmp_path: Path, suffix: str) -> None:
    idx(tmp_path, suffix)
    images = list(read_raw(tmp_path))
    assert [image.label for image in images] == LABELS.tolist()
    np.testing.assert_array_equal(np.stack([np.asarray(image.content) for image in images]), GREY_NHW)
    assert (images[3].name, images[3].split) == ("all/3", None)


def test_packed_images_sorted_by_name(tmp_path: Path) -> None:
    packed(tmp_path)
    dataset = read_raw(tmp_path)
    expected = [RawImage("a/\udcff.jpg", 0, None, b""), RawImage("b/2.jpg", 1, "test", b"two")]
    assert list(dataset) == expected == list(dataset)
    assert len(dataset) == 2


@pytest.mark.parametrize(
    ("make", "file"),
    [(cifar, "2.bin"), (idx, "labels"), (idx, "images"), (packed, "images.bin"), (packed, "index.jsonl")],
)
def test_a_file_that_is_cut_or_missing(tmp_path: Path, make: object, file: str) -> None:
    cifar(tmp_path, 1) if make is cifar else make(tmp_path)  # type: ignore[operator]
    content = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(content[: len(content) - 1 - (file == "index.jsonl")])
    with pytest.raises(UserError, match=rf"^{tmp_path}: not a readable raw data set \(.*`dvc checkout` restores it$"):
        list(read_raw(tmp_path))
    (tmp_path / file).unlink()
    with pytest.raises(UserError, match=f"not a readable raw data set .*{file}"):
        list(read_raw(tmp_path))


def test_other_damage(tmp_path: Path) -> None:
    idx(tmp_path, ".gz")
    content = (tmp_path / "images.gz").read_bytes()
    (tmp_path / "images.gz").write_bytes(content[:-100])
    with pytest.raises(UserError, match="not a readable raw data set"):
        list(read_raw(tmp_path))
    (tmp_path / "images.gz").write_bytes((tmp_path / "labels.gz").read_bytes())
    with pytest.raises(UserError, match=r"images\.gz: got magic \[0, 0, 8, 1\] and shape"):
        list(read_raw(tmp_path))
    idx(tmp_path)
    (tmp_path / "labels").write_bytes((tmp_path / "labels").read_bytes()[:-1] + b"\x63")
    with pytest.raises(UserError, match="label: got 99, expected less than 10"):
        list(read_raw(tmp_path))


def test_what_is_no_raw_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a raw data set \(.*No such file"):
        read_raw(tmp_path)
    (tmp_path / "dataset.json").write_text('{"classes": ["a"]}')
    with pytest.raises(UserError, match="not a raw data set"):
        read_raw(tmp_path)
