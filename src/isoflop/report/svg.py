"""SVG of matplotlib made part of a page: its text and lines take the colours of the page's light or dark scheme."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

from isoflop.plotting import COLOURS

_HEX = re.compile(r"#[0-9a-f]{6}\b")
_GREYS = ((0x40, "--ink"), (0x90, "--quiet"), (0xC8, "--faint"), (0xFF, "--rule"), (0x100, "--paper"))  # below


def inline(text: str, name: str) -> Markup:
    """An ``svg`` element for a page that has others.

    Black and greys become the page's ink, white its paper, and the colours of ``figures.COLOURS`` its own lines; ids
    are made the page's by ``name``, and what would style the rest of the page is left out.
    """
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in [child for child in parent if _local(child.tag) in ("metadata", "style")]:
            parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        attributes = {_local(key): value for key, value in element.attrib.items()}
        element.attrib.clear()
        element.attrib.update({key: _adapted(key, value, name) for key, value in attributes.items()})
    box = root.attrib["viewBox"]
    root.attrib.clear()
    root.attrib["viewBox"] = box
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _adapted(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return re.sub(r"^#", f"#{name}-", value)
    return _HEX.sub(lambda found: _variable(found.group()), value.replace("url(#", f"url(#{name}-"))


def _variable(colour: str) -> str:
    if colour in COLOURS[:-1]:
        return f"var(--line-{COLOURS.index(colour) + 1})"
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    if red == green == blue:
        return f"var({next(name for below, name in _GREYS if red < below)})"
    return colour
