"""Reading the documentation as the tests do: its blocks of code, what is outside of them, and what a block shows.

The convention of ```` ```console ````: lines after ``$ `` are commands, and all others are output, each a part of a
line that must come, in that order; ``…`` stands for anything, and spaces for any number of them.
"""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from tests.conftest import ROOT, run_command

DOCS = ROOT / "docs"
PAGES = [*(ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY")), *sorted(DOCS.rglob("*.md"))]

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)
_SOMEBODY = {
    f"GIT_{who}_{what}": "test@example.invalid" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")
}


def blocks(text: str, language: str) -> list[str]:
    """The contents of a page's blocks of a language, in order."""
    return [content for named, content in _BLOCK.findall(text) if named == language]


def prose(text: str) -> str:
    """A page without its blocks."""
    return _BLOCK.sub("", text)


def code(text: str) -> list[str]:
    """Everything that a page sets as code, each span and each line of a block."""
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]
    return spans + [line for _, content in _BLOCK.findall(text) for line in content.splitlines()]


def unseen(shown: list[str], output: str) -> str | None:
    """The first of the lines ``shown`` that does not come in ``output`` after those before it."""
    lines = iter(output.splitlines())
    for line in shown:
        parts = [r"\s+".join(map(re.escape, part.split())) for part in line.split("…")]
        pattern = re.compile(r".*?".join(parts))
        if not any(pattern.search(came) for came in lines):
            return line
    return None


def run_block(block: str, cwd: Path, **env: str) -> Path:
    """Run a console block's commands, one shell for all, and look for what it shows; the folder that it ends in."""
    commands = [line[2:] for line in block.splitlines() if line.startswith("$ ")]
    shown = [line for line in block.splitlines() if not line.startswith("$ ")]
    where = cwd.parent / "ends-in"
    script = "\n".join(["exec 2>&1", "set -e", *commands, f"pwd > {shlex.quote(str(where))}"])
    done: subprocess.CompletedProcess[str] = run_command("bash", "-c", script, cwd=cwd, check=False, **_SOMEBODY, **env)
    assert done.returncode == 0, f"this block failed:\n{block}\n{done.stdout[-4000:]}"
    missed = unseen(shown, done.stdout)
    assert missed is None, f"not seen: {missed}\nof the block:\n{block}\nwhose output was:\n{done.stdout[-6000:]}"
    return Path(where.read_text().strip())
