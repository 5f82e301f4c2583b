"""Stage ``prepare``: turn raw images into the prepared format in two passes, in constant memory.

The first pass decodes every image once (by ``images.decode``), records its metadata (a few hundred bytes) and writes
the resized pixels to an unnamed scratch file. Then ``cleaning`` decides what to drop and assigns splits. The second
pass copies the kept images to their splits, in order.
"""

from __future__ import annotations

import csv
import hashlib
import os
import sys
import tempfile
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt
from PIL import Image

from isoflop.data.arrays import InputSpec, SplitWriter
from isoflop.data.cleaning import REASONS, Cleaning, Prepare, drop_and_split
from isoflop.data.dropped_picture import MOST_IMAGES, write_dropped_picture
from isoflop.data.image_names import write_names
from isoflop.data.images import UndecodableError, as_channels, decode, fit_to_square, from_array
from isoflop.data.normalization import Statistics, fixed_normalization
from isoflop.data.readers import RawDataset, RawImage
from isoflop.data.splitting import SPLITS
from isoflop.download.image_folders import visible
from isoflop.runtime.dvc_md5 import dvc_md5
from isoflop.runtime.errors import UserError
from isoflop.runtime.progress import tracked

_COPY_BATCH = 1024  # images
_MOST_MOVED = 20  # names in data.json
_DECODE_BATCH = 64  # images per task of a thread
_DECODE_BATCH_BYTES = 8 << 20  # a batch ends early at this size, which bounds the memory for large files


@dataclass(frozen=True)
class DecodedImage:
    """An image after the first pass; ``problem`` is why it could not be decoded, and then ``pixels`` is None."""

    pixels: npt.NDArray[np.uint8] | None = None  # H, W, C, resized
    digest: bytes = b""
    key: bytes = b""
    perceptual_hash: int = 0
    problem: str | None = None


def prepare(
    raw: RawDataset,
    params: Prepare,
    folders: dict[str, Path],
    names: Path,
    dropped: Path,
    dropped_picture: Path,
    pretrained: tuple[list[float], list[float]] | None = None,
) -> dict[str, object]:
    """Clean, resize and split ``raw``.

    Args:
        folders: where the splits ``train``, ``val`` and ``test`` are written.
        names: a CSV file with the split and the name of each kept image, in the order of the splits.
        dropped: a CSV file that lists the dropped images.
        dropped_picture: an SVG that shows the first dropped images of each reason.
        pretrained: mean and standard deviation per channel for ``prepare.normalization: pretrained``.

    Returns:
        The content of ``metrics/data.json``; ``md5`` is the hash of each split as in dvc.lock.

    Raises:
        UserError: no images, fewer than two classes, a class with too few images or with none in a split, or an
            undecodable file while ``prepare.drop.undecodable`` is false; the normalization is that of a pretrained
            network and there is none.
    """
    fixed = fixed_normalization(params.normalization, params.channels)
    if params.normalization == "pretrained":
        if pretrained is None:
            raise UserError(
                "params.yaml: prepare.normalization: got pretrained with model.pretrained none, expected standard"
            )
        fixed = pretrained
    classes = list(raw.classes)
    if len(classes) < 2:
        raise UserError(f"data: got {len(classes)} classes ({', '.join(classes)}), expected at least two")
    folders["train"].parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folders["train"].parent) as scratch:
        cleaning = decode_all(raw, params, scratch)
        if not len(cleaning.catalogue):
            raise UserError("data: got no images, expected some of each class")
        drop_and_split(cleaning, classes, params, by_content=raw.can_grow)
        input_spec = InputSpec(classes, *fixed, params.resize, params.sample_range)
        input_spec = _write_splits(cleaning, input_spec, params, folders, scratch)
        _draw_dropped(
            cleaning, classes, (params.image_size, params.image_size, params.channels), scratch, dropped_picture
        )
    write_names(_placed(cleaning), names)
    _write_dropped(cleaning, dropped)
    print(_summary(cleaning), flush=True)
    for line in _exempt_in_words(cleaning, classes):
        print(f"warning: {line}", file=sys.stderr)
    return _metrics(cleaning, input_spec, params) | {"md5": {name: dvc_md5(folder) for name, folder in folders.items()}}


def _placed(cleaning: Cleaning) -> list[tuple[str, str]]:
    """Split and name of every kept image, in the order in which ``_write_splits`` writes them."""
    return [
        (split, cleaning.catalogue.names[index])
        for split in SPLITS
        for index in cleaning.kept
        if cleaning.splits[index] == split
    ]


