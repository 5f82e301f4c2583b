"""Every mode of image file is decoded to 8-bit pixels as an image viewer shows it."""

import io
import struct
import tracemalloc
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from isoflop.data import eight_bit
from isoflop.data.images import UndecodableError, decode, fit_to_square, from_array
from isoflop.runtime.errors import UserError

Pixels = npt.NDArray[np.uint8]


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def decoded(image: Image.Image, file_format: str, **options: Any) -> Image.Image:
    return decode(encoded(image, file_format, **options), "image")


def colour_ramp(height: int = 12, width: int = 20) -> Pixels:
    """A smooth RGB image without symmetry."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 250 // width, y * 250 // height, (x + y) * 120 // (height + width)], axis=2).astype(np.uint8)


@pytest.mark.parametrize("file_format", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_rgb_comes_out_to_the_bit(file_format: str) -> None:
    image = decoded(Image.fromarray(colour_ramp()), file_format)
    assert image.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(image), colour_ramp())


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "AVIF", "JPEG2000"])
def test_lossy_rgb_comes_out_close(file_format: str) -> None:
    image = decoded(Image.fromarray(colour_ramp(64, 96)), file_format)
    assert np.abs(np.asarray(image).astype(int) - colour_ramp(64, 96)).mean() < 6


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(orientation: int, file_format: str) -> None:
    upright = Image.fromarray(np.kron(colour_ramp(4, 6), np.ones((16, 16, 1), np.uint8)))
    # a camera in this orientation stores the inverse of the transform that the tag requests
    stored = {
        1: [],
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }[orientation]
    image = upright
    for step in stored:
        image = image.transpose(step)
    exif = Image.Exif()
    exif[0x0112] = orientation
    seen = decoded(image, file_format, exif=exif, **({"quality": 95} if file_format in ("JPEG", "WEBP") else {}))
    assert seen.size == upright.size
    assert np.abs(np.asarray(seen).astype(int) - np.asarray(upright)).mean() < 4


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")  # pytest replaces the filters of isoflop.data.images
def test_a_broken_exif_block_does_not_cost_the_image() -> None:
    content = encoded(Image.fromarray(colour_ramp()), "JPEG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff garbage")
    assert decode(content, "image").size == (20, 12)


def test_rgba_is_composited_over_white() -> None:
    pixels = np.zeros((2, 3, 4), np.uint8)
    pixels[:, 0] = (200, 0, 0, 255)
    pixels[:, 1] = (200, 0, 0, 0)
    pixels[:, 2] = (0, 0, 0, 128)
    image = decoded(Image.fromarray(pixels, "RGBA"), "PNG")
    assert image.mode == "RGB"
    assert np.asarray(image)[0].tolist() == [[200, 0, 0], [255, 255, 255], [127, 127, 127]]


def test_la_is_composited_over_white_and_stays_grey() -> None:
    pixels = np.array([[[10, 255], [10, 0], [0, 128]]], np.uint8)
    image = decoded(Image.fromarray(pixels, "LA"), "PNG")
    assert image.mode == "L"
    assert np.asarray(image).tolist() == [[10, 255, 127]]


def test_palette_gives_its_colours() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    seen = decoded(image, "PNG")
    assert np.asarray(seen).tolist() == [[[255, 0, 0], [0, 0, 255]]]


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_transparent_palette_entry_is_white(transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    seen = decoded(image, "PNG", transparency=transparency)
    assert np.asarray(seen).tolist() == [[[255, 255, 255], [0, 0, 255]]]


def test_transparent_colour_of_an_opaque_mode_is_white() -> None:
    rgb = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert np.asarray(decoded(rgb, "PNG", transparency=(1, 2, 3))).tolist() == [[[255, 255, 255], [4, 5, 6]]]
    grey = decoded(Image.fromarray(np.array([[7, 8]], np.uint8)), "PNG", transparency=7)
    assert (grey.mode, np.asarray(grey).tolist()) == ("L", [[255, 8]])


def test_16_bit_grey_is_scaled_not_clipped() -> None:
    samples = np.array([[0, 257, 32896, 65535]], np.uint16)
    for file_format in ("PNG", "TIFF", "PPM"):
        image = decoded(Image.fromarray(samples), file_format)
        assert (image.mode, np.asarray(image).tolist()) == ("L", [[0, 1, 128, 255]]), file_format


def png(width: int, height: int, depth: int, colour_type: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_colour_is_scaled() -> None:
    samples = np.array([[0, 32896, 65535]], ">u2")
    image = decode(png(1, 1, 16, 2, b"\0" + samples.tobytes()), "image")
    assert np.asarray(image).tolist() == [[[0, 128, 255]]]


def test_cmyk_jpeg_has_its_colours() -> None:
    rgb = Image.new("RGB", (16, 16), (200, 30, 60))
    content = encoded(rgb.convert("CMYK"), "JPEG", quality=100)
    seen = np.asarray(decode(content, "image"))[8, 8].astype(int)
    assert np.abs(seen - [200, 30, 60]).max() <= 4


def test_one_bit_is_black_and_white() -> None:
    image = decoded(Image.fromarray(np.array([[True, False]])), "PNG")
    assert (image.mode, np.asarray(image).tolist()) == ("L", [[255, 0]])


@pytest.mark.parametrize(
    ("samples", "expected"),
    [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 100.0, 255.0], [0, 100, 255]), ([0.0, 257.0, 65535.0], [0, 1, 255]),
     ([-1.0, 0.0, 1.0], [0, 128, 255])],
)  # fmt: skip
def test_float_tiff_is_scaled_by_the_white_that_its_values_tell(samples: list[float], expected: list[int]) -> None:
    image = decoded(Image.fromarray(np.array([samples], np.float32)), "TIFF")
    assert np.asarray(image).tolist() == [expected]


def test_32_bit_integers_beyond_16_bits_are_scaled_by_their_range() -> None:
    image = decoded(Image.fromarray(np.array([[0, 500_000, 1_000_000]], np.int32)), "TIFF")
    assert np.asarray(image).tolist() == [[0, 128, 255]]


@pytest.mark.parametrize(("brightest", "expected"), [(200, 200), (51_400, 200)])
def test_32_bit_integers_have_the_white_of_the_least_type_that_holds_them(brightest: int, expected: int) -> None:
    image = decoded(Image.fromarray(np.array([[0, brightest]], np.int32)), "TIFF")
    assert np.asarray(image).tolist() == [[0, expected]]


def test_float_samples_that_are_not_finite_are_undecodable() -> None:
    with pytest.raises(UndecodableError, match="not finite"):
        decoded(Image.fromarray(np.array([[np.nan, 1.0]], np.float32)), "TIFF")


def test_deep_samples_are_scaled_in_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    """All at once, a 16-bit PNG of 170 kB took 2.4 GB."""
    monkeypatch.setattr(eight_bit, "_STRIP_PIXELS", 1 << 14)
    image = Image.new("I;16", (4096, 1024))
    tracemalloc.start()
    try:
        eight_bit.eight_bit(image)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 << 20, "less than one byte for each pixel"


def test_lab_tiff_is_converted() -> None:
    lab = Image.new("LAB", (2, 2), (255, 128, 128))
    assert np.asarray(decoded(lab, "TIFF")).min() > 245


@pytest.mark.parametrize("file_format", ["GIF", "WEBP", "PNG"])
def test_an_animation_gives_its_first_frame(file_format: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if file_format == "WEBP" else {}
    image = decoded(frames[0], file_format, save_all=True, append_images=frames[1:], **options)
    assert np.asarray(image)[4, 4].tolist() == [255, 0, 0]


@pytest.mark.parametrize("file_format", ["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"])
def test_a_truncated_file_is_undecodable(file_format: str) -> None:
    rng = np.random.default_rng(0)
    content = encoded(Image.fromarray(rng.integers(0, 256, (64, 64, 3)).astype(np.uint8)), file_format)
    with pytest.raises(UndecodableError, match=r"^cat/1\.x: not a readable image \("):
        decode(content[: len(content) // 2], "cat/1.x")


@pytest.mark.parametrize(
    ("content", "why"),
    [(b"", "empty file"), (b"hello, not an image", "unknown format"),
     (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "unknown format")],
)  # fmt: skip
def test_no_image_is_undecodable(content: bytes, why: str) -> None:
    with pytest.raises(UserError, match=rf"^x\.png: not a readable image \({why}\), expected one of AVIF, BMP"):
        decode(content, "x.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_000, 60_000])
def test_a_decompression_bomb_is_undecodable(side: int) -> None:
    with pytest.raises(UndecodableError, match="decompression bomb"):
        decode(png(side, side, 8, 0, b"\0"), "bomb.png")


def test_arrays_pass_unchanged_and_odd_shapes_are_refused() -> None:
    np.testing.assert_array_equal(np.asarray(from_array(colour_ramp(), "x")), colour_ramp())
    assert from_array(np.zeros((4, 4, 1), np.uint8), "x").mode == "L"
    with pytest.raises(UndecodableError, match=r"pixels uint8\[4, 4, 2\]"):
        from_array(np.zeros((4, 4, 2), np.uint8), "x")


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_an_image_of_the_right_size_is_untouched(resize: str) -> None:
    pixels = colour_ramp(16, 16)
    np.testing.assert_array_equal(fit_to_square(Image.fromarray(pixels), 16, 3, resize), pixels)


@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (7, 5), (200, 90)])
def test_any_shape_becomes_a_square(size: tuple[int, int], channels: int, resize: str) -> None:
    for mode in ("L", "RGB"):
        square = fit_to_square(Image.new(mode, size, 100 if mode == "L" else (100, 100, 100)), 8, channels, resize)
        assert square.shape == (8, 8, channels)
        assert square.dtype == np.uint8
        assert np.abs(square.astype(int) - 100).max() <= 1


def test_crop_keeps_the_centre_pad_keeps_all_stretch_squeezes() -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, :10], pixels[:, 10:20], pixels[:, 20:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    image = Image.fromarray(pixels)
    assert (fit_to_square(image, 10, 3, "crop") == (0, 255, 0)).all()
    padded = fit_to_square(image, 30, 3, "pad")
    np.testing.assert_array_equal(padded[10:20], pixels)
    stretched = fit_to_square(image, 9, 3, "stretch")
    assert stretched[4, [0, 4, 8]].argmax(axis=1).tolist() == [0, 1, 2]


@pytest.mark.parametrize("paper", [0, 255])
def test_pad_continues_the_background(paper: int) -> None:
    pixels = np.full((20, 40), paper, np.uint8)
    pixels[8:12, 10:30] = 255 - paper
    assert (fit_to_square(Image.fromarray(pixels), 40, 1, "pad")[:10] == paper).all()


def test_shrinking_is_antialiased() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (64, 32))  # one pixel wide: a point sample would be all 0 or 255
    small = fit_to_square(Image.fromarray(stripes), 8, 1, "stretch")
    assert np.abs(small[:, 1:-1].astype(int) - 128).max() < 16


def test_colour_becomes_grey_by_luma() -> None:
    image = Image.new("RGB", (4, 4), (0, 255, 0))
    assert (fit_to_square(image, 4, 1, "crop") == 150).all()  # 0.587 * 255
