"""A study whose runs do not identify a law: what it lacks, the command to change it, and the outputs of its stages.

Too few usable runs are a result, not an error: ``scaling`` and ``forecast`` write the same files with None for what
does not exist, and ``lacks`` in law.json and scaling.json says why.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isoflop.runtime.files import write_json
from isoflop.scaling.tables.runs import MIN_WIDTHS, PRETRAINED, Study, format_counts

_COLUMNS = ["parameters", "unique_samples", "seen_samples", "flops", "body_parameters", "seed", "loss", "predicted",
            "held_out"]  # fmt: skip


@dataclass(frozen=True)
class Lack:
    """What a study lacks for a law, and a command that would change it; None if no parameter of the project does."""

    reason: str
    command: str | None

    def __str__(self) -> str:
        return f"no scaling law: {self.reason}" + (f"; next: `{self.command}`" if self.command else "")


def lack(study: Study, widths: Iterable[int]) -> Lack | None:
    """Return what ``study`` lacks to fit a law; None if it has usable runs of at least 3 sizes.

    Args:
        widths: ``sweep.widths``.
    """
    if len(study.sizes) >= MIN_WIDTHS:
        return None
    usable = sorted({run.width for run in study.runs if run.width is not None})
    if study.excluded.get(PRETRAINED) and not usable:
        reason = (
            "the study trains networks of several widths from random weights, so it is skipped with model.pretrained; "
            "a project that `isoflop init --from-scratch` creates has a study"
        )
        return Lack(reason, None)
    named = f" ({', '.join(map(str, usable))})" if usable else ""
    why = f"; excluded: {format_counts(study.excluded)}" if study.excluded else ""
    reason = f"got usable runs of {len(usable)} widths{named}, expected at least {MIN_WIDTHS}{why}"
    return Lack(reason, f"dvc exp run -S {_setting(study, sorted(set(widths)))}")


def _setting(study: Study, widths: Sequence[int]) -> str:
    """Return the parameter to change for the most frequent reason of exclusion, as an argument for a shell."""
    frequent = max(study.excluded, key=lambda reason: study.excluded[reason], default="")
    if frequent == "diverged":
        return "recipe.gradient_clip=1.0"
    if frequent in ("undertrained", "not started"):
        longest = study.most_epochs
        return f"'sweep.runs.epochs=[{2 * longest},{4 * longest}]'"
    if frequent == "overfitted":
        shortest = study.fewest_epochs
        return f"'sweep.runs.epochs=[{shortest // 4 or 1},{shortest // 2}]'" if shortest > 3 else "augment.views=16"
    return f"'sweep.widths=[{','.join(map(str, [*widths, 2 * widths[-1]]))}]'"


def write_without_law(study: Study, missing: Lack, law: Path, metrics: Path, points: Path, pictures: Path) -> None:
    """Write the outputs of stage ``scaling`` for a study without a law; ``pictures`` is an empty folder."""
    law.write_text(json.dumps({"lacks": asdict(missing)}) + "\n")
    write_json(metrics, facts_without_law(study, missing))
    with points.open("w", newline="") as stream:
        rows = csv.writer(stream, lineterminator="\n")
        rows.writerow(_COLUMNS)
        for run in study.runs:
            sizes = (run.parameters, run.unique_samples, run.seen_samples, run.flops, run.body_parameters or 0)
            rows.writerow([*(f"{size:.10g}" for size in sizes), run.seed, f"{run.loss:.6g}", "", "false"])
    pictures.mkdir()


def facts_without_law(study: Study, missing: Lack) -> dict[str, Any]:
    """Return the content of scaling.json for a study without a law: the keys of ``results.facts``, and ``lacks``."""
    return {
        "lacks": asdict(missing),
        "form": None,
        "objective": None,
        "objective_value": None,
        "runs": len(study.runs),
        "excluded": dict(sorted(study.excluded.items())),
        "dropped": [],
        "metric": study.metric,
        "unit": study.unit,
        "configurations": len(set(study.configurations.tolist())) if study.runs else 0,
        "parameters": {},
        "forms": [],
        "seed_noise": None,
        "configuration_noise": None,
        "held_out": None,
        "optimal": {},
        "profiles": [],
        "profile_exponent": None,
        "exponents": None,
        "data_question": None,
        "next_run": None,
        "resampling": None,
        "discrepancy": None,
        "trusted_to": {},
        "backtests": [],
        "diagnostics": [],
    }


def forecast_without_law(width: int) -> dict[str, Any]:
    """Return the content of forecast.json for a study without a law."""
    unknown = ("parameters", "unique_samples", "epochs", "val_nll", "low", "high", "val_accuracy",
               "val_accuracy_low", "val_accuracy_high", "extrapolation")  # fmt: skip
    return {"width": width, "in_study": False, **dict.fromkeys(unknown), "trusted": False, "flags": [],
            "widths": {}, "formats": {"float": None, "int8": None}}  # fmt: skip


def read_lack(law: Path) -> Lack | None:
    """Return what the study lacks, as ``write_without_law`` wrote it to law.json; None if the file holds a law."""
    try:
        return Lack(**json.loads(law.read_text())["lacks"])
    except (OSError, ValueError, KeyError, TypeError):  # law_file.read_law reports a file that is not readable
        return None
