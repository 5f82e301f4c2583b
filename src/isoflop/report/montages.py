"""Read the montages of ``isoflop.montage`` back, so that a page can lay out their tiles by its own width and colors."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from isoflop.montage import NAMESPACE
from isoflop.runtime.errors import UserError, unmade

_IMAGE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/]+={0,2}")  # nothing that a browser would run or fetch


@dataclass(frozen=True)
class Picture:
    """An image as a data URI; ``exact`` if its pixels are those of the network, to be shown without smoothing."""

    source: str
    exact: bool


@dataclass(frozen=True)
class ReadTile:
    images: list[Picture]
    lines: list[str]


@dataclass(frozen=True)
class ReadRow:
    heading: str
    tiles: list[ReadTile]

    @property
    def count(self) -> int:
        return len(self.tiles)


def read_montage(file: Path) -> list[ReadRow]:
    """Return the rows of a montage; none if it is empty.

    Raises:
        UserError: the file is missing, or is not a montage.
    """
    try:
        root = ElementTree.fromstring(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise unmade(file) from None
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{file}: not a readable picture ({error}); fix: `dvc checkout` restores it") from None
    return [ReadRow(_title(row), [_tile(tile, file) for tile in _groups(row, "tile")]) for row in _groups(root, "row")]


def _tile(group: ElementTree.Element, file: Path) -> ReadTile:
    images = []
    for image in group.findall(f"{{{NAMESPACE}}}image"):
        found = _IMAGE.fullmatch(image.get("href", ""))
        if not found:
            raise UserError(f"{file}: got an image that is no PNG or JPEG; fix: `dvc checkout` restores it")
        images.append(Picture(found.group(), found.group(1) == "png"))
    return ReadTile(images, _title(group).split("\n"))


def _groups(parent: ElementTree.Element, kind: str) -> list[ElementTree.Element]:
    return [group for group in parent.findall(f"{{{NAMESPACE}}}g") if group.get("class") == kind]


def _title(group: ElementTree.Element) -> str:
    return group.findtext(f"{{{NAMESPACE}}}title") or ""
