"""YAML round trips that keep comments and layout."""

from __future__ import annotations

import io
import re
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq


def load(text: str) -> Any:
    """Parse ``text``; the result keeps its comments and layout."""
    return _yaml().load(text)


def dump(content: Any) -> str:
    """Return the text of a result of ``load``."""
    text = io.StringIO()
    _yaml().dump(content, text)
    return text.getvalue()


def dump_graph(content: Any) -> str:
    """Return the text of a dvc.yaml, with an empty line before each stage."""
    spaced = re.sub(r"\n+(  \w+:\n    (?:matrix|foreach|meta|cmd):)", r"\n\n\1", dump(content))
    return spaced.replace("stages:\n\n", "stages:\n")


def flow(items: list[Any]) -> Any:
    """Return a list that is written on one line, in brackets."""
    sequence = CommentedSeq(items)
    sequence.fa.set_flow_style()
    return sequence


def flow_mapping(content: dict[str, Any]) -> Any:
    """Return a mapping that is written on one line, in braces."""
    mapping = CommentedMap(content)
    mapping.fa.set_flow_style()
    return mapping


def _yaml() -> YAML:
    yaml = YAML()
    yaml.width = 4096
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), _null)
    return yaml


def _null(representer: Any, _: None) -> Any:
    return representer.represent_scalar("tag:yaml.org,2002:null", "null")
