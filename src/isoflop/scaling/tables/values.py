"""Cells of a table as numbers, and conditions on rows such as ``depth=2`` and ``flops>1e20``."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

from isoflop.runtime.errors import UserError
from isoflop.scaling.tables.files import Table

_SCALES = {
    "": 1.0, "k": 1e3, "thousand": 1e3, "m": 1e6, "mn": 1e6, "million": 1e6, "b": 1e9, "bn": 1e9, "g": 1e9,
    "billion": 1e9, "t": 1e12, "tn": 1e12, "trillion": 1e12,
}  # fmt: skip
_FLOP_SCALES = {"p": 1e15, "e": 1e18, "z": 1e21, "y": 1e24}  # only before FLOPs: "3e" alone is no number
_NUMBER = re.compile(r"(?P<number>[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?)\s*(?P<scale>[a-z]*)", re.IGNORECASE)
_NOUNS = re.compile(
    r"[-\s]*(flops?|params?|parameters|tokens?|samples?|images?|examples?|seqs?|sequences)$", re.IGNORECASE
)
_MISSING = {
    "", ".", "none", "null", "n/a", "n.a.", "na", "<na>", "nat", "-", "--", "---", "\N{EN DASH}", "\N{EM DASH}", "?",
    "crashed", "failed", "missing", "#n/a", "undefined", "unknown", "tbd", "diverged", "oom", "error", "timeout",
    "nan%",
}  # fmt: skip
_SHEET_ERROR = re.compile(r"#[A-Z0-9/]+[!?]")  # of spreadsheets, such as #DIV/0!
_ABOUT = re.compile(r"^[~\N{ALMOST EQUAL TO}]\s*")
_UNCERTAINTY = re.compile(r"\s*(\(\d+\)|(\N{PLUS-MINUS SIGN}|\+/-).*)$")  # after a number: 3.11(3), 3.11 ± 0.03
_POWER_OF_TEN = re.compile(r"(?<=\d)\s*[\N{MULTIPLICATION SIGN}\N{MIDDLE DOT}*x]\s*10\s*(\^|\*\*)?\s*\{?([-+]?\d+)\}?")
_SUPERSCRIPTS = str.maketrans("\N{SUPERSCRIPT ZERO}¹²³\N{SUPERSCRIPT FOUR}\N{SUPERSCRIPT FIVE}\N{SUPERSCRIPT SIX}"
                              "\N{SUPERSCRIPT SEVEN}\N{SUPERSCRIPT EIGHT}\N{SUPERSCRIPT NINE}\N{SUPERSCRIPT MINUS}",
                              "0123456789-")  # fmt: skip
_CONDITION = re.compile(r"\s*(?P<name>.+?)\s*(?P<sign><=|>=|!=|==|=|<|>)\s*(?P<value>.*?)\s*")
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "==": operator.eq, "!=": operator.ne,
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge,
}  # fmt: skip


def number(value: Any, *, decimal_comma: bool = False) -> float | None:
    """The number in a cell, nan and infinities included; None if the cell is empty or marks a missing value.

    Reads 125000000, "125,000,000", "125M", "1.3B", "2.5B tokens", "3.1 ZFLOPs", "55.2%", "~3 × 10^8" and "2.31 ± 0.02".

    Raises:
        ValueError: the cell holds something else.
    """
    if value is None or isinstance(value, bool):
        return None if value is None else float(value)
    if not isinstance(value, str):
        return float(value)
    text = value.strip().strip("\"'").replace("\N{MINUS SIGN}", "-")
    if text.lower() in _MISSING or _SHEET_ERROR.fullmatch(text):
        return None
    text = _UNCERTAINTY.sub("", _ABOUT.sub("", text))
    text = _POWER_OF_TEN.sub(r"e\2", text.translate(_SUPERSCRIPTS))
    try:
        return float(text) if "," not in text and not decimal_comma else _scaled(text, decimal_comma)
    except ValueError:
        return _scaled(text, decimal_comma)


def _scaled(text: str, decimal_comma: bool) -> float:
    noun = _NOUNS.search(text)
    bare = text[: noun.start()] if noun else text
    bare = re.sub(r"(?<=\d)[\s\N{NO-BREAK SPACE}\N{NARROW NO-BREAK SPACE}_'](?=\d{3})", "", bare)
    if decimal_comma:
        bare = re.sub(r"\.(?=\d{3}(\D|$))", "", bare).replace(",", ".")
    elif re.match(r"[-+]?\d{1,3}(,\d{3})+(?!\d)", bare):
        bare = bare.replace(",", "")
    percent = bare.endswith("%")
    match = _NUMBER.fullmatch(bare.rstrip("%").strip())
    scales = _SCALES | (_FLOP_SCALES if noun and noun[1].lower().startswith("flop") else {})
    if match is None or match["scale"].lower() not in scales:
        return float(text)  # "nan" and "inf", or a ValueError
    return float(match["number"]) * scales[match["scale"].lower()] / (100 if percent else 1)


def matching(table: Table, conditions: Sequence[str], option: str = "--where") -> list[int]:
    """Indices of the rows that meet all conditions COLUMN=VALUE; also <, >, <=, >= and !=.

    Numbers compare as numbers, so that "depth=2" also keeps "2.0". Rows without a value meet none but ``!=``.

    Raises:
        UserError: a condition is malformed, or its column does not exist.
    """
    kept = list(range(len(table.rows)))
    for condition in conditions:
        match = _CONDITION.fullmatch(condition)
        if match is None:
            raise UserError(f"{option}: got {condition!r}, expected COLUMN=VALUE, or <, >, <=, >= or != in place of =")
        name = table.name(match["name"], f"{option} {condition}")
        meets = _test(match["sign"], match["value"].strip("\"'"), f"{option}: got {condition!r}", table.decimal_comma)
        kept = [row for row in kept if meets(table.rows[row][name])]
    return kept


def _test(sign: str, value: str, got: str, decimal_comma: bool) -> Callable[[Any], bool]:
    compare = _SIGNS[sign]
    limit = _number_or_none(value, False)
    if limit is None and sign in ("<", ">", "<=", ">="):
        raise UserError(f"{got}, expected a number after {sign}")

    def meets(cell: Any) -> bool:
        known = _number_or_none(cell, decimal_comma)
        if limit is not None and known is not None:
            return compare(known, limit)
        return sign in ("=", "==", "!=") and compare("" if cell is None else str(cell), value)

    return meets


def _number_or_none(value: Any, decimal_comma: bool) -> float | None:
    try:
        found = number(value, decimal_comma=decimal_comma)
    except (TypeError, ValueError):
        return None
    return None if found is None or math.isnan(found) else found
