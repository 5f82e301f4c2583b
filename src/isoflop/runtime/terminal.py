"""Text of others (names of files, classes, tensors, values of params.yaml) as it may be printed."""

from __future__ import annotations


def printable(text: str) -> str:
    """Return ``text`` with control and other unprintable characters as escapes, so that no name can control a terminal
    or break a line."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )
