"""Phrases that read as if translated, and words that the field does not use, stay out of pages, messages and code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.pages import DOCS

# A phrase that may not come back, as a regular expression without regard to case, and what to write instead.
PHRASES = {
    r"\bdoubt(s|ed|ful|ing)?\b": "diagnostic, warning",
    r"\b(un)?taught\b": "distilled, control",
    r"\bcame: ": "measured",
    r"\b(what|which|that|nothing|figures?) came\b": "measured, the result",
    r"\bc[ao]mes? to (beside|what)\b": "the result",
    r"\bwhat (it|they|that|this|the \w+) (comes?|came) to\b": "the result",
    r"\bcomes? of (it|them|that|this)\b": "the result of",
    r"\boff by [+{-]": "error",
    r"\blest\b": "so that … not",
    r"\bas it comes\b": "default",
    r"\bat home\b": "(leave it out)",
    r"\bmend(s|ed|ing|able)?\b": "fix",
    r"\bfore(told|tells?|sees?|seen)\b": "predict",
    r"\bso many\b": "n, the number of",
    r"\btold to\b": "logged to, unless --option is given",
    r"\b(linux|machine|os) tells\b": "the OS reports",
    r"\bamiss\b": "a problem",
    r"\ba slip\b": "a mistake",
    r"\bof (the user's|one's) own\b": "the user's, separate",
    r"\banew\b": "again",
    r"\b(lay|lays|laid) (a|the|out a) (new )?project\b": "create a project",
    r"\bspeaks? against\b": "weaknesses, diagnostics",
    r"\bspared\b": "saved",
    r"\bsettl(e|es|ed|ing)\b": "recalibrate, decide, resolve",
    r"\bskip(s|ped|ping)? easy\b": "InfoBatch",
    r"\bmicro-batch(es)?\b": "gradient accumulation",
    r"\bunder (the )?rounding\b": "with fake quantization",
    r"\bin (8|16) bits\b": "INT8, FP16",
    r"\b(rounding|numbers?|weights) (in|of) (8|16) bits\b": "INT8, FP16",
    r"\bnot to be trusted\b": "do not extrapolate",
    r"\bheld out loose\b": "name the diagnostic",
    r"\b(without|has) a way to\b": "without access to",
    r"\bwithout a word\b": "without a message",
    r"\bto be had\b": "available",
    r"\bfor who\b": "for whoever",
    r"\bsays (so|of itself)\b": "reports",
    r"\bthe law (says|said|expects|expected)\b": "predicts",
    r"\bwere right\b": "accurate, correct",
    r"\bto judge\b": "to evaluate, to validate",
    r"\bgrey\b": "grayscale",
    r"\d\.\d+ points\b": "pp",
    r"\bpoints of (\w+ )?accuracy\b": "percentage points (pp)",
    r"\b(a|an|one) (folder|row|line|file|module|noun|thread|key) (a|an) \w": "one … per …",
}

HISTORY = ("LOG.md", "CHANGELOG.md", "migration.py")  # they name what was


def _files(top: Path, *suffixes: str) -> Iterator[Path]:
    yield from (file for file in sorted(top.rglob("*")) if file.suffix in suffixes and file.name not in HISTORY)


def _groups() -> dict[str, list[Path]]:
    packages = sorted(folder for folder in (ROOT / "src" / "isoflop").iterdir() if (folder / "__init__.py").exists())
    top = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")]
    return {
        "pages": [*top, *_files(DOCS, ".md")],
        "stages": [*_files(ROOT / "stages", ".py")],
        "presets": [*_files(ROOT / "presets", ".yaml"), ROOT / "dvc.yaml", ROOT / "Makefile"],
        "isoflop": sorted((ROOT / "src" / "isoflop").glob("*.py")),
        **{folder.name: [*_files(folder, ".py", ".html", ".js")] for folder in packages},
    }


def banned(text: str) -> list[str]:
    """Each banned phrase in ``text``, with its line and what to write instead; a phrase may span two lines."""
    text = re.sub(r"\n[ \t]*(#|//)?[ \t]*", lambda found: "\n" + " " * (len(found[0]) - 1), text)
    found = []
    for pattern, instead in PHRASES.items():
        for hit in re.finditer(pattern.replace(" ", r"\s+"), text, flags=re.IGNORECASE):
            line = text.count("\n", 0, hit.start()) + 1
            found.append(f"{line}: “{' '.join(hit[0].split())}”: {instead}")
    return found


@pytest.mark.parametrize("group", _groups())
def test_no_phrase_comes_back(group: str) -> None:
    files = _groups()[group]
    assert files
    assert [f"{file.relative_to(ROOT)}:{hit}" for file in files for hit in banned(file.read_text())] == []


@pytest.mark.parametrize(
    "text",
    [
        "0.0186 came: off by +51 %",
        "trained under the rounding of 8 bits",
        "a law that is not to be trusted\n    beyond its runs",
        "# lest a\n# slip comes out after hours",
        "a figure of so many inches",
        "as Linux tells it",
        "a row a reason",
        "0.3 points lost",
    ],
)
def test_the_search_finds(text: str) -> None:
    assert banned(text)


@pytest.mark.parametrize(
    "text",
    [
        "at least one",
        "a restricted list",
        "scaled to 8 bits per channel",
        "240 points of the law",
        "a modest settlement",
    ],
)
def test_the_search_leaves(text: str) -> None:
    assert banned(text) == []
