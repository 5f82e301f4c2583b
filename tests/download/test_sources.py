"""Section data, published data sets from a mirror, and a user's images from a folder, an archive and a URL."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from isoflop.data.readers import RawDataset, read_raw
from isoflop.download import sources
from isoflop.download.fetching import DOWNLOADS
from isoflop.download.raw_format import IdxPart, Manifest
from isoflop.download.sources import PUBLISHED, Data, download
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section, load_params
from tests.conftest import ROOT
from tests.file_server import FileServer, closed_port, serving

SHARED = next((place / "shared/datasets" for place in ROOT.parents if (place / "shared/datasets").is_dir()), None)
needs_cifar10 = pytest.mark.skipif(
    SHARED is None or not (SHARED / "cifar-10-batches-bin").is_dir(),
    reason="no CIFAR-10 in ../shared/datasets",
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ISOFLOP_MIRROR", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def data(**changes: Any) -> Data:
    values = {"source": "images", "path": "data/images", "url": None, "sha256": None}
    return Data.model_validate(values | changes)


def downloaded(wanted: Data, raw: str = "raw") -> RawDataset:
    download(wanted, Path(raw))
    return read_raw(Path(raw))


def files(raw: str = "raw") -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(raw).iterdir()}


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


# Section data


class Sections(Section):
    data: Data


SHA = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("source: digits", "source: imagenet", "data.source: got 'imagenet' (string), expected 'digits', 'cifar10'"),
        ("path: data/images", "path: null", "data.path: got None (null), expected a valid string"),
        ("url: null", "url: example.com/x.zip", "data.url: got 'example.com/x.zip' (string), expected the http"),
        ("url: null", "url: file:///etc/passwd", "data.url: got 'file:///etc/passwd' (string), expected the http"),
        ("sha256: null", "sha256: abc", "data.sha256: got 'abc' (string), expected a SHA-256: 64 digits 0-9 or a-f"),
        ("source: digits\n  path: data/images\n  url: null", "source: images\n  path: x\n  url: http://a/b.zip",
         "data.sha256: got None (null), expected the SHA-256 of the archive at data.url"),
        ("url: null", "uri: null", "data.uri: unknown key; did you mean 'url'?"),
    ],
)  # fmt: skip
def test_a_wrong_section_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (ROOT / "params.yaml").read_text()
    assert old in text
    (tmp_path / "params.yaml").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as error:
        load_params(Sections, tmp_path / "params.yaml")
    assert message in str(error.value)


def test_other_sources_ignore_url_and_path() -> None:
    wanted = data(source="digits", url="https://example.org/a.zip", path="no/such/folder")
    assert len(downloaded(wanted)) == 1797


# Published data sets


def test_the_digits() -> None:
    from sklearn.datasets import load_digits

    dataset = downloaded(data(source="digits"))
    images = list(dataset)
    assert dataset.classes == list("0123456789")
    assert [image.label for image in images] == load_digits().target.tolist()
    pixels = np.stack([np.asarray(image.content) for image in images])
    np.testing.assert_array_equal(pixels, np.rint(load_digits().images * 255 / 16))
    assert pixels.max() == 255 and {image.split for image in images} == {None}


@needs_cifar10
def test_cifar10_from_the_shared_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ISOFLOP_MIRROR", str(SHARED))
    dataset = downloaded(data(source="cifar10"))
    assert len(dataset) == 60_000 and len(dataset.classes) == 10
    counts = np.zeros((2, 10), int)
    for image in dataset:
        counts[int(image.split == "test"), image.label] += 1
        if image.name in ("train/0", "test/0"):  # the well-known first images, a frog and a cat
            assert dataset.classes[image.label] == {"train/0": "frog", "test/0": "cat"}[image.name]
            assert (
                np.asarray(image.content)[0, 0].tolist()
                == {"train/0": [59, 62, 63], "test/0": [158, 112, 49]}[image.name]
            )
    assert (counts[0] == 5000).all() and (counts[1] == 1000).all()


def tiny_cifar(name: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Replace a CIFAR data set by one with 20 images per file and matching checksums; return its files."""
    official = PUBLISHED[name]
    rng = np.random.default_rng(0)
    parts, contents = [], {}
    for part in official.manifest.parts:
        assert part.format == "cifar"
        records = rng.integers(0, 256, (20, part.label_bytes + 3072)).astype(np.uint8)
        records[:, part.label_bytes - 1] = rng.integers(0, len(official.manifest.classes), 20)
        contents[part.file] = records.tobytes()
        parts.append(part.model_copy(update={"images": 20}))
    pin(name, contents, Manifest(classes=official.manifest.classes, parts=[*parts]), monkeypatch)
    return contents


