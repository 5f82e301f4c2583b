"""The study that a law is fitted to: its runs, read from the files of a sweep. ``tables`` reads CSV and Parquet."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isoflop.runtime.errors import UserError
from isoflop.scaling.forms import AXES, Floats

PRETRAINED = "not started with pretrained weights"  # why the runs of model.pretrained are excluded
MIN_WIDTHS = 3  # with fewer, E is not identifiable
_MAX_SHARE_OF_CHANCE = 0.9  # a run whose loss is a larger share of the chance loss is undertrained
SAME = 1.02  # levels within this factor count as one level of an axis, as rounded epochs and sizes differ slightly
_EQUAL = 1.001  # only runs within this factor are repeats of one configuration


@dataclass(frozen=True)
class Run:
    """One finished training run."""

    parameters: float
    unique_samples: float  # in its training split
    seen_samples: float  # over all epochs
    flops: float  # of training, forward and backward
    seed: int
    loss: float  # on validation data
    accuracy: float | None = None
    width: int | None = None
    body_parameters: float | None = None  # excluding embedding and head
    weight: float = 1.0  # in the fit, relative to the other runs
    held: bool = False  # chosen to be held out, to test the law
    row: int = field(default=0, compare=False)  # of the table

    @property
    def epochs(self) -> float:
        return self.seen_samples / self.unique_samples


@dataclass(frozen=True)
class Study:
    """The runs to fit, the number of excluded runs by reason, and the size of the full training split."""

    runs: tuple[Run, ...]
    excluded: Mapping[str, int] = field(default_factory=dict)  # number of runs by reason, see exclusion_reason
    all_samples: float = 0.0
    assumed: str = ""  # what a table lacked and what was assumed, such as C = 6 N S (Kaplan et al. 2020)
    dropped: tuple[tuple[int, str], ...] = ()  # row of a table and why it was left out
    named: frozenset[str] = frozenset(AXES)  # axes that are known; a table may lack some
    metric: str = "loss"  # what the losses were made from, see ``metrics``
    metric_scale: float = 1.0  # 100 for accuracies in percent
    loss_column: str | None = None  # its name in a table
    held_out: str | None = None  # condition of the runs that are held out; None: the largest level
    fewest_epochs: int = 1  # of all runs, the excluded ones included
    most_epochs: int = 1

    @property
    def sizes(self) -> list[float]:
        """Distinct model sizes in parameters, ascending."""
        return sorted({run.parameters for run in self.runs})

    @property
    def losses(self) -> Floats:
        """Losses [M]."""
        return np.array([run.loss for run in self.runs], np.float64)

    @property
    def weights(self) -> Floats | None:
        """Weights [M] of the runs in the fit; None if all are equal."""
        weights = np.array([run.weight for run in self.runs], np.float64)
        return None if (weights == weights[0]).all() else weights

    @property
    def configurations(self) -> npt.NDArray[np.int64]:
        """Index [M] of the configuration of each run; runs that differ only in their seed share one."""
        axes = self.axes if self.axes == ("flops",) else ("parameters", "unique_samples", "seen_samples")
        keys = list(zip(*(_level_indices(self.column(axis)) for axis in axes), strict=True))
        order = {key: index for index, key in enumerate(sorted(set(keys)))}
        return np.array([order[key] for key in keys], np.int64)

    @property
    def axes(self) -> tuple[str, ...]:
        """The axes that the study varies: parameters, unique samples, and samples seen if the epochs differ.

        FLOPs if nothing else varies, as in a table without other columns.
        """
        axes = [axis for axis in ("parameters", "unique_samples") if len(self.level_values(axis)) > 1]
        epochs = [run.epochs for run in self.runs]
        if epochs and max(epochs) > SAME * min(epochs):
            axes.append("seen_samples")
        return tuple(axes) or ("flops",)

    @property
    def data_axis(self) -> str:
        """What compute buys in addition to size: samples seen if the epochs vary, else unique samples."""
        return "seen_samples" if "seen_samples" in self.axes else "unique_samples"

    def column(self, axis: str) -> Floats:
        """Levels [M] of the runs on one axis, a field of ``Run``."""
        return np.array([getattr(run, axis) for run in self.runs], np.float64)

    def level_values(self, axis: str) -> list[float]:
        """Distinct levels of an axis, ascending; levels within 2 % of the previous one count as the same."""
        return _levels(self.column(axis), SAME)

    def levels(self, axes: Sequence[str]) -> Floats:
        """Levels [K, M] of the runs on the named axes."""
        return np.stack([self.column(axis) for axis in axes])

    def only(self, keep: Sequence[bool]) -> Study:
        """The study restricted to the runs that ``keep`` [M] marks."""
        kept = tuple(run for run, wanted in zip(self.runs, keep, strict=True) if wanted)
        return replace(self, runs=kept)

    @property
    def unit(self) -> str:
        """What the samples are called: a sweep of this project trains on images, a table on anything."""
        return "images" if self.loss_column is None else "samples"

    def size_name(self, parameters: float) -> str:
        """``width 32`` if the runs have a width, else ``2.98e+05 parameters``."""
        widths = {run.width for run in self.runs if run.parameters == parameters} - {None}
        return f"width {widths.pop()}" if len(widths) == 1 else f"{parameters:.3g} parameters"


def _levels(values: Floats, same: float) -> list[float]:
    """Distinct values, ascending; values within the factor ``same`` of the previous level count as that level."""
    levels: list[float] = []
    for value in np.unique(values):
        if not levels or value > same * levels[-1]:
            levels.append(float(value))
    return levels


def _level_indices(values: Floats) -> list[int]:
    """Index [M] of the level of each value, where only values that differ by rounding are of one level."""
    return [int(after) - 1 for after in np.searchsorted(_levels(values, _EQUAL), values, side="right")]


def read_study(folder: Path, widths: Sequence[int], image_size: int | None = None) -> Study:
    """Read the files ``width-W.json`` of ``widths`` and ignore files of other widths.

    Args:
        image_size: one of ``image_sizes``; None: that of the prepared images.

    Raises:
        UserError: a file is missing or malformed.
    """
    runs: list[Run] = []
    reasons: Counter[str] = Counter()
    largest = 0.0
    epochs: list[int] = []
    for width in sorted(set(widths)):
        for run, reason, whole in _read_runs(folder / f"width-{width}.json", image_size):
            largest = max(largest, whole)
            reasons[reason] += bool(reason)
            runs += [run] if run and not reason else []
            epochs += [max(1, round(run.epochs))] if run else []
    fewest, most = min(epochs, default=1), max(epochs, default=1)
    return Study(tuple(runs), +reasons, all_samples=largest, fewest_epochs=fewest, most_epochs=most)


def image_sizes(folder: Path, widths: Sequence[int]) -> list[int]:
    """Return the image sizes of a study that varies them, ascending; else none.

    Raises:
        UserError: a file is missing or malformed.
    """
    tables = [_tables(folder / f"width-{width}.json") for width in set(widths)]
    common = set.intersection(*(set(table) for table in tables)) - {None}
    return sorted(size for size in common if size is not None) if len(common) > 1 else []


def format_counts(excluded: Mapping[str, int]) -> str:
    """``2 diverged, 1 undertrained``."""
    return ", ".join(f"{count} {reason}" for reason, count in sorted(excluded.items()))


def discard_other_widths(folder: Path, widths: Sequence[int]) -> None:
    """Delete the files of widths that are no longer in the study; DVC's cache keeps them.

    The stage depends on the whole folder. Stale files would make dvc.lock depend on earlier studies, and another clone
    would rerun the stage.
    """
    for file in set(folder.glob("width-*.json")) - {folder / f"width-{width}.json" for width in widths}:
        file.unlink()


def exclusion_reason(loss: float | None, chance: float | None, train_loss: float | None = None) -> str:
    """Why a run is excluded, or an empty string if it is kept.

    ``diverged``: no finite positive loss. ``undertrained``: the loss is above 0.9 of the chance loss. ``overfitted``:
    so it is, but the loss on the training images is not.

    Args:
        chance: the loss of random guessing, if known: log(number of classes) for the NLL.
        train_loss: the loss on the training images, if known.
    """
    if loss is None or not (math.isfinite(loss) and loss > 0):
        return "diverged"
    if chance is None or loss <= _MAX_SHARE_OF_CHANCE * chance:
        return ""
    return "overfitted" if train_loss is not None and train_loss <= _MAX_SHARE_OF_CHANCE * chance else "undertrained"


def _read_runs(file: Path, image_size: int | None) -> list[tuple[Run | None, str, float]]:
    """The run of each row (None without a loss), why it is excluded, and the size of the full training split."""
    tables = _tables(file)
    if image_size not in tables:
        raise UserError(f"{file}: got no runs of {image_size} pixels, expected the sizes of sweep.runs.image_sizes")
    with _explained(file):
        return [_run(tables[image_size], row) for row in tables[image_size]["runs"]]


def _tables(file: Path) -> dict[int | None, dict[str, Any]]:
    """The table of runs for each image size; that of the prepared images is also under None."""
    with _explained(file):
        content = json.loads(file.read_text())
        return {int(table["image_size"]): table for table in content.get("smaller", [])} | {
            size: content for size in {None, content.get("image_size")}
        }


@contextlib.contextmanager
def _explained(file: Path) -> Iterator[None]:
    """Turn errors about the content of a file of runs into UserError."""
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{file}: not found, but sweep.widths lists its width; fix: run `dvc repro`") from None
    except KeyError as error:
        raise UserError(f"{file}: got no key {error}, expected the runs of a sweep") from None
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{file}: got malformed content ({error}), expected the runs of a sweep") from None


def _run(content: dict[str, Any], row: dict[str, Any]) -> tuple[Run | None, str, float]:
    loss = row["val_nll"]
    reason = (
        "diverged" if row["diverged"] else exclusion_reason(loss, float(content["chance_nll"]), row.get("train_loss"))
    )
    whole = float(row["unique_images"]) / float(row["fraction"])
    if row.get("not_started"):
        reason = PRETRAINED if content.get("pretrained") else "not started"
    if reason in ("diverged", "not started", PRETRAINED):
        return None, reason, whole
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
        raise ValueError("parameters, images and FLOPs must be positive")
    return run, reason, whole
