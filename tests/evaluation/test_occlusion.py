"""Occlusion maps find evidence that was planted, and state nothing where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from isoflop.evaluation.occlusion import draw, in_words, occlude, positions_along

Images = npt.NDArray[np.uint8]
SIDE, PATCH = 40, 8  # pixels


def planted(seed: int, channels: int) -> tuple[Images, int, int]:
    """Noise with a checkerboard at a random place; the image, and the place."""
    rng = np.random.default_rng(seed)
    image = rng.integers(90, 166, (SIDE, SIDE, channels)).astype(np.uint8)
    top, left = rng.integers(0, SIDE - PATCH + 1, 2)
    board = np.where(np.indices((PATCH, PATCH)).sum(0) % 2, 255, 0).astype(np.uint8)
    image[top : top + PATCH, left : left + PATCH] = board[..., None]
    return image, int(top), int(left)


def finds_checkerboards(images_NHWC: Images) -> npt.NDArray[np.float64]:
    """A classifier by a matched filter: its only evidence is the checkerboard, wherever it is."""
    from scipy.signal import fftconvolve

    signs = np.where(np.indices((PATCH, PATCH)).sum(0) % 2, 1.0, -1.0)
    found = [np.abs(fftconvolve(image.mean(2) - 128.0, signs, mode="valid")).max() for image in images_NHWC]
    share_N = 1 / (1 + np.exp(-(np.array(found) / (PATCH**2 * 127.5) - 0.5) * 12))
    return np.stack([1 - share_N, share_N], 1)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_map_peaks_on_planted_evidence(channels: int) -> None:
    for seed in range(20):
        image, top, left = planted(seed, channels)
        found = occlude(finds_checkerboards, image)
        assert found.probability > 0.99 and found.matters
        peak = np.unravel_index(found.drops.argmax(), found.drops.shape)
        assert tuple(map(int, peak)) == (found.row, found.column), "the outlined square is around the peak of the map"
        assert top <= found.row < top + PATCH and left <= found.column < left + PATCH, f"seed {seed}: on the evidence"
        far = np.ones(found.drops.shape, bool)
        far[max(0, top - 12) : top + PATCH + 12, max(0, left - 12) : left + PATCH + 12] = False
        assert np.abs(found.drops[far]).max(initial=0) < 0.02


def test_no_evidence_no_claim() -> None:
    image, *_ = planted(0, 3)
    found = occlude(lambda images: np.tile([0.25, 0.75], (len(images), 1)), image)
    assert not found.matters and in_words(found) == "no square lowers it by 5 pp"
    drawn = draw(image, found)
    assert (drawn[..., 0] == drawn[..., 1]).all() and not (drawn == 255).any()  # gray, without an outline


def test_the_picture_is_orange_on_the_evidence_and_names_the_drop() -> None:
    image, top, left = planted(3, 1)
    found = occlude(finds_checkerboards, image)
    drawn = draw(image, found).astype(int)
    scale = len(drawn) // SIDE
    inside = drawn[scale * (top + 2) : scale * (top + 6), scale * (left + 2) : scale * (left + 6)]
    assert (inside[..., 0] - inside[..., 2]).mean() > 60
    assert in_words(found) == f"without the square: {100 * (found.probability - found.largest):.1f} %"


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 224])
def test_every_size_of_image_has_a_map(size: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3)).astype(np.uint8)

    def brightness(images: Images) -> Any:
        share = images.mean((1, 2, 3)) / 255
        return np.stack([share, 1 - share], 1)

    found = occlude(brightness, image)
    assert found.drops.shape == (size, size) and draw(image, found).shape[2] == 3
    middles = positions_along(size)
    assert middles[0] == 0 and middles[-1] == size - 1 and len(set(middles)) == len(middles) <= 11
