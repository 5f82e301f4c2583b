"""``isoflop check --cost``: estimated minutes and memory of every stage that trains, before any of them runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.download.pretrained import NONE
from isoflop.report.formats import count
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import PARAMS_FILE, read_params, value_at
from isoflop.training.step_probe import Question, Speed, measured_speeds
from isoflop.training.sweep import SweepRuns, flops_of_sizes, planned_runs

_IMAGES = {"digits": 1797, "mnist": 70_000, "fashion_mnist": 70_000, "cifar10": 60_000, "cifar100": 60_000}
_CLASSES = 10  # of images that are not prepared yet; the head hardly changes the speed
_TEACHER = 1 / 3  # cost of a forward pass, as a share of a training step
_TRAINED_TWICE = 2  # distill and prune also train a control
_S_A_NETWORK = 8.0  # export and INT8: 2 to 3 s of a core for 8 x 8 pixels, 8 s for 32 x 32
_S_A_CELL = 30.0  # isoflop.inference.benchmarking times no cell for longer


@dataclass(frozen=True)
class Cost:
    """Estimated cost of a stage; ``memory_mb`` is the peak of its process, None if it does not train."""

    stage: str
    minutes: float
    memory_mb: float | None


def estimate(project: Path) -> list[Cost]:
    """Estimate every stage that trains, and the benchmark, with the values of params.yaml.

    The speed at the smallest, the largest and the base's width is measured on synthetic images of the right size; the
    other widths are interpolated.

    Raises:
        UserError: a network cannot be trained here, or the images cannot be counted.
    """
    params = read_params(project / PARAMS_FILE)
    images, classes = _training_images(project, params)
    pretrained = params["model"]["pretrained"] != NONE  # then the study is skipped
    width, widths = params["train"]["width"], params["sweep"]["widths"]
    measured = {width} if pretrained else {width, min(widths), max(widths)}
    speeds = measured_speeds(
        Question(
            model=params["model"],
            recipe=params["recipe"],
            image_size=params["prepare"]["image_size"],
            channels=params["prepare"]["channels"],
            classes=classes,
            widths=sorted(measured),
        )
    )
    study = [] if pretrained else [_study(params, images, speeds), _formats(params)]
    return [
        *_trainings(params, images, speeds),
        *_variants(params, images, speeds),
        _benchmark(params),
        *study,
    ]


def show_costs(costs: list[Cost]) -> None:
    """Print a line per stage and their sum."""
    width = max(len(cost.stage) for cost in costs)
    for cost in costs:
        memory = f"{count(cost.memory_mb)} MB" if cost.memory_mb else ""
        print(f"{cost.stage:{width}}  {_minutes(cost.minutes):>9}  {memory:>10}".rstrip())
    print(f"{'sum':{width}}  {_minutes(sum(cost.minutes for cost in costs)):>9}")
    print(
        "estimated from a few training steps on this machine as loaded now; download, prepare, augment, export, "
        "quantize and report are not included"
    )


def _trainings(params: Mapping[str, Any], images: int, speeds: Mapping[int, Speed]) -> Iterator[Cost]:
    recipe, width = params["recipe"], params["train"]["width"]
    minutes = recipe["epochs"] * params["train"]["fraction"] * images * speeds[width].seconds_per_image / 60
    yield Cost("train", min(minutes, recipe["max_minutes"] or math.inf), speeds[width].memory_mb)


def _study(params: Mapping[str, Any], images: int, speeds: Mapping[int, Speed]) -> Cost:
    runs = SweepRuns.model_validate(params["sweep"]["runs"])
    shares = flops_of_sizes(runs.image_sizes, params["prepare"]["image_size"])
    total = 0.0
    for width in params["sweep"]["widths"]:
        seconds, flops = (_interpolated(speeds, width, of) for of in ("seconds_per_image", "flops_per_image"))
        for run in planned_runs(runs, images, params["recipe"]["batch_size"], flops):
            seen = run.budget / flops if run.budget else shares * run.fraction * run.epochs * images
            total += seen * seconds
    return Cost("study (sweep)", total / 60, max(speeds[width].memory_mb for width in speeds))


def _variants(params: Mapping[str, Any], images: int, speeds: Mapping[int, Speed]) -> Iterator[Cost]:
    base = params["train"]["width"]
    for kind in ("distill", "prune", "sparsify", "qat"):
        for name, entry in params["variants"][kind].items():
            of = params[kind] | {key: value for key, value in entry.items() if key != "of"}
            width = max(1, round(base * of["width_ratio"])) if kind == "distill" else base
            seconds, memory = _interpolated(speeds, width, "seconds_per_image"), speeds[base].memory_mb
            if kind == "distill":
                seconds = seconds * _TRAINED_TWICE + _TEACHER * speeds[base].seconds_per_image
            elif kind == "prune":
                seconds *= _TRAINED_TWICE
            yield Cost(f"{kind}@{name}", of["epochs"] * images * seconds / 60, memory)


def _formats(params: Mapping[str, Any]) -> Cost:
    """One cell of the benchmark, to its time limit, and the conversion of each width and of one untrained network."""
    seconds = _S_A_CELL + _S_A_NETWORK * (len(set(params["sweep"]["widths"])) + 1)
    return Cost("study (formats, at most)", seconds / 60, None)


def _benchmark(params: Mapping[str, Any]) -> Cost:
    """The longest that it can take: every cell runs to its time limit."""
    cells = len(params["benchmark"]["batch_sizes"]) * len(params["benchmark"]["threads"])
    return Cost("benchmark (at most)", cells * _S_A_CELL / 60, None)


def _interpolated(speeds: Mapping[int, Speed], width: int, of: str) -> float:
    """A value of ``Speed`` at ``width``: log-linear in the width, through the nearest two measured widths."""
    values = {known: float(getattr(speed, of)) for known, speed in speeds.items()}
    known = sorted(values)
    if width in values or len(known) == 1:
        return values.get(width, values[known[0]])
    low, high = sorted(known, key=lambda other: abs(math.log(other / width)))[:2]
    slope = math.log(values[high] / values[low]) / math.log(high / low)
    return values[low] * math.exp(slope * math.log(width / low))


def _minutes(minutes: float) -> str:
    if minutes >= 90:
        return f"{minutes / 60:.1f} h"
    return f"{minutes:.0f} min" if minutes >= 10 else f"{minutes:.1f} min"


def _training_images(project: Path, params: Mapping[str, Any]) -> tuple[int, int]:
    """Return the number of training images and of classes: of the prepared split, or estimated from the source."""
    from isoflop.data.arrays import read_split

    prepared = project / "data" / "prepared" / "train"
    if prepared.is_dir():
        split = read_split(prepared)
        return len(split), split.num_classes
    source = value_at(params, "data.source", PARAMS_FILE)
    total, classes = (_IMAGES[source], _CLASSES) if source in _IMAGES else _own_images(project / params["data"]["path"])
    share = (1 - params["prepare"]["test_fraction"]) * (1 - params["prepare"]["val_fraction"])
    return max(1, round(total * share)), classes


def _own_images(source: Path) -> tuple[int, int]:
    from isoflop.download.image_folders import folder_entries, is_image

    if not source.is_dir():
        raise UserError(
            f"params.yaml: data.path: got {source}, whose images are not counted yet; fix: `dvc repro prepare`, then "
            "`isoflop check --cost`"
        )
    names = [entry.name for entry in folder_entries(source) if is_image(entry)]
    return len(names), max(1, len({Path(name).parent for name in names}))
