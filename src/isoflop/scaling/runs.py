"""The table of runs that a law is fitted to, and reading it from the files of a sweep."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isoflop.errors import UserError
from isoflop.scaling.laws import Floats

MIN_WIDTHS = 3  # fewer cannot tell a floor from a power of N


@dataclass(frozen=True)
class Run:
    """One training run of the study that came to an end."""

    width: int
    parameters: int
    flops_per_image: float  # of training, forward and backward
    fraction: float  # of the training split
    seed: int
    unique_images: int
    epochs: int
    flops: float
    val_nll: float


@dataclass(frozen=True)
class Study:
    """Runs whose loss is a positive number, and how many had none."""

    runs: tuple[Run, ...]
    diverged: int

    @property
    def widths(self) -> list[int]:
        return sorted({run.width for run in self.runs})

    @property
    def fractions(self) -> list[float]:
        return sorted({run.fraction for run in self.runs})

    @property
    def losses(self) -> Floats:
        """Validation losses [M]."""
        return np.array([run.val_nll for run in self.runs], np.float64)

    @property
    def configurations(self) -> npt.NDArray[np.int64]:
        """Number [M] of each run's configuration: runs that differ in their seed alone share one."""
        keys = [(run.width, run.unique_images, run.epochs) for run in self.runs]
        order = {key: number for number, key in enumerate(sorted(set(keys)))}
        return np.array([order[key] for key in keys], np.int64)

    def levels(self, axes: Sequence[str]) -> Floats:
        """Levels [K, M] of the runs on the named axes, which are fields of ``Run``."""
        return np.array([[getattr(run, axis) for run in self.runs] for axis in axes], np.float64)

    def only(self, keep: Sequence[bool]) -> Study:
        """The study with just the runs that ``keep`` marks."""
        return Study(tuple(run for run, kept in zip(self.runs, keep, strict=True) if kept), self.diverged)

    @property
    def all_images(self) -> int:
        """Images of the full training split, as the largest fraction tells."""
        largest = max(self.runs, key=lambda run: run.fraction)
        return round(largest.unique_images / largest.fraction)


def read_study(folder: Path, widths: Sequence[int]) -> Study:
    """Read exactly the files ``width-W.json`` of ``widths``, and no other that an earlier study left there.

    Raises:
        UserError: a file is missing or has another form, or too few widths have a run that came to an end.
    """
    rows: list[Run | None] = []
    for width in sorted(set(widths)):
        rows += _read_runs(folder / f"width-{width}.json")
    runs = tuple(run for run in rows if run is not None)
    study = Study(runs, diverged=len(rows) - len(runs))
    if len(study.widths) < MIN_WIDTHS:
        diverged = f" ({study.diverged} of {len(rows)} runs diverged)" if study.diverged else ""
        raise UserError(
            f"sweep.widths: found runs of {len(study.widths)} widths {study.widths} to fit{diverged}, "
            f"expected at least {MIN_WIDTHS}"
        )
    return study


def discard_other_widths(folder: Path, widths: Sequence[int]) -> None:
    """Remove the runs of widths that the study no longer has; DVC's cache keeps them.

    DVC leaves them lying in the folder, which the stage depends on as a whole: dvc.lock would depend on what had been
    tried before, and a second clone would run the stage again.
    """
    for file in set(folder.glob("width-*.json")) - {folder / f"width-{width}.json" for width in widths}:
        file.unlink()


def _read_runs(file: Path) -> list[Run | None]:
    try:
        content = json.loads(file.read_text())
        return [_run(content, row) for row in content["runs"]]
    except FileNotFoundError:
        raise UserError(f"{file}: not found, but sweep.widths names it; `dvc repro` makes it") from None
    except KeyError as error:
        raise UserError(f"{file}: found no {error}, expected the runs of a sweep") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: found something else ({error}), expected the runs of a sweep") from None


def _run(content: dict[str, Any], row: dict[str, Any]) -> Run | None:
    """The run of a row, or None where its loss is no positive number: it diverged."""
    loss = row["val_nll"]
    if loss is None or row["diverged"] or not (math.isfinite(loss) and loss > 0):
        return None
    run = Run(
        width=int(content["width"]),
        parameters=int(content["parameters"]),
        flops_per_image=float(content["flops_per_image"]),
        fraction=float(row["fraction"]),
        seed=int(row["seed"]),
        unique_images=int(row["unique_images"]),
        epochs=int(row["epochs"]),
        flops=float(row["flops"]),
        val_nll=float(loss),
    )
    if min(run.parameters, run.flops_per_image, run.fraction, run.unique_images, run.epochs, run.flops) <= 0:
        raise ValueError("a size that is not positive")
    return run
