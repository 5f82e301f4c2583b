"""SVG files of matplotlib as elements of a page. They may come from a cache, so only what draws is kept."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from markupsafe import Markup

from isoflop.plotting import COLOURS
from isoflop.runtime.errors import UserError

_MOST_CHARACTERS, _MOST_LEVELS = 50_000_000, 100
_HEX = re.compile(r"#[0-9a-f]{6}\b")
# upper bound of a gray level → CSS variable of the page
_GRAYS = ((0x40, "--ink"), (0x90, "--quiet"), (0xC8, "--faint"), (0xFF, "--rule"), (0x100, "--paper"))


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ELEMENTS = _words("svg g defs clipPath path rect circle ellipse line polyline polygon text tspan use image title")
_PROPERTIES = _words(
    "fill fill-opacity fill-rule stroke stroke-width stroke-opacity stroke-linecap stroke-linejoin stroke-miterlimit "
    "stroke-dasharray stroke-dashoffset opacity font font-family font-size font-style font-weight text-anchor "
    "image-rendering display visibility"
)
_ATTRIBUTES = _PROPERTIES | _words(
    "id d x y x1 x2 y1 y2 dx dy cx cy r rx ry width height points transform viewBox preserveAspectRatio"
)
_PLAIN = re.compile(r"""[\w\s.,%#()'"+-]*""")
_NAME = re.compile(r"[\w.:-]+")
_PICTURE = re.compile(r"data:image/(png|jpeg);base64,[A-Za-z0-9+/=\s]+")


def inline(text: str, name: str) -> Markup:
    """Turn an SVG into an element that shares a page with others.

    Elements and attributes that do not draw are removed: scripts, event handlers, links, frames, style sheets, and
    references to anything outside of the file. Black, grays and white become the page's CSS variables, as do the colors
    of ``plotting.COLOURS``, so that the figure follows the light and dark color schemes. Ids get the prefix ``name``.

    Raises:
        UserError: the text is not an SVG, or is too large or too deep.
    """
    root = _parsed(text, name)
    level = [root]
    for _ in range(_MOST_LEVELS):
        for element in level:
            for child in [child for child in element if _local(child.tag) not in _ELEMENTS]:
                element.remove(child)
            element.tag = _local(element.tag)
            attributes = {_local(key): value for key, value in element.attrib.items()}
            element.attrib.clear()
            element.attrib.update(_drawing(element.tag, attributes, name))
        level = [child for element in level for child in element]
    if level:
        raise UserError(f"{name}: got an SVG of more than {_MOST_LEVELS} levels; fix: `dvc checkout` restores it")
    box = root.attrib.get("viewBox", "")
    root.attrib.clear()
    root.attrib["viewBox"] = box
    return Markup(ElementTree.tostring(root, encoding="unicode"))


def _parsed(text: str, name: str) -> ElementTree.Element:
    problem = f"more than {_MOST_CHARACTERS:,} characters" if len(text) > _MOST_CHARACTERS else ""
    if "<!ENTITY" in text:
        problem = "a definition of entities"
    try:
        root = ElementTree.fromstring("" if problem else text)
    except (ElementTree.ParseError, ValueError) as error:
        raise UserError(f"{name}: got {problem or error}, expected an SVG; fix: `dvc checkout` restores it") from None
    if _local(root.tag) != "svg":
        raise UserError(f"{name}: got {_local(root.tag)!r}, expected an SVG; fix: `dvc checkout` restores it")
    return root


def _local(name: object) -> str:
    """Strip the XML namespace; comments and processing instructions have no name."""
    return name.rpartition("}")[2] if isinstance(name, str) else ""


def _drawing(element: str, attributes: dict[str, str], name: str) -> dict[str, str]:
    """Return the attributes that draw, adapted to the page."""
    kept = {}
    for key, value in attributes.items():
        if key == "href":
            if element == "use" and value.startswith("#") and _NAME.fullmatch(value[1:]):
                kept[key] = f"#{name}-{value[1:]}"
            elif element == "image" and _PICTURE.fullmatch(value):
                kept[key] = value
        elif key == "id":
            kept |= {key: f"{name}-{value}"} if _NAME.fullmatch(value) else {}
        elif key == "clip-path":
            target = re.fullmatch(r"url\(#([\w.:-]+)\)", value)
            kept |= {key: f"url(#{name}-{target[1]})"} if target else {}
        elif key == "style":
            kept[key] = "; ".join(_declarations(value))
        elif key in _ATTRIBUTES and _is_plain(value):
            kept[key] = _in_page_colors(value)
    return kept


def _declarations(style: str) -> list[str]:
    pairs = [(key.strip(), value.strip()) for key, _, value in (part.partition(":") for part in style.split(";"))]
    return [f"{key}: {_in_page_colors(value)}" for key, value in pairs if key in _PROPERTIES and _is_plain(value)]


def _is_plain(value: str) -> bool:
    return bool(_PLAIN.fullmatch(value)) and "url" not in value.lower()


def _in_page_colors(value: str) -> str:
    return _HEX.sub(lambda found: _variable(found.group()), value)


def _variable(color: str) -> str:
    if color in COLOURS[:-1]:
        return f"var(--line-{COLOURS.index(color) + 1})"
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    if red == green == blue:
        return f"var({next(name for below, name in _GRAYS if red < below)})"
    return color
