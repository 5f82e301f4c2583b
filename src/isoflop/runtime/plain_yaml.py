"""Read YAML files of plain values as DVC does (YAML 1.2): bounded, without tags, with the line of every key.

The file may come from a stranger. Values are built from the parser's events, without recursion; aliases are expanded to
at most ``_MOST_VALUES`` values, and an alias that contains itself is refused.
"""

from __future__ import annotations

import copy
import functools
import re
from dataclasses import dataclass
from typing import Any

import yaml

_MOST_CHARACTERS = 4_000_000
_MOST_VALUES = 200_000  # after the expansion of aliases
_MOST_LEVELS = 50
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Plain scalars of YAML 1.2 as DVC's parser reads them; anything else is a string
_NULL = re.compile(r"~|null|Null|NULL|")
_BOOLEAN = re.compile(r"(true|True|TRUE)|false|False|FALSE")
_INTEGER = re.compile(r"[-+]?(0b[01_]+|0o[0-7_]+|0x[0-9a-fA-F_]+|[0-9][0-9_]*)")
_FLOAT = re.compile(
    r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+]?[0-9]+)?|[0-9][0-9_]*[eE][-+]?[0-9]+|\.[0-9_]+([eE][-+][0-9]+)?"
    r"|\.(inf|Inf|INF))|\.(nan|NaN|NAN)"
)
# What DVC's parser reads otherwise: a result would be recorded with another value
_NUMBER_OF_DVC = re.compile(r"[-+]_[0-9_]*")
_DATE = re.compile(r"[0-9]{4}-[0-9][0-9]?-[0-9][0-9]?([Tt \t].*)?")
_ANCHOR = re.compile(r"(!\S*\s+)?&[A-Za-z0-9_-]+(\s|$)")
_TAB = re.compile(r"(?m)^[^'\"#\t\n]*\t")  # outside of quotes and comments: DVC refuses the file

Lines = dict[str, int]  # dotted key → its line, from 1


class PlainYamlError(ValueError):
    """The text is not YAML of plain values. ``line`` counts from 1; None: the whole text."""

    def __init__(self, problem: str, line: int | None = None) -> None:
        super().__init__(problem)
        self.line = line


def parse(text: str) -> tuple[Any, Lines]:
    """Return the content of ``text`` (None if it is empty) and the lines of its keys.

    Raises:
        PlainYamlError: the text is not YAML of plain values, is too large, or has an alias that contains itself.
    """
    content, lines = _parsed(text)
    return copy.deepcopy(content), lines


