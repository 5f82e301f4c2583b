"""Convert decoded images of any mode to 8 bits: mode L for a grayscale source, else RGB.

Large images are converted in strips: all at once, 16-bit samples and transparency would take several times the memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

_STRIP_PIXELS = 1 << 22

SampleRange = Sequence[float]  # two: the samples that become black and white


def eight_bit(image: Image.Image, sample_range: SampleRange | None = None) -> Image.Image:
    """Convert ``image``: transparency is composited over white, color profiles are ignored.

    Args:
        sample_range: scale of 16-bit, 32-bit and float samples. None: from 0 to the white level, which is 65535 for
            16-bit samples. For 32-bit samples it is the smallest of 255 and 65535 (for floats also 1) that no sample
            exceeds, as is common in 32-bit TIFFs. If there is none, or a sample is negative, the white level is
            unknown: the darkest sample becomes black and the brightest white.

    Raises:
        ValueError: samples are not finite.
    """
    if is_deep(image):
        low, high = sample_range or _black_and_white(image)
        return _in_strips(image, "L", lambda strip: Image.fromarray(_scaled(np.asarray(strip), low, high)))
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if "A" in image.mode.upper().removeprefix("LAB") or "transparency" in image.info:
        return _in_strips(image, mode, lambda strip: _over_white(strip).convert(mode))
    if image.mode == "LAB":
        return _in_strips(image, mode, _from_lab)
    return image if image.mode == mode else _in_strips(image, mode, lambda strip: strip.convert(mode))


def is_deep(image: Image.Image) -> bool:
    """Return whether ``image`` has one channel of more than 8 bits. Pillow reduces several such channels itself."""
    return image.mode.startswith("I") or image.mode == "F"


def sample_extent(image: Image.Image) -> tuple[float, float]:
    """Return the smallest and largest sample of a deep image.

    Raises:
        ValueError: samples are not finite.
    """
    extents = [(float(samples.min()), float(samples.max())) for samples in map(np.asarray, _strips(image))]
    if not np.isfinite(extents).all():
        raise ValueError("samples are not finite")
    return min(low for low, _ in extents), max(high for _, high in extents)


def white_level(image: Image.Image, low: float, high: float) -> float | None:
    """Return the white level of a deep image with samples from ``low`` to ``high``; None if it is unknown."""
    whites = (65535.0,) if image.mode.startswith("I;16") else (255.0, 65535.0)
    whites = (1.0, *whites) if image.mode == "F" else whites
    return next((white for white in whites if high <= white), None) if low >= 0 else None


def _black_and_white(image: Image.Image) -> tuple[float, float]:
    low, high = sample_extent(image)
    white = white_level(image, low, high)
    return (low, max(high, low + 1e-12)) if white is None else (0.0, white)


def _scaled(samples: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    if samples.dtype.itemsize == 2:  # a table is faster and smaller than floats
        levels: npt.NDArray[np.uint8] = _levels(np.arange(65536), low, high)[samples]
        return levels
    return _levels(samples, low, high)


def _levels(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    scaled: npt.NDArray[np.float64] = (values.astype(np.float64) - low) * (255 / (high - low))
    return np.rint(np.clip(scaled, 0, 255)).astype(np.uint8)


def _over_white(image: Image.Image) -> Image.Image:
    # premultiplied modes (La, RGBa) convert only to their straight counterparts
    straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), straight)


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
    assert converted is not None  # None is only returned for an in-place transform
    return converted


def _in_strips(image: Image.Image, mode: str, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    if image.width * image.height <= _STRIP_PIXELS:
        return convert(image)
    whole = Image.new(mode, image.size)
    top = 0
    for strip in _strips(image):
        whole.paste(convert(strip), (0, top))
        top += strip.height
    return whole


def _strips(image: Image.Image) -> Iterator[Image.Image]:
    rows = max(1, _STRIP_PIXELS // image.width)
    for top in range(0, image.height, rows):
        yield image.crop((0, top, image.width, min(top + rows, image.height)))
