"""The variants of the base: how section ``variants`` names them, and the ONNX files that come of them.

``variants.KIND.NAME`` makes a model NAME by stage KIND (``distill``, ``prune``, ``sparsify``, ``qat``) of the model
``of``, with what else it says in place of section KIND. ``candidates`` go on: each is exported, quantized, measured,
and may be shipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

BASE = "base"
INT8, FLOAT16 = "-int8", "-float16"  # what the names of files in other numbers end with

_LISTS = ("candidates", "float16")


def _plain(name: str) -> str:
    if name.endswith((INT8, FLOAT16)):
        raise ValueError(f"a name that does not end with {INT8} or {FLOAT16}, as the files made of it do")
    return name


def _base_first(names: list[str]) -> list[str]:
    if names[:1] != [BASE] or len(set(names)) < len(names):
        raise ValueError(f"different names, {BASE} first: the others are compared to it")
    return names


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$"), AfterValidator(_plain)]
Candidates = Annotated[list[Name], AfterValidator(_base_first)]


def onnx_files(folder: Path, candidates: Sequence[str], float16: Sequence[str]) -> list[Path]:
    """The files of the candidates, the base first: in float, in 8 bits, and of those of ``float16`` in 16."""
    names = [*candidates, *(name + INT8 for name in candidates), *(name + FLOAT16 for name in float16)]
    return [folder / f"{name}.onnx" for name in names]


def mistakes(variants: Mapping[str, Any]) -> list[str]:
    """What does not fit together in section ``variants``, whose types are right: a line each, the key first."""
    kinds = {kind: entries for kind, entries in variants.items() if kind not in _LISTS}
    made_by: dict[str, str] = {BASE: "train"}
    found = []
    for kind, entries in kinds.items():
        for name in entries:
            if name in made_by:
                found.append(f"variants.{kind}.{name}: found a name that {made_by[name]} makes, expected a new one")
            made_by[name] = kind
    for kind, entries in kinds.items():
        for name, entry in entries.items():
            if entry["of"] == name or entry["of"] not in made_by:
                found.append(f"variants.{kind}.{name}.of: found {entry['of']!r}, expected {_other(made_by, name)}")
    for name in variants["candidates"]:
        if name not in made_by:
            found.append(f"variants.candidates: found {name!r}, expected {_other(made_by, '')}")
    for name in variants["float16"]:
        if name not in variants["candidates"]:
            found.append(f"variants.float16: found {name!r}, expected one of variants.candidates")
    return found


def _other(names: Mapping[str, str], than: str) -> str:
    return "one of " + ", ".join(name for name in names if name != than)
