"""Decode image files to pixels (``decode``) and resize them (``fit_to_square``). No other module does either.

``prepare`` and ``isoflop predict`` both use it, so training and prediction cannot differ. Reading files from folders
and archives is in ``isoflop.download``, reading the raw data set in ``readers``.
"""

from __future__ import annotations

import contextlib
import io
import math
import warnings

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from isoflop.runtime.errors import UserError

# Formats that Pillow decodes by itself. EPS is not one of them: it would run Ghostscript on an untrusted file.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# Pillow warns about sizes, which decode() checks, and about broken EXIF, which is harmless. The filters are set once
# per process because warnings.catch_warnings is not thread-safe and prepare decodes in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data")


class UndecodableError(UserError):
    """A file that cannot be decoded: ``name`` is the file, ``why`` the reason."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: not a readable image ({why}), expected one of {', '.join(FORMATS)}")
        self.name = name
        self.why = why


def decode(content: bytes, name: str) -> Image.Image:
    """Decode the content of an image file to an 8-bit image: mode L for a grayscale source, else RGB.

    EXIF orientation is applied, transparency is composited over white, animations give their first frame, and 16-bit,
    32-bit and float samples are scaled to 8 bits, not clipped. Color profiles are ignored.

    Raises:
        UndecodableError: not an image, truncated, or larger than ``PIL.Image.MAX_IMAGE_PIXELS`` (it may be a
            decompression bomb).
    """
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            if image.width * image.height > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise Image.DecompressionBombError(f"{image.width}x{image.height} may be a decompression bomb")
            image.load()
            with contextlib.suppress(Exception):  # keep the pixels even if the EXIF block is broken
                ImageOps.exif_transpose(image, in_place=True)
            return _eight_bit(image)
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, IndexError, … on malformed files
        why = " ".join(str(error).split()) or type(error).__name__
        if isinstance(error, UnidentifiedImageError):
            why = "unknown format" if content else "empty file"
        raise UndecodableError(name, why) from None


def from_array(pixels: npt.NDArray[np.uint8], name: str) -> Image.Image:
    """Return the image of decoded pixels uint8 [H, W], [H, W, 1] or [H, W, 3].

    Raises:
        UndecodableError: the pixels have another type or shape.
    """
    if pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[:, :, 0]
    if pixels.dtype != np.uint8 or pixels.size == 0 or not (pixels.ndim == 2 or pixels.shape[2:] == (3,)):
        raise UndecodableError(name, f"pixels {pixels.dtype}{list(pixels.shape)}")
    return Image.fromarray(np.ascontiguousarray(pixels))


def as_channels(image: Image.Image, channels: int) -> Image.Image:
    """Convert ``image`` (L or RGB) to L for 1 channel (ITU-R 601 luma) or RGB for 3."""
    mode = {1: "L", 3: "RGB"}[channels]
    return image if image.mode == mode else image.convert(mode)


def fit_to_square(image: Image.Image, size: int, channels: int, resize: str) -> npt.NDArray[np.uint8]:
    """Resample ``image`` (L or RGB) to pixels uint8 [size, size, channels].

    Bicubic; when shrinking, the filter is widened by the scale (antialiasing). An image that already has this size
    keeps its exact pixels.

    Args:
        resize: ``crop`` keeps the largest centered square, ``pad`` keeps the whole image and fills the rest with the
            median color of its border, ``stretch`` changes the aspect ratio.
    """
    image = as_channels(image, channels)
    if resize == "crop":
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        square = _resample(image, (size, size), (left, top, left + side, top + side))
    elif resize == "pad":
        scale = size / max(image.size)
        inner = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        square = _pad(_resample(image, inner, (0, 0, *image.size)), size)
    elif resize == "stretch":
        square = _resample(image, (size, size), (0, 0, *image.size))
    else:
        raise ValueError(f"resize: got {resize!r}, expected crop, pad or stretch")
    return np.asarray(square, np.uint8).reshape(size, size, channels)


def _resample(image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]) -> Image.Image:
    if image.size == size and tuple(box) == (0.0, 0.0, float(size[0]), float(size[1])):
        return image
    return image.resize(size, Image.Resampling.BICUBIC, box=box)


def _pad(image: Image.Image, size: int) -> Image.Image:
    if image.size == (size, size):
        return image
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    color = tuple(int(value) for value in np.median(border, axis=0))
    square = Image.new(image.mode, (size, size), color if image.mode == "RGB" else color[0])
    square.paste(image, ((size - image.width) // 2, (size - image.height) // 2))
    return square


def _eight_bit(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        return Image.fromarray(_scaled_to_bytes(np.asarray(image)))
    mode = "L" if image.mode in ("1", "L", "LA", "La") else "RGB"
    if "A" in image.mode.upper().removeprefix("LAB") or "transparency" in image.info:
        opaque = Image.new("RGBA", image.size, "white")
        # premultiplied modes (La, RGBa) convert only to their straight counterparts
        straight = image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode)).convert("RGBA")
        return Image.alpha_composite(opaque, straight).convert(mode)
    if image.mode == "LAB":
        return _from_lab(image)
    return image.convert(mode)


def _scaled_to_bytes(samples: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Scale samples of one channel [H, W] to bytes, by the white level if the values reveal it, else by their range.

    White is 65535 for 16-bit samples. For 32-bit samples it is the smallest of 255 and 65535 (for floats also 1) that
    no sample exceeds, as is common in 32-bit TIFFs. If there is none, or a sample is negative, the white level is
    unknown: the darkest sample becomes black and the brightest white.
    """
    values = samples.astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("samples are not finite")
    low, high = float(values.min()), float(values.max())
    whites = (65535.0,) if samples.dtype.itemsize <= 2 else (255.0, 65535.0)
    whites = (1.0, *whites) if samples.dtype.kind == "f" else whites
    white = next((white for white in whites if high <= white), None)
    if low < 0 or white is None:
        values, white = values - low, max(high - low, 1e-12)
    return np.rint(values * (255 / white)).astype(np.uint8)


def _from_lab(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    converted = ImageCms.applyTransform(image, ImageCms.buildTransform(*profiles, "LAB", "RGB"))
    assert converted is not None  # None is only returned for an in-place transform
    return converted
