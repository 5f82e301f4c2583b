"""What the pipeline measured, read from its metrics files and put together for people: the report and the summary."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from isoflop.errors import UserError

Facts = dict[str, Any]


def read_facts(file: Path) -> Facts:
    """A JSON file that a stage wrote.

    Raises:
        UserError: it is missing or broken.
    """
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: not found; run `dvc repro`") from None
    except ValueError as error:
        raise UserError(f"{file}: not readable ({error}); `dvc checkout` restores it") from None
    if not isinstance(facts, dict):
        raise UserError(f"{file}: found {type(facts).__name__}, expected a mapping; `dvc checkout` restores it")
    return facts


def share_interval(share: float, count: int) -> tuple[float, float]:
    """The 95 % interval of a share that was found in ``count`` cases (Wilson 1927)."""
    z = 1.959964
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    reach = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return max(0.0, middle - reach), min(1.0, middle + reach)