def _summary(cleaning: Cleaning) -> str:
    reasons = Counter(reason for reason, _ in cleaning.dropped.values())
    counted = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in reasons.items())
    images = f"{len(cleaning.catalogue):,} images"
    return f"{images}, {len(cleaning.dropped):,} dropped: {counted}" if counted else f"{images}, none dropped"


def _exempt_in_words(cleaning: Cleaning, classes: list[str]) -> Iterator[str]:
    """Yield for each class that a rule would drop most of, and therefore exempts."""
    sizes = Counter(cleaning.catalogue.labels)
    for reason, labels in cleaning.exempt.items():
        for label, count in sorted(labels.items()):
            yield (
                f"class {classes[label]!r}: the rule for {reason.replace('_', ' ')} images would drop {count} of "
                f"{sizes[label]} images, so it is off for this class; similar images can be in training and test"
            )


def decode_one(image: RawImage, params: Prepare) -> DecodedImage:
    """Decode and resize one image; compute the digest of its pixels and its perceptual hash.

    Raises:
        UndecodableError: the image cannot be decoded and ``prepare.drop.undecodable`` is false.
    """
    try:
        content = image.content
        if isinstance(content, bytes):
            picture = decode(content, image.name, params.sample_range)
        else:
            picture = from_array(content, image.name)
    except UndecodableError as error:
        if not params.drop.undecodable:
            raise
        return DecodedImage(problem=error.why)
    picture = as_channels(picture, params.channels)
    key = hashlib.blake2b(content, digest_size=16).digest() if isinstance(content, bytes) else b""
    digest = hashlib.blake2b(picture.tobytes(), digest_size=16, salt=b"%dx%d" % picture.size).digest()
    near = params.drop.near_duplicate_distance is not None
    pixels = fit_to_square(picture, params.image_size, params.channels, params.resize)
    return DecodedImage(pixels, digest, key, perceptual_hash(picture) if near else 0)


def perceptual_hash(picture: Image.Image) -> int:
    """Return a 64-bit DCT hash: which of the lowest 8x8 frequencies of the 32x32 grayscale image exceed the median."""
    import imagehash

    return int.from_bytes(np.packbits(imagehash.phash(picture).hash).tobytes())


def decode_all(raw: Iterable[RawImage], params: Prepare, scratch: IO[bytes]) -> Cleaning:
    """First pass: fill the catalogue and write the resized pixels of every image to ``scratch``, in order.

    Raises:
        UndecodableError: an image cannot be decoded and ``prepare.drop.undecodable`` is false.
    """
    cleaning = Cleaning()
    catalogue = cleaning.catalogue
    empty = bytes(params.image_size**2 * params.channels)  # fills the slot of an undecodable image
    undecodable: dict[int, str] = {}
    for image, decoded in _decoded(raw, params):
        index = len(catalogue)
        catalogue.names.append(image.name)
        catalogue.labels.append(image.label)
        catalogue.splits.append(image.split)
        catalogue.digests.append(decoded.digest)
        catalogue.hashes.append(decoded.perceptual_hash)
        catalogue.keys.append(decoded.key)
        if decoded.pixels is None:
            undecodable[index] = decoded.problem or "undecodable"
        elif params.drop.blank and (decoded.pixels == decoded.pixels[0, 0]).all():
            color = ", ".join(map(str, decoded.pixels[0, 0].tolist()))
            cleaning.blank[index] = f"every pixel of the resized image is {color}"
        scratch.write(empty if decoded.pixels is None else decoded.pixels.tobytes())
    cleaning.kept = list(range(len(catalogue)))
    cleaning.drop("undecodable", undecodable)
    return cleaning


def _write_splits(
    cleaning: Cleaning, input_spec: InputSpec, params: Prepare, folders: dict[str, Path], scratch: IO[bytes]
) -> InputSpec:
    shape = (params.image_size, params.image_size, params.channels)
    for split in SPLITS:  # train first: val and test use its statistics
        statistics = Statistics(params.channels)
        indices = [index for index in cleaning.kept if cleaning.splits[index] == split]
        with SplitWriter(folders[split], shape) as writer:
            for start in tracked(range(0, len(indices), _COPY_BATCH), f"writing {split}", "batches"):
                batch = indices[start : start + _COPY_BATCH]
                images_NHWC = _read_scratch(scratch, batch, shape)
                statistics.add(images_NHWC)
                writer.append(images_NHWC, np.array([cleaning.catalogue.labels[index] for index in batch]))
            if split == "train" and params.normalization == "standard":
                mean, std = statistics.mean_and_std()
                input_spec = replace(input_spec, mean=mean, std=std)
            writer.finish(input_spec)
    return input_spec


