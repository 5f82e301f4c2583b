"""The table of runs that a law is fitted to, and reading it from the files of a sweep."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isoflop.runtime.errors import UserError
from isoflop.scaling.forms import Floats

MIN_WIDTHS = 3  # fewer cannot tell a floor from a power of N
_NO_BETTER_THAN_CHANCE = 0.9  # of the loss of guessing: a run above has learnt next to nothing
SAME = 1.02  # levels within this factor are one: epochs of whole steps, FLOPs of rounded sizes


@dataclass(frozen=True)
class Run:
    """One training run of the study that came to an end."""

    parameters: float
    unique_samples: float  # in the training split it saw
    seen_samples: float  # over all epochs
    flops: float  # of training, forward and backward
    seed: int
    loss: float  # on data that it was not trained on
    accuracy: float | None = None
    width: int | None = None
    body_parameters: float | None = None  # without embedding and head

    @property
    def epochs(self) -> float:
        return self.seen_samples / self.unique_samples


@dataclass(frozen=True)
class Study:
    """Runs to fit, how many were left out and why, and the size of the whole training split."""

    runs: tuple[Run, ...]
    left_out: Mapping[str, int] = field(default_factory=dict)  # diverged, undertrained: how many
    all_samples: float = 0.0
    assumed: str = ""  # what a table lacked and what stands for it: C = 6 N S (Kaplan et al. 2020)

    @property
    def sizes(self) -> list[float]:
        """Parameters of the models, each once, ascending."""
        return sorted({run.parameters for run in self.runs})

    @property
    def losses(self) -> Floats:
        """Losses [M]."""
        return np.array([run.loss for run in self.runs], np.float64)

    @property
    def configurations(self) -> npt.NDArray[np.int64]:
        """Number [M] of each run's configuration: runs that differ in their seed alone share one."""
        axes = self.axes if self.axes == ("flops",) else ("parameters", "unique_samples", "seen_samples")
        keys = list(zip(*(self._level_numbers(axis) for axis in axes), strict=True))
        order = {key: number for number, key in enumerate(sorted(set(keys)))}
        return np.array([order[key] for key in keys], np.int64)

    def _level_numbers(self, axis: str) -> list[int]:
        """Of each run, which of ``level_values`` it is at."""
        return [int(place) - 1 for place in np.searchsorted(self.level_values(axis), self.column(axis), side="right")]

    @property
    def axes(self) -> tuple[str, ...]:
        """What the study varies: parameters, unique samples, and samples seen where epochs differ too.

        FLOPs where nothing else varies, as in a table that has no other column.
        """
        axes = [axis for axis in ("parameters", "unique_samples") if len(self.level_values(axis)) > 1]
        epochs = [run.epochs for run in self.runs]
        if max(epochs) > SAME * min(epochs):
            axes.append("seen_samples")
        return tuple(axes) or ("flops",)

    @property
    def data_axis(self) -> str:
        """What a budget buys beside size: passes over the data where these vary, else more of the data."""
        return "seen_samples" if "seen_samples" in self.axes else "unique_samples"

    def column(self, axis: str) -> Floats:
        """Levels [M] of one axis, which is a field of ``Run``."""
        return np.array([getattr(run, axis) for run in self.runs], np.float64)

    def level_values(self, axis: str) -> list[float]:
        """The levels of an axis, each once, ascending; those within 2 % of the one before are the same."""
        levels: list[float] = []
        for value in np.unique(self.column(axis)):
            if not levels or value > SAME * levels[-1]:
                levels.append(float(value))
        return levels

    def levels(self, axes: Sequence[str]) -> Floats:
        """Levels [K, M] of the runs on the named axes."""
        return np.stack([self.column(axis) for axis in axes])

    def only(self, keep: Sequence[bool]) -> Study:
        """The study with just the runs that ``keep`` marks."""
        kept = tuple(run for run, wanted in zip(self.runs, keep, strict=True) if wanted)
        return Study(kept, self.left_out, self.all_samples, self.assumed)

    def size_name(self, parameters: float) -> str:
        """``width 32`` where the runs tell their width, else ``2.98e+05 parameters``."""
        widths = {run.width for run in self.runs if run.parameters == parameters} - {None}
        return f"width {widths.pop()}" if len(widths) == 1 else f"{parameters:.3g} parameters"


