"""Training batches by indexing: images stay uint8, a batch is one gather, and no Python runs per sample.

Everything drawn at random is a function of (seed, epoch), so a training that is taken up again sees the same batches.
It is drawn for a whole epoch and sent to the device at once, so that a step waits for nothing.
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
from isoflop.training.selection import hard_first, shuffled


class Batch(NamedTuple):
    """What a step learns from."""

    images: Tensor  # uint8 [B, H, W, C]
    labels: Tensor  # int64 [B]
    weights: Tensor  # float32 [B], of the losses
    numbers: Tensor  # int64 [B], of the images in their split


@dataclass(frozen=True)
class _Draws:
    """What an epoch draws, on the device and in order: N draws."""

    numbers_N: Tensor  # of the images
    views_N: Tensor  # 0 is the image itself
    weights_N: Tensor
    flips_N: Tensor  # bool
    shifts_N2: Tensor  # pixels down and right
    centres_N2: Tensor  # of the cutout, as a share of the image

    def part(self, places: slice) -> _Draws:
        return _Draws(*(values[places] for values in vars(self).values()))

    def to(self, device: torch.device) -> _Draws:
        return _Draws(*(values.to(device) for values in vars(self).values()))


class TrainingBatches:
    """The batches of epoch ``epoch`` (set it before iterating): each image once, in an order drawn anew.

    With ``recipe.infobatch`` and ``losses`` (set them too: the last loss of each image of the split), easy images come
    less often, see ``isoflop.training.selection``.

    Image i enters as view (offset_i + epoch) mod (K + 1), where view 0 is the image itself. The sizes of the batches of
    an epoch differ by at most one, so none is too small for batch statistics. Of ``world`` processes each takes its
    share of every batch, in ``accumulate_grad_batches`` parts one after the other: the global batch stays
    ``recipe.batch_size``.

    With ``poisson`` every step's batch has each image with probability 1 / steps, drawn from the machine's entropy, as
    private training asks; it may be empty.
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
        if recipe.batch_size > len(images):
            raise UserError(
                f"params.yaml: recipe.batch_size: found {recipe.batch_size}, expected at most the number of training "
                f"images, {len(images)}"
            )
        fewest = int(len(images) * (1 - recipe.infobatch)) // steps_an_epoch(len(images), recipe)
        if fewest < world * accumulate_grad_batches:
            raise UserError(
                f"params.yaml: recipe.batch_size: found {recipe.batch_size}, which makes batches of {fewest} images or "
                f"more, expected an image for each of the {world} processes times "
                f"train.accumulate_grad_batches {accumulate_grad_batches}"
            )
        self.epoch = 0
        self.losses: npt.NDArray[np.float32] | None = None
        self.steps = steps_an_epoch(len(images), recipe)
        self._poisson = poisson
        self._images, self._recipe, self._seed, self._device = images, recipe, seed, device
        self._rank, self._world, self._micro_batches = rank, world, accumulate_grad_batches
        self._stored = _stored(images.split.images, device)
        self._stored_views = _stored(images.views, device)
        self._labels = torch.from_numpy(images.split.labels).to(device)
        fill = [round(255 * mean) for mean in images.split.input_spec.mean]
        self._fill_C = torch.tensor(fill, dtype=torch.uint8, device=device)
        rng = np.random.default_rng([seed, 0])
        self._offsets = rng.integers(0, 1 + len(images.views), len(images.split))
        self._first_flips = rng.random(len(images.split)) < 0.5

    def __len__(self) -> int:
        return self.steps * self._micro_batches

    def __iter__(self) -> Iterator[Batch]:
        if self._poisson:
            yield from self._poisson_batches()
            return
        draws = self._draw().to(self._device)
        for places in np.array_split(np.arange(len(draws.numbers_N)), self.steps):
            for part in np.array_split(places[self._rank :: self._world], self._micro_batches):
                yield self._batch(draws.part(slice(int(part[0]), int(part[-1]) + 1, self._world)))

    def _poisson_batches(self) -> Iterator[Batch]:
        rng = np.random.default_rng()
        for _ in range(self.steps):
            numbers = self._images.indices[rng.random(len(self._images)) * self.steps < 1]
            yield self._batch(self._placed(numbers, np.ones(len(numbers), np.float32), rng).to(self._device))

    def _draw(self) -> _Draws:
        rng = np.random.default_rng([self._seed, 1, self.epoch])
        indices, skip = self._images.indices, self._recipe.infobatch
        if self.losses is None or not skip:
            return self._placed(*shuffled(indices, rng), rng)
        return self._placed(*hard_first(indices, self.losses[indices], skip, rng), rng)

    def _placed(
        self, numbers: npt.NDArray[np.int64], weights: npt.NDArray[np.float32], rng: np.random.Generator
    ) -> _Draws:
        """How each of the images ``numbers`` enters."""
        recipe = self._recipe
        drawn = rng.random((len(numbers), 5))  # flip, shift down, shift right, centre of the cutout
        views = (self._offsets[numbers] + self.epoch) % (1 + len(self._images.views))
        shifts = np.floor(drawn[:, 1:3] * (2 * recipe.shift + 1)).astype(np.int64) - recipe.shift
        parts = numbers, views, weights, self._flips(numbers, drawn[:, 0]), shifts, drawn[:, 3:5]
        return _Draws(*(torch.from_numpy(np.ascontiguousarray(part)) for part in parts))

    def _flips(self, numbers: npt.NDArray[np.int64], draws: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
        if self._recipe.flip == "alternating":  # K. Jordan 2024: each image is mirrored every other epoch
            flips: npt.NDArray[np.bool_] = self._first_flips[numbers] ^ bool(self.epoch % 2)
            return flips
        return (draws < 0.5) & (self._recipe.flip == "random")

    def _batch(self, draws: _Draws) -> Batch:
        images_BHWC = self._take(draws)
        if self._recipe.cutout:
            _cut(images_BHWC, draws.centres_N2, self._recipe.cutout, self._fill_C)
        return Batch(images_BHWC, self._labels[draws.numbers_N], draws.weights_N, draws.numbers_N)

    def _take(self, draws: _Draws) -> Tensor:
        """The images, moved, in one gather from where they are stored."""
        place = self._stored.device
        height, width = self._stored.shape[1:3]
        rows_BH = _reflected(torch.arange(height, device=self._device) + draws.shifts_N2[:, :1], height)
        columns_BW = _reflected(torch.arange(width, device=self._device) + draws.shifts_N2[:, 1:], width)
        columns_BW = torch.where(draws.flips_N[:, None], width - 1 - columns_BW, columns_BW)
        numbers_B, rows_BH, columns_BW = draws.numbers_N.to(place), rows_BH.to(place), columns_BW.to(place)
        pixels: tuple[Tensor, ...] = numbers_B[:, None, None], rows_BH[:, :, None], columns_BW[:, None, :]
        taken = self._stored[pixels].to(self._device)
        if not len(self._stored_views):
            return taken
        place = self._stored_views.device
        views_B = draws.views_N.to(place)[:, None, None]
        pixels = tuple(one.to(place) for one in pixels)
        others = self._stored_views[(views_B.clamp(min=1) - 1, *pixels)].to(self._device)
        return torch.where(draws.views_N[:, None, None, None] == 0, taken, others)


def steps_an_epoch(images: int, recipe: Recipe) -> int:
    """Of the optimizer."""
    return max(1, round(images / recipe.batch_size))


def _stored(images: Images, device: torch.device) -> Tensor:
    """The images on the device if they take at most half of what is free there; else the file that holds them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        mapped = torch.from_numpy(images)
    if device.type == "cuda" and mapped.nbytes > torch.cuda.mem_get_info(device)[0] // 2:
        return mapped
    return mapped.to(device)


def _reflected(positions: Tensor, size: int) -> Tensor:
    """Positions outside of 0 to size - 1 mirrored at the edge pixels."""
    if size == 1:
        return torch.zeros_like(positions)
    positions = positions.abs() % (2 * size - 2)
    return torch.minimum(positions, 2 * size - 2 - positions)


def _cut(images_BHWC: Tensor, centres_B2: Tensor, side: int, fill_C: Tensor) -> None:
    """Fill a square of ``side`` pixels around each centre (as a share of the image) with ``fill``, in place.

    DeVries and Taylor 2017: the square may lie partly outside.
    """
    masks = []
    for axis, size in enumerate(images_BHWC.shape[1:3]):
        first_B1 = (centres_B2[:, axis, None] * size).floor().long() - side // 2
        positions = torch.arange(size, device=images_BHWC.device)
        masks.append((positions >= first_B1) & (positions < first_B1 + side))
    mask_BHW = masks[0][:, :, None] & masks[1][:, None, :]
    images_BHWC.copy_(torch.where(mask_BHW[..., None], fill_C, images_BHWC))
