"""Stage ``download``: section ``data`` of params.yaml, the list of published data sets, and writing the raw folder."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationInfo, field_validator

from isoflop.download.archives import archive_entries, naming_damage
from isoflop.download.fetching import Remote, fetched, url_name, verify, without_secrets
from isoflop.download.image_folders import check_names, folder_entries, pack_images
from isoflop.download.published import Published, download_published
from isoflop.download.raw_format import CifarPart, IdxPart, Manifest, write_manifest
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section

_DIGITS = [str(digit) for digit in range(10)]
_IDX_FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)

_OUTSIDE = (
    "got the relative path {path} out of the project, which `dvc exp run --temp` and `--queue` do not find, because "
    "they run in another folder; fix: an absolute path"
)


class Data(Section):
    """Section ``data``. Only the source ``images`` uses the other keys."""

    source: Literal["digits", "cifar10", "cifar100", "mnist", "fashion_mnist", "images"]  # images: your own images
    path: str = Field(
        min_length=1, max_length=4096, json_schema_extra={"dependency": True}
    )  # a folder, zip or tar of images
    url: str | None = Field(max_length=4096)  # URL of a zip or tar of images; replaces path; null: use path
    sha256: str | None = Field(max_length=64)  # SHA-256 of the archive at url or path

    def cross_check(self, params: Mapping[str, Any], file: Path) -> list[str]:
        """Raise UserError if nothing is at ``path`` or DVC cannot list it: DVC hashes it, whatever the source.

        Warn of a path that is elsewhere in a copy of the project.
        """
        path = file.parent / self.path
        if path.is_dir():
            check_names(path, f"{file}: data.path")
        if path.exists():
            is_outside = not Path(self.path).is_absolute() and os.path.normpath(self.path).startswith("..")
            return [f"{file}: data.path: {_OUTSIDE.format(path=self.path)}"] if is_outside else []
        in_dvc = path.with_name(f"{path.name}.dvc").is_file()
        cure = (
            "expected what DVC tracks there; fix: `dvc pull` restores it, `dvc repro --pull` its results too"
            if in_dvc
            else "expected a folder, zip or tar of images, which DVC hashes whatever the source"
        )
        raise UserError(f"{file}: data.path: got {self.path}, which does not exist; {cure}")

    @field_validator("path")
    @classmethod
    def _is_path(cls, path: str) -> str:
        if not path.isprintable():
            raise ValueError("a path without control characters")
        return path

    @field_validator("url")
    @classmethod
    def _is_url(cls, url: str | None) -> str | None:
        if url is not None and not (url.isprintable() and re.fullmatch(r"https?://[^/\s]+/\S*[^/\s]", url)):
            raise ValueError("the http(s) URL of a zip or tar archive, or null")
        return url

    @field_validator("sha256")
    @classmethod
    def _is_pinned(cls, sha256: str | None, info: ValidationInfo) -> str | None:
        if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", sha256):
            raise ValueError("a SHA-256: 64 digits 0-9 or a-f, or null")
        if sha256 is None and info.data.get("source") == "images" and info.data.get("url") is not None:
            raise ValueError("the SHA-256 of the archive at data.url")
        return sha256


def download(data: Data, raw: Path) -> None:
    """Read or download the source that ``data`` names, verify it, and write it to the new folder ``raw``.

    Raises:
        UserError: the source does not exist, cannot be downloaded, has another checksum, has no images, or is a
            damaged or dangerous archive.
    """
    raw.mkdir(parents=True)
    if data.source == "digits":
        manifest = _write_digits(raw)
    elif data.source == "images":
        manifest = _pack_own_images(data, raw)
    else:
        download_published(PUBLISHED[data.source], raw)
        manifest = PUBLISHED[data.source].manifest
    write_manifest(raw, manifest)


def _pack_own_images(data: Data, raw: Path) -> Manifest:
    if data.url is not None:
        remote = Remote(url_name(data.url), data.url, f"sha256:{data.sha256}")
        with fetched(remote) as archive:
            return _pack_archive(archive, without_secrets(data.url), raw)
    path = Path(data.path)
    if path.is_dir():
        if data.sha256 is not None:
            raise UserError(f"data.sha256: got a checksum, expected null, because data.path ({path}) is a folder")
        return pack_images(partial(folder_entries, path), f"data.path: {path}", raw)
    if not path.exists():
        raise UserError(f"data.path: got {path}, which does not exist, expected a folder, zip or tar of images")
    if data.sha256 is not None:
        verify(path, f"sha256:{data.sha256}")
    return _pack_archive(path, f"data.path: {path}", raw)


def _pack_archive(archive: Path, source: str, raw: Path) -> Manifest:
    with naming_damage(archive):
        return pack_images(partial(archive_entries, archive), source, raw)


def _write_digits(raw: Path) -> Manifest:
    """Write scikit-learn's 1,797 digits of 8x8 pixels, scaled from 0…16 to 0…255, as IDX files."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images_NHW = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    part = IdxPart(split=None, images=len(images_NHW), images_file="images-idx3-ubyte", labels_file="labels-idx1-ubyte")
    for name, array in [(part.images_file, images_NHW), (part.labels_file, digits.target.astype(np.uint8))]:
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        (raw / name).write_bytes(header + array.tobytes())
    return Manifest(classes=_DIGITS, parts=[part])