def read_study(folder: Path, widths: Sequence[int]) -> Study:
    """Read exactly the files ``width-W.json`` of ``widths``, and no other that an earlier study left there.

    Raises:
        UserError: a file is missing or has another form, or too few widths have a run that came to an end.
    """
    runs: list[Run] = []
    marks: Counter[str] = Counter()
    largest = 0.0
    for width in sorted(set(widths)):
        for run, mark, whole in _read_runs(folder / f"width-{width}.json"):
            largest = max(largest, whole)
            marks[mark] += bool(mark)
            runs += [run] if run and not mark else []
    study = Study(tuple(runs), +marks, all_samples=largest)
    if len(study.sizes) < MIN_WIDTHS:
        why = f" (left out: {in_words(study.left_out)})" if study.left_out else ""
        raise UserError(
            f"sweep.widths: found runs of {len(study.sizes)} widths {[run.width for run in _first_of_each(study)]} "
            f"to fit{why}, expected at least {MIN_WIDTHS}"
        )
    return study


def in_words(left_out: Mapping[str, int]) -> str:
    """``2 diverged, 1 undertrained``."""
    return ", ".join(f"{count} {mark}" for mark, count in sorted(left_out.items()))


def discard_other_widths(folder: Path, widths: Sequence[int]) -> None:
    """Remove the runs of widths that the study no longer has; DVC's cache keeps them.

    DVC leaves them lying in the folder, which the stage depends on as a whole: dvc.lock would depend on what had been
    tried before, and a second clone would run the stage again.
    """
    for file in set(folder.glob("width-*.json")) - {folder / f"width-{width}.json" for width in widths}:
        file.unlink()


def mark_of(loss: float | None, chance: float | None) -> str:
    """Why a run is left out: ``diverged`` where its loss is no positive number, ``undertrained`` where it is no better
    than guessing by a tenth, else nothing.

    Args:
        chance: the loss of guessing, if known; the logarithm of the number of classes for the NLL.
    """
    if loss is None or not (math.isfinite(loss) and loss > 0):
        return "diverged"
    return "undertrained" if chance is not None and loss > _NO_BETTER_THAN_CHANCE * chance else ""


def _first_of_each(study: Study) -> list[Run]:
    return sorted({run.parameters: run for run in study.runs}.values(), key=lambda run: run.parameters)


def _read_runs(file: Path) -> list[tuple[Run | None, str, float]]:
    """Each row's run (None where it has no loss), its mark, and the images of the whole split that it was part of."""
    try:
        content = json.loads(file.read_text())
        return [_run(content, row) for row in content["runs"]]
    except FileNotFoundError:
        raise UserError(f"{file}: not found, but sweep.widths names it; `dvc repro` makes it") from None
    except KeyError as error:
        raise UserError(f"{file}: found no {error}, expected the runs of a sweep") from None
    except (TypeError, ValueError) as error:
        raise UserError(f"{file}: found something else ({error}), expected the runs of a sweep") from None


def _run(content: dict[str, Any], row: dict[str, Any]) -> tuple[Run | None, str, float]:
    loss = row["val_nll"]
    mark = "diverged" if row["diverged"] else mark_of(loss, float(content["chance_nll"]))
    whole = float(row["unique_images"]) / float(row["fraction"])
    if mark == "diverged":
        return None, mark, whole
    run = Run(
        parameters=int(content["parameters"]),
        unique_samples=int(row["unique_images"]),
        seen_samples=int(row["images_seen"]),
        flops=float(row["flops"]),
        seed=int(row["seed"]),
        loss=float(loss),
        accuracy=None if row["val_accuracy"] is None else float(row["val_accuracy"]),
        width=int(content["width"]),
        body_parameters=int(content["body_parameters"]),
    )
    if min(run.parameters, run.unique_samples, run.seen_samples, run.flops) <= 0:
        raise ValueError("a size that is not positive")
    return run, mark, whole
