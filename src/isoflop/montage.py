"""Pictures of labeled images: a grid of images with text under each, written as one self-contained SVG.

Text stays text, so the reader's fonts draw names in any script. The report reads the file back and lays out its tiles
as HTML, which adapts to the width of the page.
"""

from __future__ import annotations

import base64
import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]  # H, W, C with C = 1 or 3
NAMESPACE = "http://www.w3.org/2000/svg"

_LARGEST = 128  # pixels along a side; larger images are reduced
_MOST_PNG = 64  # up to this side, exact pixels (PNG); above it, JPEG
_SIDE, _GAP, _LINE, _MARGIN = 96, 10, 14, 8  # SVG units
_CHARACTER = 6.2  # width of an average character of 11 px
_MOST_COLUMNS = 8  # images in a line
_STYLE = (
    "svg{background:#fff;font:11px system-ui,sans-serif}text{fill:#1d2126}.heading{font-weight:600}"
    "@media(prefers-color-scheme:dark){svg{background:#16191d}text{fill:#e4e6e8}}"
)
_JOINERS = "\u200c\u200d"  # part of names in Persian and of emoji


@dataclass(frozen=True)
class Tile:
    """Images next to each other, with lines of text under them."""

    images: Sequence[Pixels]
    lines: Sequence[str]


@dataclass(frozen=True)
class Row:
    """Tiles under a heading, which may be empty."""

    heading: str
    tiles: Sequence[Tile]


def write_montage(rows: Sequence[Row], file: Path, *, nothing: str) -> None:
    """Write the rows as SVG; without tiles, the text ``nothing``. The same inputs give the same bytes.

    Each tile is a ``g`` with its whole text in ``title``, one line of the title per line of text.
    """
    root = ElementTree.Element("svg", {"xmlns": NAMESPACE, "role": "img"})
    ElementTree.SubElement(root, "style").text = _STYLE
    shown = [row for row in rows if row.tiles]
    width, top = 2.0 * _MARGIN, float(_MARGIN)
    for row in shown:
        wide, top = _draw_row(root, row, top)
        width = max(width, wide)
    if not shown:
        _text(root, _MARGIN, top + _LINE, nothing, "heading")
        width, top = _MARGIN + _CHARACTER * len(nothing) + _MARGIN, top + _LINE + _MARGIN
    root.set("viewBox", f"0 0 {width:g} {top + _MARGIN:g}")
    root.set("width", f"{width:g}")
    root.set("height", f"{top + _MARGIN:g}")
    file.write_text(ElementTree.tostring(root, encoding="unicode"), encoding="utf-8")


def printable(text: str) -> str:
    """Escape what neither XML nor a font can show: control and direction characters, undecodable bytes."""
    return "".join(
        letter if letter.isprintable() or letter in _JOINERS else letter.encode("unicode_escape").decode()
        for letter in text
    )


def width_of(text: str) -> int:
    """Return the columns that a text takes: 2 for each wide character (Chinese, Japanese, Korean, emoji)."""
    return sum(
        0 if unicodedata.combining(letter) or letter in _JOINERS else 1 + (unicodedata.east_asian_width(letter) in "WF")
        for letter in text
    )


def shortened(text: str, columns: int, *, end: bool = False) -> str:
    """Return a printable text of at most ``columns`` columns, cut at its end, or with ``end`` at its start."""
    text = printable(text[-2 * columns :] if end and len(text) > 4 * columns else text[: 4 * columns])
    if width_of(text) <= columns:
        return text
    while width_of(text) >= columns:
        text = text[1:] if end else text[:-1]
    return f"…{text}" if end else f"{text}…"


def _draw_row(root: ElementTree.Element, row: Row, top: float) -> tuple[float, float]:
    """Draw the heading and the tiles below ``top``; return the right and the lower edge."""
    if row.heading:
        top += _LINE
        _text(root, _MARGIN, top, printable(row.heading), "heading")
        top += 0.5 * _LINE
    most = max(len(tile.images) for tile in row.tiles)
    columns = max(1, _MOST_COLUMNS // most)
    wide = most * (_SIDE + 2) - 2
    high = _SIDE + _LINE * max(len(tile.lines) for tile in row.tiles) + _GAP
    group = ElementTree.SubElement(root, "g", {"class": "row"})
    ElementTree.SubElement(group, "title").text = printable(row.heading)
    for index, tile in enumerate(row.tiles):
        left = _MARGIN + (index % columns) * (wide + _GAP)
        _draw_tile(group, tile, left, top + (index // columns) * high, wide)
    lines = -(-len(row.tiles) // columns)
    return _MARGIN + min(columns, len(row.tiles)) * (wide + _GAP), top + lines * high


def _draw_tile(row: ElementTree.Element, tile: Tile, left: float, top: float, wide: float) -> None:
    group = ElementTree.SubElement(row, "g", {"class": "tile"})
    ElementTree.SubElement(group, "title").text = "\n".join(printable(line) for line in tile.lines)
    for index, image in enumerate(tile.images):
        place = {"x": f"{left + index * (_SIDE + 2):g}", "y": f"{top:g}", "width": f"{_SIDE}", "height": f"{_SIDE}"}
        link = _data_uri(image)
        smooth = {} if "jpeg" in link else {"style": "image-rendering:pixelated"}
        ElementTree.SubElement(group, "image", {**place, **smooth, "href": link})
    for index, line in enumerate(tile.lines):
        # a path: its end names the file
        text = shortened(line, int(wide / _CHARACTER), end="/" in line)
        _text(group, left, top + _SIDE + _LINE * (index + 1) - 2, text)


def _text(parent: ElementTree.Element, x: float, y: float, content: str, kind: str = "") -> None:
    place = {"x": f"{x:g}", "y": f"{y:g}"}
    ElementTree.SubElement(parent, "text", place | ({"class": kind} if kind else {})).text = content


def _data_uri(image: Pixels) -> str:
    from PIL import Image

    picture = Image.fromarray(np.ascontiguousarray(image.squeeze(2) if image.shape[2] == 1 else image))
    exact = max(picture.size) <= _MOST_PNG
    picture.thumbnail((_LARGEST, _LARGEST), Image.Resampling.LANCZOS)
    content = io.BytesIO()
    picture.save(content, **({"format": "PNG"} if exact else {"format": "JPEG", "quality": 85}))
    kind = "png" if exact else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(content.getvalue()).decode()}"
