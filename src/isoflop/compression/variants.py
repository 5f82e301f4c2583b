"""Section ``variants``: the variants of the base, their names, and their ONNX files.

``variants.KIND.NAME`` defines a model NAME that stage KIND (``distill``, ``prune``, ``sparsify``, ``qat``) makes from
the model ``of``. Its other keys replace values of section KIND. ``candidates`` are exported, quantized and measured;
one of their files is shipped.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from isoflop.runtime.errors import UserError
from isoflop.runtime.params import Section, untracked

BASE = "base"
INT8, FLOAT16 = "-int8", "-float16"  # endings of the names of INT8 and FP16 files

_RESERVED = ("conditions",)  # names of blocks of metrics/latency.json that are no variants
_LOSES_ZEROS = ("prune", "qat")  # stages that fine-tune all weights, zeros included


def _plain(name: str) -> str:
    if name.endswith((INT8, FLOAT16)) or name in _RESERVED:
        raise ValueError(f"a name that is not conditions and does not end with {INT8} or {FLOAT16}")
    return name


def _distinct(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("distinct names")
    return names


def _base_first(names: list[str]) -> list[str]:
    if names[:1] != [BASE]:
        raise ValueError(f"{BASE} as the first name, because the others are compared with it")
    return names


Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=64), AfterValidator(_plain)]
Names = Annotated[list[Name], Field(max_length=1000), AfterValidator(_distinct)]
Candidates = Annotated[Names, AfterValidator(_base_first)]
Entries = Annotated[dict[Name, dict[str, Any]], Field(max_length=1000)]


class Variants(Section):
    """Section ``variants``. Each stage validates the values that its entries replace."""

    distill: Entries  # name: {of: model, key: value that replaces the one in section distill}
    prune: Entries  # the same for section prune
    sparsify: Entries  # the same for section sparsify
    qat: Entries  # the same for section qat
    candidates: Candidates  # models to export, quantize and measure, of which one is shipped; base first
    float16: Names  # candidates that are also converted to FP16
    tflite: Names = untracked()  # models that are also exported to LiteRT; the comparison covers ONNX files only

    def cross_check(self, params: Mapping[str, Any], file: Path) -> list[str]:
        """Raise UserError if an entry names a model that does not exist, or entries name each other in a cycle."""
        if wrong := misfits(self):
            raise UserError("; ".join(f"{file}: {mistake}" for mistake in wrong))
        return []

    def made_by(self) -> dict[str, str]:
        """The stage that makes each model, by the model's name; the base included."""
        entries = {kind: getattr(self, kind) for kind in KINDS}
        return {BASE: "train"} | {name: kind for kind, made in entries.items() for name in made}


KINDS = tuple(name for name in Variants.model_fields if name not in ("candidates", "float16", "tflite"))


def onnx_files(folder: Path, candidates: Sequence[str], float16: Sequence[str]) -> list[Path]:
    """The candidates' files: all in float, the base first, then all in INT8, then those of ``float16`` in FP16."""
    names = [*candidates, *(name + INT8 for name in candidates), *(name + FLOAT16 for name in float16)]
    return [folder / f"{name}.onnx" for name in names]


def misfits(variants: Variants) -> list[str]:
    """One message, starting with the key, for each reference in ``variants`` that is wrong."""
    made_by, seen, found = variants.made_by(), {BASE: "train"}, []
    sources: dict[str, str] = {}
    for kind in KINDS:
        for name, entry in getattr(variants, kind).items():
            key = f"variants.{kind}.{name}"
            if name in seen:
                found.append(f"{key}: got a name that stage {seen[name]} makes already, expected another one")
            seen[name] = kind
            source = sources[name] = entry["of"]
            if source == name or source not in made_by:
                found.append(f"{key}.of: got {source!r}, expected {_one_of(made_by, name)}")
            elif kind in _LOSES_ZEROS and made_by[source] == "sparsify":
                found.append(
                    f"{key}.of: got {source!r}, whose zeros {kind} would not keep, expected a dense model; "
                    "fix: make sparsify the last step"
                )
    if not found:
        found += [
            f"variants.{made_by[name]}.{name}.of: got a cycle, expected a chain of models that starts at {BASE}"
            for name in sources
            if not _starts_at_base(name, sources)
        ]
    for name in variants.candidates:
        if name not in made_by:
            found.append(f"variants.candidates: got {name!r}, expected {_one_of(made_by, '')}")
    for name in variants.float16:
        if name not in variants.candidates:
            found.append(f"variants.float16: got {name!r}, expected one of variants.candidates")
    for name in variants.tflite:
        if name not in made_by:
            found.append(f"variants.tflite: got {name!r}, expected {_one_of(made_by, '')}")
    return found


def _starts_at_base(name: str, sources: Mapping[str, str]) -> bool:
    for _ in sources:
        name = sources.get(name, BASE)
    return name == BASE


def _one_of(names: Mapping[str, str], but: str) -> str:
    return "one of " + ", ".join(name for name in names if name != but)
