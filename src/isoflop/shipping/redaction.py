"""What a publication must not contain: where files are on this machine or in this house, and the keys to them.

A report and a release have the parameters; a path has user names, a URL has servers, passwords and tokens.
"""

from __future__ import annotations

import re
from typing import Any

from isoflop.download.fetching import url_name

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ELSEWHERE = re.compile(r"[/~\\]|[A-Za-z]:[\\/]|(.*[/\\])?\.\.([/\\]|$)")  # absolute, or out of the project


def published(value: Any) -> Any:
    """Return parameters as they may be published: of each URL and each path that leads out of the project only the
    last name."""
    if isinstance(value, dict):
        return {published(key): published(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [published(inner) for inner in value]
    if not isinstance(value, str):
        return value
    if _URL.search(value):
        return "…/" + url_name(value)
    if _ELSEWHERE.match(value):
        return "…/" + re.split(r"[/\\]", value.rstrip("/\\"))[-1]
    return value


def is_private(params: dict[str, Any]) -> bool:
    """Return whether the parameters ask for differentially private training, whose exact data nothing may identify."""
    train = params.get("train")
    privacy = train.get("privacy") if isinstance(train, dict) else None
    return isinstance(privacy, dict) and privacy.get("epsilon") is not None
