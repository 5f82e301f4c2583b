"""Batches by indexing: images stay uint8, a batch is one gather, and no Python runs per sample.

Everything drawn at random is a function of (seed, epoch), so a training that is taken up again sees the same batches.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoflop.arrays import Images, Split
from isoflop.errors import UserError
from isoflop.selection import hard_first, shuffled


class Batch(NamedTuple):
    """What a step learns from."""

    images: Tensor  # uint8 [B, H, W, C]
    labels: Tensor  # int64 [B]
    weights: Tensor  # float32 [B], of the losses
    numbers: Tensor  # int64 [B], of the images in their split


_EVAL_BATCH = 512


@dataclass(frozen=True)
class TrainingImages:
    """The images to learn from: those numbered ``indices`` of a split, each as itself or one of its K views."""

    split: Split
    views: Images  # K, N, H, W, C
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)


def all_images(split: Split, views: Images) -> TrainingImages:
    """Every image of the split.

    Raises:
        UserError: the views are of other images.
    """
    if views.shape[1:] != split.images.shape:
        raise UserError(
            f"data/augmented: found views of images {list(views.shape[1:])}, expected {list(split.images.shape)}; "
            "`dvc repro` makes them anew"
        )
    return TrainingImages(split, views, np.arange(len(split)))


def subset(images: TrainingImages, fraction: float, seed: int) -> TrainingImages:
    """``fraction`` of each class, at least one image; a smaller fraction with the same seed is contained in it."""
    kept = []
    labels = images.split.labels[images.indices]
    for label in range(images.split.num_classes):
        members = images.indices[labels == label]
        order = np.random.default_rng([seed, label]).permutation(len(members))
        kept.append(members[order[: max(1, round(fraction * len(members)))]])
    return TrainingImages(images.split, images.views, np.sort(np.concatenate(kept)))


class TrainingBatches:
    """The batches of epoch ``epoch`` (set it before iterating): each image once, in an order drawn anew.

    With ``losses`` (set them too: the last loss of each image of the split), easy images come less often, see
    ``isoflop.selection``.

    Image i enters as view (offset_i + epoch) mod (K + 1), where view 0 is the image itself. The sizes of the batches of
    an epoch differ by at most one, so none is too small for batch statistics. Of ``world`` processes each takes its
    share of every batch, in ``micro_batches`` parts one after the other: the global batch stays ``batch_size``.
    """

    def __init__(
        self,
        images: TrainingImages,
        batch_size: int,
        *,
        flip: str,
        shift: int,
        cutout: int,
        skip_easy: float = 0.0,
        seed: int,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        micro_batches: int = 1,
    ) -> None:
        if batch_size > len(images):
            raise UserError(
                f"params.yaml: recipe.batch_size: found {batch_size}, expected at most the number of training images, "
                f"{len(images)}"
            )
        if batch_size < world * micro_batches:
            raise UserError(
                f"params.yaml: recipe.batch_size: found {batch_size}, expected at least an image for each of the "
                f"{world} processes times train.micro_batches {micro_batches}"
            )
        self.epoch = 0
        self.losses: npt.NDArray[np.float32] | None = None
        self._images = images
        self.steps = max(1, round(len(images) / batch_size))  # of the optimizer, an epoch
        self._flip, self._shift, self._cutout, self._skip_easy = flip, shift, cutout, skip_easy
        self._seed, self._device, self._rank, self._world = seed, device, rank, world
        self._micro_batches = micro_batches
        self._fill = torch.tensor([round(255 * mean) for mean in images.split.meaning.mean], dtype=torch.uint8)
        rng = np.random.default_rng([seed, 0])
        self._offsets = rng.integers(0, 1 + len(images.views), len(images.split))
        self._first_flips = rng.random(len(images.split)) < 0.5

    def __len__(self) -> int:
        return self.steps * self._micro_batches

    def __iter__(self) -> Iterator[Batch]:
        rng = np.random.default_rng([self._seed, 1, self.epoch])
        indices = self._images.indices
        if self.losses is None or not self._skip_easy:
            order, weights = shuffled(indices, rng)
        else:
            order, weights = hard_first(indices, self.losses[indices], self._skip_easy, rng)
        for places in np.array_split(np.arange(len(order)), self.steps):
            draws = self._draw(rng, len(places))
            mine = np.arange(self._rank, len(places), self._world)
            for part in np.array_split(mine, self._micro_batches):
                yield self._batch(order[places[part]], weights[places[part]], draws[part])

    def _batch(
        self, indices: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], draws: npt.NDArray[np.float64]
    ) -> Batch:
        images_BHWC = torch.from_numpy(self._take(indices)).to(self._device, non_blocking=True)
        others = self._images.split.labels[indices], weights, indices
        labels_B, weights_B, numbers_B = (torch.from_numpy(one).to(self._device, non_blocking=True) for one in others)
        flips_B = self._flips(indices, draws[:, 0])
        shifts_B2 = np.floor(draws[:, 1:3] * (2 * self._shift + 1)).astype(np.int64) - self._shift
        images_BHWC = _moved(images_BHWC, flips_B, shifts_B2) if self._moves else images_BHWC
        if self._cutout:
            _cut(images_BHWC, draws[:, 3:5], self._cutout, self._fill)
        return Batch(images_BHWC, labels_B, weights_B, numbers_B)

    @property
    def _moves(self) -> bool:
        return self._flip != "none" or self._shift > 0

    def _draw(self, rng: np.random.Generator, count: int) -> npt.NDArray[np.float64]:
        return rng.random((count, 5))  # flip, shift down, shift right, centre of the cutout

    def _take(self, indices: npt.NDArray[np.int64]) -> Images:
        images = self._images
        view = (self._offsets[indices] + self.epoch) % (1 + len(images.views))
        if not len(images.views):
            return np.asarray(images.split.images[indices])
        taken = np.array(images.views[view - 1, indices])  # view 0 takes the last one, and is replaced below
        itself = view == 0
        taken[itself] = images.split.images[indices[itself]]
        return taken

    def _flips(self, indices: npt.NDArray[np.int64], draws: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        if self._flip == "alternating":  # K. Jordan 2024: each image is mirrored every other epoch
            flips: npt.NDArray[np.bool_] = self._first_flips[indices] ^ bool(self.epoch % 2)
            return flips
        return (draws < 0.5) & (self._flip == "random")


def evaluation_batches(split: Split, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """All images of ``split`` in order, uint8 [B, H, W, C], and their labels int64 [B]."""
    for start in range(0, len(split), _EVAL_BATCH):
        images_BHWC = torch.from_numpy(np.array(split.images[start : start + _EVAL_BATCH]))
        labels_B = torch.from_numpy(split.labels[start : start + _EVAL_BATCH])
        yield images_BHWC.to(device), labels_B.to(device)


def _moved(images_BHWC: Tensor, flips_B: npt.NDArray[np.bool_], shifts_B2: npt.NDArray[np.int64]) -> Tensor:
    """Mirror and translate (edges reflected) each image, in one gather."""
    batch, height, width, _ = images_BHWC.shape
    rows_BH = _reflected(np.arange(height) + shifts_B2[:, :1], height)
    columns_BW = _reflected(np.arange(width) + shifts_B2[:, 1:], width)
    columns_BW = np.where(flips_B[:, None], width - 1 - columns_BW, columns_BW)
    device = images_BHWC.device
    rows, columns = torch.from_numpy(rows_BH).to(device), torch.from_numpy(columns_BW).to(device)
    return images_BHWC[torch.arange(batch, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]]


def _reflected(positions: npt.NDArray[np.int64], size: int) -> npt.NDArray[np.int64]:
    if size == 1:
        return np.zeros_like(positions)
    positions = np.abs(positions) % (2 * size - 2)
    return np.minimum(positions, 2 * size - 2 - positions)


def _cut(images_BHWC: Tensor, centres_B2: npt.NDArray[np.float64], side: int, fill_C: Tensor) -> None:
    """Fill a square of ``side`` pixels around each centre (as a share of the image) with ``fill``, in place.

    DeVries and Taylor 2017: the square may lie partly outside.
    """
    masks = []
    for axis, size in enumerate(images_BHWC.shape[1:3]):
        first_B = np.floor(centres_B2[:, axis] * size).astype(np.int64) - side // 2
        positions = np.arange(size)
        masks.append((positions >= first_B[:, None]) & (positions < first_B[:, None] + side))
    mask_BHW = torch.from_numpy(masks[0][:, :, None] & masks[1][:, None, :]).to(images_BHWC.device)
    images_BHWC[mask_BHW] = fill_C.to(images_BHWC.device)
