"""Render the report's Jinja templates into self-contained pages, with figures inline as SVG or data URI."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from isoflop.plotting import COLOURS
from isoflop.report import formats
from isoflop.runtime.errors import unmade

_HERE = Path(__file__).parent
_HEX = re.compile(r"#[0-9a-f]{6}\b")
# upper bound of a gray level → CSS variable of the page
_GRAYS = ((0x40, "--ink"), (0x90, "--quiet"), (0xC8, "--faint"), (0xFF, "--rule"), (0x100, "--paper"))


def render(template: str, **content: Any) -> str:
    """Render a template of this folder, with the style sheet and the script inline; ``content`` is HTML-escaped."""
    environment = Environment(
        loader=FileSystemLoader(_HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(formats.FILTERS | {"inline": inline})
    shared = {name: Markup((_HERE / f"page.{name}").read_text(encoding="utf-8")) for name in ("css", "js")}
    return environment.get_template(template).render(**shared, **content)


def read_picture(file: Path) -> Markup:
    """Return an SVG as an element.

    Raises:
        UserError: the file is missing.
    """
    try:
        return inline(file.read_text(encoding="utf-8"), file.stem)
    except FileNotFoundError:
        raise unmade(file) from None


def inline(text: str, name: str) -> Markup:
    """Turn matplotlib's SVG into an element that shares a page with others.

    Black, grays and white become the page's CSS variables, as do the colors of ``plotting.COLOURS``, so that the figure
    follows the light and dark color schemes. Ids get the prefix ``name``. Style sheets, which would apply to the whole
    page, and metadata are removed.
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
    """Strip the XML namespace."""
    return name.rpartition("}")[2]


def _adapted(key: str, value: str, name: str) -> str:
    if key == "id":
        return f"{name}-{value}"
    if key == "href":
        return re.sub(r"^#", f"#{name}-", value)
    return _HEX.sub(lambda found: _variable(found.group()), value.replace("url(#", f"url(#{name}-"))


def _variable(color: str) -> str:
    if color in COLOURS[:-1]:
        return f"var(--line-{COLOURS.index(color) + 1})"
    red, green, blue = (int(color[start : start + 2], 16) for start in (1, 3, 5))
    if red == green == blue:
        return f"var({next(name for below, name in _GRAYS if red < below)})"
    return color
