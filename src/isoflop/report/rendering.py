"""Render the report's Jinja templates into self-contained pages, with figures inline as SVG or data URI."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from isoflop.report import formats
from isoflop.report.svg import inline
from isoflop.runtime.errors import unmade

_HERE = Path(__file__).parent


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
    return environment.get_template(template).render(**shared, policy=_policy(shared["js"]), **content)


def _policy(script: str) -> str:
    """Return the Content-Security-Policy of a page: it runs this script and nothing else, and requests nothing."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def read_picture(file: Path) -> Markup:
    """Return an SVG as an element.

    Raises:
        UserError: the file is missing.
    """
    try:
        return inline(file.read_text(encoding="utf-8"), file.stem)
    except FileNotFoundError:
        raise unmade(file) from None
