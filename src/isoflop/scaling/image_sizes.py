"""A study at several image sizes: a law for each, and the size to use for a goal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.scaling.analysis import analyse
from isoflop.scaling.asking import Answer, Goal, answer, at_point
from isoflop.scaling.law_file import KnownLaw, law_content
from isoflop.scaling.measured import Measured, best_measured, configurations
from isoflop.scaling.planning import FLAT
from isoflop.scaling.results import rounded
from isoflop.scaling.tables.runs import SAME, Study, image_sizes, read_study
from isoflop.scaling.without_law import lack


@dataclass(frozen=True)
class SizePoint:
    """The best configuration of a width on all images: means over its seeds."""

    width: int
    flops: float  # of the training
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class AtSize:
    """The loss for a goal at one image size, and the FLOPs of the training."""

    image_size: int
    loss: float
    flops: float
    width: float | None


@dataclass(frozen=True)
class SizeChoice:
    """The image size for a goal: by the law of each size, or by the best measured configurations."""

    chosen: int
    by_law: bool
    sizes: tuple[AtSize, ...]  # ascending; those that reach the goal


def studies_by_size(runs: Path, widths: Sequence[int]) -> dict[int, Study]:
    """Return the study at each image size, ascending; empty if the runs have one size.

    Raises:
        UserError: a file of runs is missing or malformed.
    """
    return {size: read_study(runs, widths, size) for size in image_sizes(runs, widths)}


def add_sizes(
    studies: Mapping[int, Study], widths: Sequence[int], bootstraps: int, seed: int, *, law: Path, metrics: Path
) -> None:
    """Fit a law for each image size, and add them to law.json and scaling.json."""
    laws, rows = {}, []
    for size, study in studies.items():
        missing = lack(study, widths)
        found = None if missing else analyse(study, bootstraps, seed)
        if found:
            laws[str(size)] = law_content(found)
        rows.append(
            {
                "image_size": size,
                "runs": len(study.runs),
                "form": found and found.law.form.label,
                "lacks": missing and missing.reason,
                "points": [asdict(point) for point in points_by_width(study)],
            }
        )
    law.write_text(json.dumps(json.loads(law.read_text()) | {"image_sizes": laws}) + "\n")
    write_json(metrics, json.loads(metrics.read_text()) | {"image_sizes": rounded(rows)})


def choose_size(laws: Mapping[int, KnownLaw], studies: Mapping[int, Study], goal: Goal) -> SizeChoice | None:
    """Return the image size for a goal: the fewest FLOPs for a loss, else the smallest size within 1 % of the lowest
    loss. None if fewer than two sizes have an answer."""
    predicted = [one for size, law in sorted(laws.items()) if (one := _by_law(size, law, goal))]
    best = {size: best_measured(configurations(study), goal) for size, study in sorted(studies.items())}
    measured = [AtSize(size, one.loss, one.flops, one.width) for size, one in best.items() if one]
    by_law = len(predicted) == len(studies)
    sizes = tuple(predicted if by_law else measured)
    if len(sizes) < 2:
        return None
    if goal.loss is not None:
        chosen = min(sizes, key=lambda one: one.flops)
    else:
        lowest = min(one.loss for one in sizes)
        chosen = next(one for one in sizes if one.loss <= FLAT * lowest)
    return SizeChoice(chosen.image_size, by_law, sizes)


def _by_law(size: int, known: KnownLaw, goal: Goal) -> AtSize | None:
    """The compute-optimal training, or for a number of parameters the training on all images; None without one."""
    planner = known.planner
    try:
        if goal.parameters is not None:
            samples = goal.samples or known.max_unique_samples
            found: Any = at_point(known, parameters=goal.parameters, samples=samples, epochs=goal.epochs)
        else:
            found = answer(known, goal)
    except UserError:
        return None
    if isinstance(found, Answer):
        parameters = found.levels["parameters"]
        seen = found.levels["seen_samples"]
        return AtSize(size, found.predicted, planner.sizes.flops(parameters, seen), planner.sizes.width(parameters))
    return AtSize(size, float(found.loss), float(found.flops), found.width)


def points_by_width(study: Study) -> list[SizePoint]:
    """One point per width: the configuration with the lowest loss of those on the most images."""
    known = [one for one in configurations(study) if one.unique_samples * SAME >= study.all_samples]
    best: dict[int, Measured] = {}
    for one in known:  # the lowest loss first
        if one.width is not None:
            best.setdefault(one.width, one)
    return [SizePoint(width, best[width].flops, best[width].loss, best[width].accuracy) for width in sorted(best)]
