"""Text of others (names of files, classes, tensors, values of params.yaml) as it may be printed."""

from __future__ import annotations

import re
import unicodedata


def printable(text: str) -> str:
    """Return ``text`` with control and other unprintable characters as escapes, so that no name can control a terminal
    or break a line."""
    return "".join(
        character if _is_harmless(character) else character.encode("unicode_escape").decode() for character in text
    )


def without_credentials(text: str) -> str:
    """Return ``text`` without users, passwords and queries of URLs in it; a message may be kept in a log of CI."""
    return re.sub(r"[?#][^\s'\"]+", "?…", re.sub(r"([a-zA-Z][\w+.-]*://)?[^\s'\"]*@", r"\1…@", text))


def _is_harmless(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"  # other spaces, as between 5 and kB