def pin(name: str, contents: dict[str, bytes], manifest: Manifest, monkeypatch: pytest.MonkeyPatch) -> None:
    official = PUBLISHED[name]
    assert set(contents) == set(official.files)
    checksums = {file: f"sha256:{sha256(content)}" for file, content in contents.items()}
    archive = official.archive_checksum and f"sha256:{sha256(archived(name, contents))}"
    tiny = replace(official, files=checksums, manifest=manifest, archive_checksum=archive)
    monkeypatch.setitem(sources.PUBLISHED, name, tiny)


def archived(name: str, contents: dict[str, bytes]) -> bytes:
    """A tar.gz like the official one: a folder with the files and a few others."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        for file, content in (contents | {"readme.html": b"hello", "batches.meta.txt": b"names"}).items():
            info = tarfile.TarInfo(f"{PUBLISHED[name].folder}/{file}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return gzip.compress(stream.getvalue(), mtime=0)


def test_the_archive_the_folder_and_the_web_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = tiny_cifar("cifar10", monkeypatch)
    folder, name = PUBLISHED["cifar10"].folder, "cifar-10-binary.tar.gz"
    Path("archive").mkdir()
    Path("archive", name).write_bytes(archived("cifar10", contents))
    Path("unpacked", folder).mkdir(parents=True)
    for file, content in contents.items():
        Path("unpacked", folder, file).write_bytes(content)
    served = {f"{folder}/{file}": content for file, content in contents.items()}
    with serving(FileServer({name: archived("cifar10", contents)})) as one, serving(FileServer(served)) as two:
        mirrors = ["archive", "unpacked", one.url, two.url]
        for number, mirror in enumerate(mirrors):
            monkeypatch.setenv("ISOFLOP_MIRROR", mirror)
            dataset = downloaded(data(source="cifar10"), f"raw{number}")
            assert len(list(dataset)) == 120
        monkeypatch.delenv("ISOFLOP_MIRROR")
        official = replace(PUBLISHED["cifar10"], url=f"{one.url}/{name}")
        monkeypatch.setitem(sources.PUBLISHED, "cifar10", official)
        downloaded(data(source="cifar10"), "raw4")
    assert all(files(f"raw{number}") == files("raw0") for number in range(1, 5))
    assert set(files("raw0")) == {*contents, "dataset.json"}
    assert list(DOWNLOADS.iterdir()) == []


def test_cifar100_has_the_fine_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = tiny_cifar("cifar100", monkeypatch)
    Path("mirror").mkdir()
    Path("mirror/cifar-100-binary.tar.gz").write_bytes(archived("cifar100", contents))
    monkeypatch.setenv("ISOFLOP_MIRROR", "mirror")
    dataset = downloaded(data(source="cifar100"))
    records = np.frombuffer(contents["train.bin"] + contents["test.bin"], np.uint8).reshape(40, 3074)
    assert [image.label for image in dataset] == records[:, 1].tolist()
    assert [image.split for image in dataset] == ["train"] * 20 + ["test"] * 20
    assert dataset.classes == sorted(dataset.classes) and len(set(dataset.classes)) == 100


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_data_sets(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    official = PUBLISHED[name]
    rng = np.random.default_rng(1)
    parts, contents, labels = [], {}, []
    for part in official.manifest.parts:
        assert isinstance(part, IdxPart)
        labels.append(rng.integers(0, 10, 30).astype(np.uint8))
        for file, array in [(part.images_file, np.zeros((30, 28, 28), np.uint8)), (part.labels_file, labels[-1])]:
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            contents[file] = gzip.compress(header + array.tobytes(), mtime=0)
        parts.append(part.model_copy(update={"images": 30}))
    pin(name, contents, Manifest(classes=official.manifest.classes, parts=[*parts]), monkeypatch)
    Path("mirror", name).mkdir(parents=True)
    for file, content in contents.items():
        Path("mirror", name, file).write_bytes(content)
    monkeypatch.setenv("ISOFLOP_MIRROR", "mirror")
    dataset = downloaded(data(source=name))
    assert [image.label for image in dataset] == np.concatenate(labels).tolist()
    assert [image.split for image in dataset] == ["train"] * 30 + ["test"] * 30
    assert len(set(dataset.classes)) == 10


def test_damage_in_a_mirror_and_an_archive_without_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    contents = tiny_cifar("cifar10", monkeypatch)
    name = "cifar-10-binary.tar.gz"
    Path("mirror").mkdir()
    Path("mirror", name).write_bytes(archived("cifar10", contents)[:-9])
    monkeypatch.setenv("ISOFLOP_MIRROR", "mirror")
    with pytest.raises(UserError, match=rf"^mirror/{name}: got sha256 [0-9a-f]+, expected"):
        downloaded(data(source="cifar10"))
    other = archived("cifar10", {"data_batch_1.bin": b""})
    Path("mirror", name).write_bytes(other)
    monkeypatch.setitem(
        sources.PUBLISHED, "cifar10", replace(PUBLISHED["cifar10"], archive_checksum=f"sha256:{sha256(other)}")
    )
    with pytest.raises(UserError, match=rf"^mirror/{name}: got no data_batch_2\.bin, .*expected all files of"):
        downloaded(data(source="cifar10"), "raw2")


# A user's own images


def png(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), colour).save(stream, "PNG")
    return stream.getvalue()


OWN = {f"{split}/{name}/{n}.png": png(n) for split in ("train", "test") for name in ("cat", "dog") for n in range(3)}


@pytest.fixture
def own() -> Iterator[Path]:
    for name, content in OWN.items():
        Path("own", name).parent.mkdir(parents=True, exist_ok=True)
        Path("own", name).write_bytes(content)
    yield Path("own")


def zipped(contents: dict[str, bytes] = OWN) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980 instead of now
    return stream.getvalue()


def test_own_images_from_a_folder_an_archive_a_url_and_a_mirror(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("own.zip").write_bytes(zipped())
    downloaded(data(path="own"), "raw0")
    downloaded(data(path="own.zip"), "raw1")
    downloaded(data(path="own.zip", sha256=sha256(zipped())), "raw2")
    with serving(FileServer({"x/own.zip": zipped()})) as server:
        server.breaks = 1
        monkeypatch.setattr("isoflop.download.fetching._PAUSE_S", 0.01)
        downloaded(data(url=f"{server.url}/x/own.zip", sha256=sha256(zipped())), "raw3")
        monkeypatch.setenv("ISOFLOP_MIRROR", ".")
        dataset = downloaded(data(url=f"{closed_port()}/own.zip", sha256=sha256(zipped())), "raw4")
    assert {image.name: image.content for image in dataset} == OWN
    assert all(files(f"raw{number}") == files("raw0") for number in range(1, 5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "no/such"}, "data.path: got no/such, which does not exist, expected a folder, zip or tar of images"),
        ({"path": "empty"}, "data.path: empty: got no images, expected one folder of images for each class"),
        (
            {"path": "own", "sha256": SHA},
            "data.sha256: got a checksum, expected null, because data.path (own) is a folder",
        ),
        ({"path": "own.zip", "sha256": SHA}, f"own.zip: got sha256 {sha256(zipped())}, expected {SHA}"),
        (
            {"path": "cut.zip"},
            "cut.zip: got a damaged file or no archive (File is not a zip file), expected a zip",
        ),
        ({"path": "text.rar"}, "text.rar: got a damaged file or no archive ("),
        (
            {"path": "evil.zip"},
            "evil.zip: '../x.png': got a path that leads out of the archive, expected one inside it",
        ),
        ({"path": "texts.zip"}, "data.path: texts.zip: got no images, expected one folder of images for each class"),
    ],
)
def test_what_is_wrong_with_own_images_is_said(own: Path, changes: dict[str, Any], message: str) -> None:
    Path("empty").mkdir()
    shutil.copy(ROOT / "data/images/README.md", "empty")
    Path("own.zip").write_bytes(zipped())
    Path("cut.zip").write_bytes(zipped()[:-50])
    Path("text.rar").write_bytes(b"Rar!" + os.urandom(900))
    Path("evil.zip").write_bytes(zipped(OWN | {"../x.png": b""}))
    Path("texts.zip").write_bytes(zipped({"a/b.txt": b"hello"}))
    with pytest.raises(UserError) as error:
        downloaded(data(**changes))
    assert str(error.value).startswith(message)


def test_the_archive_at_the_url_has_another_checksum() -> None:
    with serving(FileServer({"own.zip": zipped()})) as server:
        with pytest.raises(UserError) as error:
            downloaded(data(url=f"{server.url}/own.zip", sha256=SHA))
        assert str(error.value) == f"{server.url}/own.zip: got sha256 {sha256(zipped())}, expected {SHA}"
    assert list(DOWNLOADS.iterdir()) == []