@functools.lru_cache(maxsize=8)  # every schema reads the same file
def _parsed(text: str) -> tuple[Any, Lines]:
    if len(text) > _MOST_CHARACTERS:
        raise PlainYamlError(f"got {len(text)} characters, expected at most {_MOST_CHARACTERS}")
    if found := _TAB.search(text):
        raise PlainYamlError("got a tab, expected spaces", text.count("\n", 0, found.start()) + 1)
    builder = _Builder(text)
    try:
        for event in yaml.parse(text, Loader=_LOADER):
            builder.take(event)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = " ".join(filter(None, (error.context, error.problem)))
        raise PlainYamlError(" ".join(problem.split()), mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise PlainYamlError(" ".join(str(error).split())) from None
    return builder.content, builder.lines


@dataclass
class _Open:
    """A mapping or list whose end is not read yet; ``values`` counts what it holds."""

    content: Any
    path: str
    anchor: str | None
    values: int = 1
    key: Any = None
    awaits_key: bool = True


class _Builder:
    def __init__(self, text: str) -> None:
        self._text = text
        self.content: Any = None
        self.lines: Lines = {}
        self._documents = 0
        self._open: list[_Open] = []
        self._anchors: dict[str, tuple[Any, int] | None] = {}  # name → value and count; None: not complete

    def take(self, event: Any) -> None:
        line = event.start_mark.line + 1
        anchor = None if isinstance(event, yaml.AliasEvent) else getattr(event, "anchor", None)
        if anchor and not _ANCHOR.match(self._text, event.start_mark.index):
            raise PlainYamlError(f"got the anchor {anchor[:80]!r} without a space after it", line)
        if isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            if event.version or event.tags:
                raise PlainYamlError("got a directive (%), expected plain values", line)
            if self._documents > 1:
                raise PlainYamlError("got a second document, expected one", line)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor, line)
        elif isinstance(event, yaml.ScalarEvent):
            value = _scalar(event, line)
            self._anchors |= {event.anchor: (value, 1)} if event.anchor else {}
            self._add(value, 1, line)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self._start(event, line)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            ended = self._open.pop()
            self._anchors |= {ended.anchor: (ended.content, ended.values)} if ended.anchor else {}
            self._add(ended.content, ended.values, line)

    def _alias(self, name: str | None, line: int) -> None:
        if name is None or name not in self._anchors:
            raise PlainYamlError(f"unknown alias {str(name)[:80]!r}", line)
        known = self._anchors[name]
        if known is None:
            raise PlainYamlError("an alias contains itself", line)
        self._add(*known, line)

    def _start(self, event: Any, line: int) -> None:
        is_mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag is not None:
            raise PlainYamlError(f"got the tag {event.tag[:80]!r}, expected plain values", line)
        if self._open and isinstance(self._open[-1].content, dict) and self._open[-1].awaits_key:
            raise PlainYamlError("got a key that is a list or a mapping, expected a string", line)
        if len(self._open) >= _MOST_LEVELS:
            raise PlainYamlError(f"got more than {_MOST_LEVELS} nested levels", line)
        self._anchors |= {event.anchor: None} if event.anchor else {}
        if self._open and isinstance(self._open[-1].content, list):
            self.lines[self._place()] = line
        self._open.append(_Open({} if is_mapping else [], self._place(), event.anchor))

    def _place(self) -> str:
        """The dotted key of the value that comes next."""
        if not self._open:
            return ""
        parent = self._open[-1]
        name = str(len(parent.content)) if isinstance(parent.content, list) else str(parent.key)
        return f"{parent.path}.{name}" if parent.path else name

    def _add(self, value: Any, values: int, line: int) -> None:
        if not self._open:
            self.content = value
            return
        parent = self._open[-1]
        parent.values += values
        if parent.values > _MOST_VALUES:
            raise PlainYamlError(f"aliases expand to more than {_MOST_VALUES} values", line)
        if isinstance(parent.content, list):
            self.lines.setdefault(self._place(), line)
            parent.content.append(value)
        elif parent.awaits_key:
            if isinstance(value, dict | list):
                raise PlainYamlError("got a key that is a list or a mapping, expected a string", line)
            parent.key, parent.awaits_key = value, False
            if value in parent.content:
                raise PlainYamlError(f"got the key {str(value)[:80]!r} twice", line)
            self.lines[self._place()] = line
        else:
            parent.awaits_key = True
            if parent.key == "<<":
                if not isinstance(value, dict):
                    raise PlainYamlError("got the key '<<' without a mapping", line)
                parent.content.update({name: inner for name, inner in value.items() if name not in parent.content})
            else:
                parent.content[parent.key] = value


def _scalar(event: Any, line: int) -> Any:
    text: str = event.value
    if event.tag is not None:
        raise PlainYamlError(f"got the tag {event.tag[:80]!r}, expected plain values", line)
    if not event.implicit[0]:  # in quotes, or a block
        return text
    if _NULL.fullmatch(text):
        return None
    if _NUMBER_OF_DVC.fullmatch(text):
        raise PlainYamlError(f"got {text[:80]!r}, expected a number without '_' after the sign, or quotes", line)
    if _DATE.fullmatch(text):
        raise PlainYamlError(f"got the date {text[:80]}, expected it in quotes", line)
    if found := _BOOLEAN.fullmatch(text):
        return bool(found[1])
    digits = text.replace("_", "")
    try:
        if _INTEGER.fullmatch(text):
            return int(digits, 0) if re.match("[-+]?0[box]", digits) else int(digits)
        if _FLOAT.fullmatch(text):
            return float(digits.replace(".inf", "inf").replace(".nan", "nan") if digits[-1] in "fnFN" else digits)
    except ValueError as error:  # an integer of more than 4,300 digits
        raise PlainYamlError(" ".join(str(error).split()), line) from None
    return text
