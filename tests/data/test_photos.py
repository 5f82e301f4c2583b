"""Photos as cameras and programs write them: large ones, deep samples, oversized or broken metadata, HEIC."""

from __future__ import annotations

import base64
import builtins
import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from isoflop.data import eight_bit, images
from isoflop.data.images import UndecodableError, decode

RNG = np.random.default_rng(0)
NOISE = Image.fromarray(RNG.integers(0, 256, (32, 48, 3)).astype(np.uint8))

HEIC = base64.b85decode(
    "0000SW^{RQXk}@500000ZE0pPXk}@5ZE0a<0004gZDn*}000000000XXk=`10000000000aA{+700000000000000000000B57=IV*mgE07O6l0RRC2"
    "00001q5uH^00000002(_001LtX>Mi!000000RR916=`l}WdZ;I000310BCk&F#rGn01j|zbZr0t000010002~X>f9I0002qX>en20001YXm(>m0R#vD"
    "005pi000009`FGC|M>U-01pFT0096OKmiN^|NjIC00093o;Uyi0{{RXx&lC90096hLID8;2mk;B0G>Di00RI39*_hOAhO+6(_GvHG#C&700RM#000935"
    "P)I;0RRX@0l{+^Fc^>k000wXZ)|dIV{CW;0RRmE27mwn02FC+aAg1h0000006+i$06+i$04QT@VQ>Hd02lxO0096101yBG00IC1|JVQk00RI2|Ih#c00"
    "IC201$9#cxeCt0009B2nYZG02pa-ZD9Za00000009621%Uzs1%v<q09S2fVRQfh081zVuL;O$%N`?{Q@`2Y_}qk$Lv|JNQp7b882C26$!DUGF2XbkegC"
    ";~@T8~?-#|87;s;0i@T5?=tbpxndg-Mgz(DEP+pg9~m;"
)  # 24 x 16 pixels, left red, right blue


def encoded(image: Image.Image, file_format: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, file_format, **options)
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


BIG = zlib.compress(b"x" * (2 << 20))


@pytest.mark.parametrize(
    "metadata",
    [
        chunk(b"zTXt", b"workflow\0\0" + BIG),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + BIG),
        chunk(b"iCCP", b"profile\0\0" + BIG),
        b"".join(chunk(b"tEXt", b"%d\0" % index + bytes(1 << 20)) for index in range(66)),
        chunk(b"tEXt", b"k\0v")[:-1] + b"?",  # its checksum is wrong
        chunk(b"eXIf", b"MM\0*")[:-1] + b"?",
        chunk(b"pHYs", b"1"),
    ],
)
def test_metadata_of_a_png_does_not_cost_its_pixels(metadata: bytes) -> None:
    content = encoded(NOISE, "PNG")
    np.testing.assert_array_equal(np.asarray(decode(content[:33] + metadata + content[33:], "x")), np.asarray(NOISE))


@pytest.mark.parametrize(
    "metadata",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xEE, b"Adobe"),
        segment(0xE2, b"MPF\0garbage"),
        segment(0xED, b"Photoshop 3.0\0"),
    ],
)
def test_metadata_of_a_jpeg_does_not_cost_its_pixels(metadata: bytes) -> None:
    content = encoded(NOISE, "JPEG")
    seen = decode(content[:2] + metadata + content[2:], "x")
    np.testing.assert_array_equal(np.asarray(seen), np.asarray(decode(content, "x")))


def test_the_orientation_survives_when_other_metadata_is_left_out() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    content = encoded(NOISE, "PNG", exif=exif)
    assert decode(content[:33] + chunk(b"zTXt", b"k\0\0" + BIG) + content[33:], "x").size == (32, 48)


def test_a_jpeg_above_the_limit_is_decoded_at_half_its_size(monkeypatch: pytest.MonkeyPatch) -> None:
    smooth = NOISE.resize((960, 640), Image.Resampling.BICUBIC)
    content = encoded(smooth, "JPEG", quality=95)
    whole = decode(content, "x")
    monkeypatch.setattr(images, "_SURE_PIXELS", 960 * 640 - 1)
    half = decode(content, "x")
    assert (whole.size, half.size) == ((960, 640), (480, 320))
    assert np.abs(np.asarray(half).astype(int) - np.asarray(smooth.reduce(2))).mean() < 3
    assert decode(encoded(smooth, "PNG"), "x").size == (960, 640), "other formats are decoded whole"


def test_a_photo_of_200_megapixels_can_be_opened() -> None:
    content = bytearray(encoded(NOISE, "JPEG"))
    at = content.index(b"\xff\xc0")  # the frame's header: height and width
    content[at + 5 : at + 9] = struct.pack(">HH", 12_240, 16_320)
    content += bytes(1 << 20)
    with images.opened(bytes(content)) as photo:
        assert photo.size == (8160, 6120)
    content[at + 5 : at + 9] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(UndecodableError, match="60000x60000 may be a decompression bomb"):
        decode(bytes(content), "x")


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "CMYK", "1", "I;16", "F", "I", "LAB", "RGB"])
def test_strips_give_the_same_pixels(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = RNG.integers(0, 65536, (37, 23))
    deep = {"I;16": np.uint16, "F": np.float32, "I": np.int32}
    if mode in deep:
        image = Image.fromarray(pixels.astype(deep[mode]))
    else:
        image = NOISE.convert("RGBA").convert(mode) if mode not in ("LAB",) else NOISE.convert("LAB")
    whole = eight_bit.eight_bit(image)
    monkeypatch.setattr(eight_bit, "_STRIP_PIXELS", 100)
    np.testing.assert_array_equal(np.asarray(eight_bit.eight_bit(image)), np.asarray(whole))


def test_deep_samples_are_scaled_to_the_given_range() -> None:
    thermal = np.array([[29_000, 29_300, 29_410, 29_500, 40_000]], np.uint16)
    for file_format in ("PNG", "TIFF"):
        content = encoded(Image.fromarray(thermal), file_format)
        assert np.asarray(decode(content, "x", [29_300, 29_500])).tolist() == [[0, 0, 140, 255, 255]]
    degrees = encoded(Image.fromarray(np.array([[-5, 20, 22, 25]], np.float32)), "TIFF")
    assert np.asarray(decode(degrees, "x", [20, 25])).tolist() == [[0, 0, 102, 255]]
    assert np.asarray(decode(encoded(NOISE, "PNG"), "x", [20, 25])).tolist() == np.asarray(NOISE).tolist()


def test_heic_is_decoded() -> None:
    pixels = np.asarray(decode(HEIC, "x.heic")).astype(int)
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels[8, 3] - (200, 30, 60)).max() < 9 and np.abs(pixels[8, 20] - (20, 60, 200)).max() < 9


def test_without_the_package_for_heic_the_message_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "pi_heif":
            raise ImportError(name)
        return real(name, *rest)

    images._can_read_heif.cache_clear()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UndecodableError, match=r"a HEIC photo; fix: `pip install 'isoflop\[heic\]'`"):
        decode(HEIC, "x.heic")
    images._can_read_heif.cache_clear()


def test_text_in_pngs_keeps_its_limit_for_others() -> None:
    """The limits of Pillow are global: a program that imports isoflop keeps them."""
    assert PngImagePlugin.MAX_TEXT_CHUNK == 1 << 20 and Image.MAX_IMAGE_PIXELS == 89_478_485
