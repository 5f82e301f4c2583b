"""Training batches by indexing: images stay uint8, a batch is one gather, and no Python code runs per image.

All random draws are functions of (seed, epoch), so a resumed training sees the same batches. They are drawn for a whole
epoch and copied to the device at once, so that no step waits for them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoflop.data.arrays import Images
from isoflop.data.loading import TrainingImages
from isoflop.runtime.errors import UserError
from isoflop.training.recipe import Recipe

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]


class Batch(NamedTuple):
    """The input of a training step."""

    images: Tensor  # uint8 [B, H, W, C]
    labels: Tensor  # int64 [B]
    weights: Tensor  # float32 [B], of the losses
    indices: Tensor  # int64 [B], of the images in their split


@dataclass(frozen=True)
class _Draws:
    """The random draws of an epoch, in order: N images."""

    indices_N: Tensor  # of the images in their split
    views_N: Tensor  # 0 is the image itself
    weights_N: Tensor
    flips_N: Tensor  # bool
    shifts_N2: Tensor  # pixels down and right
    centers_N2: Tensor  # of the cutout, as a fraction of the image's sides

    def part(self, positions: slice) -> _Draws:
        return _Draws(*(values[positions] for values in vars(self).values()))

    def to(self, device: torch.device) -> _Draws:
        return _Draws(*(values.to(device) for values in vars(self).values()))


class TrainingBatches:
    """The batches of epoch ``epoch`` (set it before iterating): each image once, in a new order.

    With ``recipe.infobatch`` and ``losses`` (the latest loss of each image of the split; set it before iterating) easy
    images are drawn less often, see ``infobatch_draws``.

    Image i is shown as view (offset_i + epoch) mod (K + 1), where view 0 is the image itself. The batch sizes of an
    epoch differ by at most 1, so none is too small for batch statistics. Each of ``world`` processes takes its part of
    every batch, split further into ``accumulate_grad_batches`` parts: the global batch size stays
    ``recipe.batch_size``.

    With ``poisson`` each step's batch contains each image with probability 1 / steps, drawn from the OS's entropy, as
    differentially private training requires; a batch may be empty.
    """

    def __init__(
        self,
        images: TrainingImages,
        recipe: Recipe,
        seed: int,
        *,
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        accumulate_grad_batches: int = 1,
        poisson: bool = False,
    ) -> None:
        check_batch_size(len(images), recipe, world, accumulate_grad_batches)
        self.epoch = 0
        self.losses: Floats | None = None
        self.steps = steps_an_epoch(len(images), recipe)
        self._poisson = poisson
        self._images, self._recipe, self._seed, self._device = images, recipe, seed, device
        self._rank, self._world, self._parts = rank, world, accumulate_grad_batches
        self._stored = _stored(images.split.images, device)
        self._stored_views = _stored(images.views, device)
        self._labels = torch.from_numpy(images.split.labels).to(device)
        fill = [round(255 * mean) for mean in images.split.input_spec.mean]
        self._fill_C = torch.tensor(fill, dtype=torch.uint8, device=device)
        rng = np.random.default_rng([seed, 0])
        self._offsets = rng.integers(0, 1 + len(images.views), len(images.split))
        self._first_flips = rng.random(len(images.split)) < 0.5

    def __len__(self) -> int:
        return self.steps * self._parts

    def __iter__(self) -> Iterator[Batch]:
        if self._poisson:
            yield from self._poisson_batches()
            return
        draws = self._draw().to(self._device)
        for positions in np.array_split(np.arange(len(draws.indices_N)), self.steps):
            for part in np.array_split(positions[self._rank :: self._world], self._parts):
                yield self._batch(draws.part(slice(int(part[0]), int(part[-1]) + 1, self._world)))

    def _poisson_batches(self) -> Iterator[Batch]:
        rng = np.random.default_rng()
        for _ in range(self.steps):
            indices = self._images.indices[rng.random(len(self._images)) * self.steps < 1]
            yield self._batch(self._augmented(indices, np.ones(len(indices), np.float32), rng).to(self._device))

    def _draw(self) -> _Draws:
        rng = np.random.default_rng([self._seed, 1, self.epoch])
        indices, infobatch = self._images.indices, self._recipe.infobatch
        if self.losses is None or not infobatch:
            return self._augmented(rng.permutation(indices), np.ones(len(indices), np.float32), rng)
        return self._augmented(*infobatch_draws(indices, self.losses[indices], infobatch, rng), rng)

    def _augmented(self, indices: Indices, weights: Floats, rng: np.random.Generator) -> _Draws:
        """Draw the view, flip, shift and cutout of each image of ``indices``."""
        recipe = self._recipe
        drawn = rng.random((len(indices), 5))  # flip, shift down, shift right, center of the cutout
        views = (self._offsets[indices] + self.epoch) % (1 + len(self._images.views))
        shifts = np.floor(drawn[:, 1:3] * (2 * recipe.shift + 1)).astype(np.int64) - recipe.shift
        parts = indices, views, weights, self._flips(indices, drawn[:, 0]), shifts, drawn[:, 3:5]
        return _Draws(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))

    def _flips(self, indices: Indices, draws: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        if self._recipe.flip == "alternating":  # K. Jordan 2024: each image is mirrored every other epoch
            flips: npt.NDArray[np.bool_] = self._first_flips[indices] ^ bool(self.epoch % 2)
            return flips
        return (draws < 0.5) & (self._recipe.flip == "random")

    def _batch(self, draws: _Draws) -> Batch:
        images_BHWC = self._gathered(draws)
        if self._recipe.cutout:
            _cut(images_BHWC, draws.centers_N2, self._recipe.cutout, self._fill_C)
        return Batch(images_BHWC, self._labels[draws.indices_N], draws.weights_N, draws.indices_N)

    def _gathered(self, draws: _Draws) -> Tensor:
        """The flipped and shifted images, in one gather from where they are stored."""
        store = self._stored.device
        height, width = self._stored.shape[1:3]
        rows_BH = _reflected(torch.arange(height, device=self._device) + draws.shifts_N2[:, :1], height)
        columns_BW = _reflected(torch.arange(width, device=self._device) + draws.shifts_N2[:, 1:], width)
        columns_BW = torch.where(draws.flips_N[:, None], width - 1 - columns_BW, columns_BW)
        indices_B, rows_BH, columns_BW = draws.indices_N.to(store), rows_BH.to(store), columns_BW.to(store)
        pixels: tuple[Tensor, ...] = indices_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]
        originals = self._stored[pixels].to(self._device)
        if not len(self._stored_views):
            return originals
        store = self._stored_views.device
        views_B = draws.views_N.to(store)[:, None, None]
        pixels = tuple(one.to(store) for one in pixels)
        others = self._stored_views[(views_B.clamp(min=1) - 1, *pixels)].to(self._device)
        return torch.where(draws.views_N[:, None, None, None] == 0, originals, others)


def steps_an_epoch(images: int, recipe: Recipe) -> int:
    """Return the number of optimizer steps in an epoch of ``images`` images."""
    return max(1, round(images / recipe.batch_size))


def check_batch_size(images: int, recipe: Recipe, world: int, accumulate_grad_batches: int) -> None:
    """Check that each part of each batch has an image, of ``world`` processes and ``accumulate_grad_batches`` parts.

    Raises:
        UserError: the batch is larger than the data, or smaller than the number of its parts.
    """
    if recipe.batch_size > images:
        raise UserError(
            f"params.yaml: recipe.batch_size: got {recipe.batch_size}, expected at most the number of training "
            f"images, {images}"
        )
    smallest = int(images * (1 - recipe.infobatch)) // steps_an_epoch(images, recipe)
    if smallest < world * accumulate_grad_batches:
        raise UserError(
            f"params.yaml: recipe.batch_size: got {recipe.batch_size}, where the smallest batch has {smallest} images, "
            f"expected at least one image for each of {world} processes times "
            f"train.accumulate_grad_batches {accumulate_grad_batches}"
        )


def infobatch_draws(
    indices: Indices, losses_N: Floats, infobatch: float, rng: np.random.Generator
) -> tuple[Indices, Floats]:
    """Draw an epoch by InfoBatch (Qin et al. 2024): easy images less often, with a larger weight.

    An image is easy if its latest loss is below the mean. A pass leaves each easy image out with probability
    ``infobatch`` and weights the others by 1 / (1 - infobatch), so that the expected gradient is that of a pass over
    all images. Unlike in the paper, the next pass fills the epoch up: an epoch always costs the same, and shows hard
    images more often.

    Args:
        indices: of the N images.
        losses_N: the latest loss of each of them.

    Returns:
        Indices [N] and weights [N], in the order of the draws.
    """
    easy_N = losses_N < losses_N.mean()
    passes: list[Indices] = []
    while sum(map(len, passes)) < len(indices):
        kept_N = ~easy_N | (rng.random(len(indices)) >= infobatch)
        passes.append(rng.permutation(np.flatnonzero(kept_N)))
    positions_N = np.concatenate(passes)[: len(indices)]
    weights_N = np.where(easy_N[positions_N], 1 / (1 - infobatch), 1.0).astype(np.float32)
    return indices[positions_N], weights_N


def _stored(images: Images, device: torch.device) -> Tensor:
    """The images on the device if they take at most half of its free memory; otherwise the memory-mapped file."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        mapped = torch.from_numpy(images)
    if device.type == "cuda" and mapped.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return mapped
    return mapped.to(device)


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Positions outside of 0 to size - 1, mirrored at the edge pixels."""
    if size == 1:
        return torch.zeros_like(positions)
    positions = positions.abs() % (2 * size - 2)
    return torch.minimum(positions, 2 * size - 2 - positions)


def _cut(images_BHWC: Tensor, centers_B2: Tensor, side: int, fill_C: Tensor) -> None:
    """Cutout (DeVries and Taylor 2017): fill a square of ``side`` pixels around each center, in place.

    The center is a fraction of the image's sides; the square may lie partly outside.
    """
    masks = []
    for axis, size in enumerate(images_BHWC.shape[1:3]):
        first_B1 = (centers_B2[:, axis, None] * size).floor().long() - side // 2
        positions = torch.arange(size, device=images_BHWC.device)
        masks.append((positions >= first_B1) & (positions < first_B1 + side))
    mask_BHW = masks[0][:, :, None] & masks[1][:, None, :]
    images_BHWC.copy_(torch.where(mask_BHW[..., None], fill_C, images_BHWC))
