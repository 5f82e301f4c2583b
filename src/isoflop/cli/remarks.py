"""What ``isoflop check`` prints about params.yaml: one mistake or warning per line."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from isoflop.project.checking import Remark
from isoflop.runtime.terminal import printable

_FILE = Path("params.yaml")


def show_remarks(mistakes: Sequence[Remark], warnings: Sequence[Remark]) -> None:
    """Print mistakes, then warnings, to stderr."""
    for kind, remarks in (("error", mistakes), ("warning", warnings)):
        for remark in remarks:
            print(f"{kind}: {printable(remark.located(_FILE))}", file=sys.stderr)