def _cifar(name: str, checksum: str, folder: str, files: dict[str, str], label_bytes: int, classes: str) -> Published:
    images = {"train.bin": 50_000}  # the training file of CIFAR-100; all other files have 10,000 images
    parts = [
        CifarPart(
            split="test" if file.startswith("test") else "train",
            images=images.get(file, 10_000),
            file=file,
            label_bytes=label_bytes,
        )
        for file in files
    ]
    url = f"https://www.cs.toronto.edu/~kriz/{name}"
    return Published(url, checksum, folder, files, Manifest(classes=classes.split(), parts=[*parts]))


def _idx(url: str, folder: str, checksums: tuple[str, ...], classes: list[str]) -> Published:
    train_images, train_labels, test_images, test_labels = _IDX_FILES
    parts = [
        IdxPart(split="train", images=60_000, images_file=train_images, labels_file=train_labels),
        IdxPart(split="test", images=10_000, images_file=test_images, labels_file=test_labels),
    ]
    files = {name: f"sha256:{checksum}" for name, checksum in zip(_IDX_FILES, checksums, strict=True)}
    return Published(url, None, folder, files, Manifest(classes=classes, parts=[*parts]))


PUBLISHED = {
    "cifar10": _cifar(
        "cifar-10-binary.tar.gz",
        "sha256:c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "cifar-10-batches-bin",
        {
            "data_batch_1.bin": "sha256:cee916563c9f80d84e3cc88e17fdc0941787f1244f00a67874d45b261883ada5",
            "data_batch_2.bin": "sha256:a591ca11fa1708a91ee40f54b3da4784ccd871ecf2137de63f51ada8b3fa57ed",
            "data_batch_3.bin": "sha256:bbe8596564c0f86427f876058170b84dac6670ddf06d79402899d93ceea26f67",
            "data_batch_4.bin": "sha256:014e562d6e23c72197cc727519169a60359f5eccd8945ad5a09d710285ff4e48",
            "data_batch_5.bin": "sha256:755304fc0b379caeae8c14f0dac912fbc7d6cd469eb67a1029a08a39453a9add",
            "test_batch.bin": "sha256:8e2eb146ae340b09e24670f29cabc6326dba54da8789dab6768acf480273f65b",
        },
        1,
        "airplane automobile bird cat deer dog frog horse ship truck",
    ),
    "cifar100": _cifar(
        "cifar-100-binary.tar.gz",
        "sha256:58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        "cifar-100-binary",
        {
            "train.bin": "sha256:f31298fc616915fa142368359df1c4ca2ae984d6915ca468b998a5ec6aeebf29",
            "test.bin": "sha256:d8b1e6b7b3bee4020055f0699b111f60b1af1e262aeb93a0b659061746f8224a",
        },
        2,  # the coarse label, then the fine one
        "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel "
        "can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur "
        "dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion "
        "lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree "
        "pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea "
        "seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table "
        "tank telephone television tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman "
        "worm",
    ),
    "mnist": _idx(
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "mnist",
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        _DIGITS,
    ),
    "fashion_mnist": _idx(
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com",
        "fashion_mnist",
        (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"],
    ),
}
