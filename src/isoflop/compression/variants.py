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

from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section, untracked

BASE = "base"
INT8, FLOAT16 = "-int8", "-float16"  # what the names of files in other numbers end with

_RESERVED = ("conditions",)  # a block of metrics/latency.json
_LOSES_ZEROS = ("prune", "qat")  # stages that train without the masks of a sparse network


def _plain(name: str) -> str:
    if name.endswith((INT8, FLOAT16)) or name in _RESERVED:
        raise ValueError(f"a name other than conditions that does not end with {INT8} or {FLOAT16}")
    return name


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("each name once")
    return names


def _base_first(names: list[str]) -> list[str]:
    if names[:1] != [BASE]:
        raise ValueError(f"{BASE} first: the others are compared to it")
    return names


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$"), AfterValidator(_plain)]
Names = Annotated[list[Name], AfterValidator(_distinct)]
Candidates = Annotated[Names, AfterValidator(_base_first)]
Entries = dict[Name, dict[str, Any]]


class Variants(Section):
    """Section ``variants``. What an entry replaces is checked by the stage whose section it is."""

    distill: Entries  # name: {of: model, key: value in place of section distill's}
    prune: Entries  # the same of section prune
    sparsify: Entries  # the same of section sparsify
    qat: Entries  # the same of section qat
    candidates: Candidates  # base first: what is exported, quantized, measured and may be shipped
    float16: Names  # of these also a file with weights of 16 bits
    tflite: Names = untracked()  # of these also a LiteRT file; what is compared is ONNX

    def cross_check(self, params: Mapping[str, Any], file: Path) -> list[str]:
        """Raise UserError if entries name models that do not exist, or each other in a circle."""
        if wrong := misfits(self):
            raise UserError("; ".join(f"{file}: {mistake}" for mistake in wrong))
        return []

    def made_by(self) -> dict[str, str]:
        """Stage → of every model, the base among them."""
        entries = {kind: getattr(self, kind) for kind in KINDS}
        return {BASE: "train"} | {name: kind for kind, made in entries.items() for name in made}


KINDS = tuple(name for name in Variants.model_fields if name not in ("candidates", "float16", "tflite"))


def onnx_files(folder: Path, candidates: Sequence[str], float16: Sequence[str]) -> list[Path]:
    """The files of the candidates, the base first: in float, in 8 bits, and of those of ``float16`` in 16."""
    names = [*candidates, *(name + INT8 for name in candidates), *(name + FLOAT16 for name in float16)]
    return [folder / f"{name}.onnx" for name in names]


def misfits(variants: Variants) -> list[str]:
    """What does not fit together: a line each, the key first."""
    made_by, seen, found = variants.made_by(), {BASE: "train"}, []
    sources: dict[str, str] = {}
    for kind in KINDS:
        for name, entry in getattr(variants, kind).items():
            key = f"variants.{kind}.{name}"
            if name in seen:
                found.append(f"{key}: found a name that {seen[name]} makes, expected a new one")
            seen[name] = kind
            source = sources[name] = entry["of"]
            if source == name or source not in made_by:
                found.append(f"{key}.of: found {source!r}, expected {_one_of(made_by, name)}")
            elif kind in _LOSES_ZEROS and made_by[source] == "sparsify":
                found.append(f"{key}.of: found {source!r}, whose zeros {kind} would not keep; sparsify comes last")
    if not found:
        found += [
            f"variants.{made_by[name]}.{name}.of: found a circle that never comes to {BASE}"
            for name in sources
            if not _starts_at_base(name, sources)
        ]
    for name in variants.candidates:
        if name not in made_by:
            found.append(f"variants.candidates: found {name!r}, expected {_one_of(made_by, '')}")
    for name in variants.float16:
        if name not in variants.candidates:
            found.append(f"variants.float16: found {name!r}, expected one of variants.candidates")
    for name in variants.tflite:
        if name not in made_by:
            found.append(f"variants.tflite: found {name!r}, expected {_one_of(made_by, '')}")
    return found


def _starts_at_base(name: str, sources: Mapping[str, str]) -> bool:
    for _ in sources:
        name = sources.get(name, BASE)
    return name == BASE


def _one_of(names: Mapping[str, str], but: str) -> str:
    return "one of " + ", ".join(name for name in names if name != but)
