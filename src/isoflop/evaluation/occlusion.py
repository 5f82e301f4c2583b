"""Occlusion maps (Zeiler and Fergus 2014, section 4.2): what a prediction depends on, by hiding a part of the image.

``demo/saliency.js`` computes the same map in the browser.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from isoflop.data.arrays import Images, InputSpec
from isoflop.evaluation.scores import Floats, Logits

if TYPE_CHECKING:
    from torch import nn

MOST_POSITIONS = 11  # of the square along a side: 121 predictions an image
LEAST_CHANGE = 0.05  # of the probability: a smaller change is not worth a color or a sentence
_BATCH = 32  # images, which bounds the memory
_FOR, _AGAINST = (214, 90, 20), (40, 110, 190)  # colors of a drop and of a rise
_LEAST_SIDE = 96  # pixels of a drawn map, so that the outline is thin

Predict = Callable[[Images], Logits]  # uint8 [N, H, W, C] → probabilities [N, K]


@dataclass(frozen=True)
class Occlusion:
    """How hiding a square changes the probability of the predicted class, and the square of the largest drop."""

    drops: Floats  # [H, W]: the drop of the probability when the square around the pixel is hidden; negative for a rise
    probability: float
    largest: float  # drop
    row: int  # of the pixel in the middle of that square
    column: int
    reach: int  # pixels from the middle to the edge of the square

    @property
    def matters(self) -> bool:
        return self.largest >= LEAST_CHANGE


def predictor(net: nn.Module, spec: InputSpec) -> Predict:
    """Return a function that predicts probabilities with ``net`` on the CPU."""
    import torch

    from isoflop.data.normalization import normalize

    def predict(images_NHWC: Images) -> Floats:
        with torch.inference_mode():
            parts = [
                net(normalize(torch.from_numpy(images_NHWC[start : start + _BATCH]), spec)).double().softmax(1).numpy()
                for start in range(0, len(images_NHWC), _BATCH)
            ]
        return np.concatenate(parts)

    return predict


def occlude(predict: Predict, image_HWC: Images) -> Occlusion:
    """Hide a square of the image's mean color around evenly spaced pixels, and predict each time.

    The square is a fifth of the image wide, and less at the border, which it may cross. Between these pixels the drop
    is interpolated linearly, so the map peaks in the middle of the square of the largest drop.
    """
    size = image_HWC.shape[0]
    reach = max(1, size // 10)
    middles = positions_along(size)
    color = np.floor(image_HWC.mean((0, 1)) + 0.5).astype(np.uint8)
    hidden = np.repeat(image_HWC[None], 1 + len(middles) ** 2, 0)  # the first stays as it is
    places = [(row, column) for row in middles for column in middles]
    for copy, place in zip(hidden[1:], places, strict=True):
        copy[_square(place, reach)] = color
    shares_PK = predict(hidden).astype(np.float64)
    target = int(shares_PK[0].argmax())
    probability = float(shares_PK[0, target])
    drops = probability - shares_PK[1:, target]
    best = int(drops.argmax())
    grid = drops.reshape(len(middles), len(middles))
    rows = np.stack([np.interp(np.arange(size), middles, line) for line in grid])
    map_HW = np.stack([np.interp(np.arange(size), middles, column) for column in rows.T], axis=1)
    return Occlusion(map_HW, probability, float(drops[best]), *places[best], reach)


def positions_along(size: int) -> list[int]:
    """Return evenly spaced pixels, from border to border."""
    count = min(size, MOST_POSITIONS)
    return [int(index * (size - 1) / (count - 1) + 0.5) if count > 1 else 0 for index in range(count)]


def _square(middle: tuple[int, int], reach: int, scale: int = 1) -> tuple[slice, slice]:
    rows, columns = (slice(scale * max(0, at - reach), scale * (at + reach + 1)) for at in middle)
    return rows, columns


def draw(image_HWC: Images, found: Occlusion) -> Images:
    """Return the image in pale gray, uint8 [H, W, 3]: drops in orange, rises in blue, the largest drop outlined.

    Colors are scaled to the largest change, or to ``LEAST_CHANGE`` if that is larger. A small image is enlarged.
    """
    weights = np.array([0.299, 0.587, 0.114]) if image_HWC.shape[2] == 3 else np.ones(1)
    gray_HW = 70 + 0.5 * (image_HWC @ weights)
    strength_HW = 0.9 * np.minimum(1, np.abs(found.drops) / max(float(np.abs(found.drops).max()), LEAST_CHANGE))
    color_HW3 = np.where((found.drops > 0)[..., None], np.array(_FOR), np.array(_AGAINST))
    drawn = gray_HW[..., None] + strength_HW[..., None] * (color_HW3 - gray_HW[..., None])
    factor = max(1, _LEAST_SIDE // len(drawn))
    pixels: Images = drawn.astype(np.uint8).repeat(factor, 0).repeat(factor, 1)
    if found.matters:
        inside = pixels[_square((found.row, found.column), found.reach, factor)]
        inside[:2] = inside[-2:] = inside[:, :2] = inside[:, -2:] = 255
    return pixels


def in_words(found: Occlusion) -> str:
    """What hiding the outlined square does to the probability."""
    if not found.matters:
        return f"no square lowers it by {100 * LEAST_CHANGE:.0f} pp"
    return f"without the square: {100 * (found.probability - found.largest):.1f} %"
