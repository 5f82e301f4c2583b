"""Decode image files to pixels (``decode``) and resize them (``fit_to_square``). No other module does either.

``prepare`` and ``isoflop predict`` both use it, so training and prediction cannot differ. Reading files from folders
and archives is in ``isoflop.download``, reading the raw data set in ``readers``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import threading
import warnings
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from isoflop.data.eight_bit import SampleRange, eight_bit
from isoflop.data.image_metadata import without_metadata
from isoflop.runtime.errors import UserError

# Formats that Pillow decodes by itself. EPS is not one of them: it would run Ghostscript on an untrusted file.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")

# Limits in pixels. A JPEG can be decoded at half its size, so the largest photos of phones (200 megapixels) fit.
_MOST_PIXELS = 178_956_970  # Pillow refuses to open more
_MOST_JPEG_PIXELS = 1 << 28
_SURE_PIXELS = _MOST_PIXELS // 2  # up to here any file is decoded, and whole
_MOST_PIXELS_PER_BYTE = 1000  # above: a photo has fewer than 100, a decompression bomb more
_LARGE_PIXELS = 1 << 26

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")

# Pillow warns about sizes, which decode() checks, and about broken EXIF, which is harmless. The filters are set once
# per process because warnings.catch_warnings is not thread-safe and prepare decodes in threads.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", "Corrupt EXIF data")

_one_large_image = threading.Lock()  # prepare decodes in threads: several at once could exceed the memory


class UndecodableError(UserError):
    """A file that cannot be decoded: ``name`` is the file, ``why`` the reason."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: not a readable image ({why}), expected one of {', '.join(FORMATS)}")
        self.name = name
        self.why = why


def decode(content: bytes, name: str, sample_range: SampleRange | None = None) -> Image.Image:
    """Decode the content of an image file to an 8-bit image: mode L for a grayscale source, else RGB.

    EXIF orientation is applied, transparency is composited over white, animations give their first frame, and 16-bit,
    32-bit and float samples are scaled to 8 bits as ``eight_bit`` states. Color profiles are ignored. A JPEG of more
    than 89 megapixels is decoded at half its width and height. Broken or oversized metadata does not cost the pixels.

    Args:
        sample_range: the 16-bit, 32-bit or float samples that become black and white.

    Raises:
        UndecodableError: not an image, truncated, or too large (it may be a decompression bomb).
    """
    try:
        return _decoded(content, sample_range)
    except Exception as error:  # Pillow raises OSError, SyntaxError, struct.error, IndexError, … on malformed files
        bare = without_metadata(content)
        with contextlib.suppress(Exception):
            if bare is not None:
                return _decoded(bare, sample_range)
        raise UndecodableError(name, _why(error, content)) from None


@contextlib.contextmanager
def opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image file whose pixels are decoded when they are needed.

    Raises:
        Exception: not an image, or too large; Pillow's exceptions have no narrower common base.
    """
    stream = io.BytesIO(content)
    if content.startswith(b"\xff\xd8\xff"):
        Image.preinit()
        image: Image.Image = Image.OPEN["JPEG"][0](stream, "")  # Image.open refuses photos of 200 megapixels
        most = _MOST_JPEG_PIXELS
    else:
        heif = ["HEIF"] if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS and _can_read_heif() else []
        image = Image.open(stream, formats=[*FORMATS, *heif])
        most = _MOST_PIXELS
    with image:
        pixels = image.width * image.height
        if pixels > most or (pixels > _SURE_PIXELS and pixels > _MOST_PIXELS_PER_BYTE * len(content)):
            raise Image.DecompressionBombError(f"{image.width}x{image.height} may be a decompression bomb")
        if pixels > _SURE_PIXELS:
            image.draft("", (image.width // 2, image.height // 2))  # does nothing to other formats than JPEG
        yield image


def _decoded(content: bytes, sample_range: SampleRange | None) -> Image.Image:
    with opened(content) as image:
        is_large = image.width * image.height > _LARGE_PIXELS
        with _one_large_image if is_large else contextlib.nullcontext():
            image.load()
            with contextlib.suppress(Exception):  # keep the pixels even if the EXIF block is broken
                ImageOps.exif_transpose(image, in_place=True)
            return eight_bit(image, sample_range)


def _why(error: Exception, content: bytes) -> str:
    if not isinstance(error, UnidentifiedImageError):
        return " ".join(str(error).split()) or type(error).__name__
    if content[4:8] == b"ftyp" and content[8:12] in _HEIF_BRANDS and not _can_read_heif():
        return "a HEIC photo; fix: `pip install 'isoflop[heic]'`, or export such photos as JPEG"
    return "unknown format" if content else "empty file"


@functools.cache
def _can_read_heif() -> bool:
    try:
        import pi_heif  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return False
    pi_heif.register_heif_opener()
    return True


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
