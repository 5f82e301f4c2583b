"""Filling the report's templates: what its pages share."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from isoflop.report import formats
from isoflop.report.svg import inline
from isoflop.runtime.errors import unmade

_HERE = Path(__file__).parent


def render(template: str, **content: Any) -> str:
    """A page of the templates beside this module, its style and its script inside it; names are text, never HTML."""
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


def read_picture(file: Path) -> Markup | str:
    """A PNG as a data URI for an ``img``, or an SVG as an element.

    Raises:
        UserError: it is missing.
    """
    try:
        if file.suffix == ".svg":
            return inline(file.read_text(encoding="utf-8"), file.stem)
        return f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}"
    except FileNotFoundError:
        raise unmade(file) from None