def _read_scratch(scratch: IO[bytes], indices: Iterable[int], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    size = int(np.prod(shape))
    images = []
    for index in indices:
        scratch.seek(index * size)
        images.append(np.frombuffer(scratch.read(size), np.uint8).reshape(shape))
    return np.stack(images)


def _decoded(raw: Iterable[RawImage], params: Prepare) -> Iterator[tuple[RawImage, DecodedImage]]:
    """Run ``decode_one`` in threads (decoding and resampling release the GIL), in order, a few batches ahead."""
    workers = os.cpu_count() or 1
    pending: deque[tuple[list[RawImage], Future[list[DecodedImage]]]] = deque()
    shown = tracked(raw, "decoding images", "images")
    with ThreadPoolExecutor(workers) as pool:
        try:
            for batch in _batches(shown):
                pending.append((batch, pool.submit(lambda batch: [decode_one(one, params) for one in batch], batch)))
                if len(pending) > 2 * workers:
                    images, future = pending.popleft()
                    yield from zip(images, future.result(), strict=True)
            for images, future in pending:
                yield from zip(images, future.result(), strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _batches(raw: Iterable[RawImage]) -> Iterator[list[RawImage]]:
    batch: list[RawImage] = []
    size = 0
    for image in raw:
        batch.append(image)
        size += len(image.content) if isinstance(image.content, bytes) else image.content.nbytes
        if len(batch) == _DECODE_BATCH or size > _DECODE_BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_dropped(cleaning: Cleaning, file: Path) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["name", "reason", "detail"])
        for index, (reason, detail) in sorted(cleaning.dropped.items()):
            writer.writerow([visible(cleaning.catalogue.names[index]), reason, visible(detail)])


def _draw_dropped(
    cleaning: Cleaning, classes: list[str], shape: tuple[int, ...], scratch: IO[bytes], file: Path
) -> None:
    catalogue = cleaning.catalogue
    by_reason: dict[str, list[int]] = {reason: [] for reason in REASONS}
    for index, (reason, _) in sorted(cleaning.dropped.items()):
        if len(by_reason[reason]) < MOST_IMAGES:
            by_reason[reason].append(index)
    nothing = np.zeros((0, *shape), np.uint8)
    images = {
        reason: _read_scratch(scratch, indices, shape) if indices and reason != "undecodable" else nothing
        for reason, indices in by_reason.items()
    }
    names = {
        reason: [f"{classes[catalogue.labels[index]]}/{catalogue.names[index].rpartition('/')[2]}" for index in indices]
        for reason, indices in by_reason.items()
    }
    write_dropped_picture(images, names, file)


def _moved(cleaning: Cleaning) -> dict[str, object]:
    """Return which images are not in the split of their own content, because of near duplicates or small classes."""
    names = [
        f"{cleaning.catalogue.names[index]}: {split} → {cleaning.splits[index]}"
        for index, split in sorted(cleaning.moved.items())
        if index in cleaning.splits
    ]
    return {"images": len(names), "first": [_escaped(name) for name in names[:_MOST_MOVED]]}


def _escaped(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def _metrics(cleaning: Cleaning, input_spec: InputSpec, params: Prepare) -> dict[str, object]:
    per_split = Counter(cleaning.splits.values())
    per_class = Counter((cleaning.catalogue.labels[index], split) for index, split in cleaning.splits.items())
    reasons = Counter(reason for reason, _ in cleaning.dropped.values())
    return {
        "classes": input_spec.classes,
        "num_classes": len(input_spec.classes),
        "image_size": params.image_size,
        "channels": params.channels,
        "resize": params.resize,
        "sample_range": params.sample_range,
        "normalization": params.normalization,
        "mean": input_spec.mean,
        "std": input_spec.std,
        "images": {"source": len(cleaning.catalogue)} | {split: per_split[split] for split in SPLITS},
        "dropped": {"total": len(cleaning.dropped)} | {reason: reasons[reason] for reason in REASONS},
        "exempt": {reason: sum(labels.values()) for reason, labels in cleaning.exempt.items()},
        "moved": _moved(cleaning),
        "per_class": {
            name: {split: per_class[label, split] for split in SPLITS} for label, name in enumerate(input_spec.classes)
        },
    }
