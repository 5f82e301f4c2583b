"""``isoflop plan --apply``: write the planned training and variants into params.yaml, for `dvc repro` and `score`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.cli.shipped_plan import Limits
from isoflop.compression.variants import BASE, KINDS
from isoflop.project.yaml_text import dump, load
from isoflop.report.facts import read_facts
from isoflop.report.formats import between, rounded
from isoflop.report.formats import loss as digits_of_loss
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_atomically
from isoflop.runtime.params import PARAMS_FILE
from isoflop.scaling.asking import Answer, at_point
from isoflop.scaling.law_file import KnownLaw
from isoflop.scaling.planning import Optimum


@dataclass(frozen=True)
class Training:
    """A training of one width on a fraction of the training images, and its predicted loss."""

    width: int
    parameters: int
    fraction: float
    epochs: int
    flops: float
    predicted: Answer
    wanted_images: float | None = None  # of the optimum, if the project has fewer


def flops_in(hours: float, project: Path) -> float:
    """Training FLOPs in this time, at the FLOP/s that the last training of the project reached.

    Raises:
        UserError: the project has not trained.
    """
    return hours * 3600 * float(read_facts(project / "metrics" / "throughput.json")["flops_per_s"])


def training_for(known: KnownLaw, best: Optimum | None, most_parameters: float | None) -> Training:
    """The training closest to the optimum with a whole width and whole epochs, of at most ``most_parameters``.

    If the study varied the epochs, the budget that is left buys epochs on all images; else it buys images, each seen as
    often as in the study. Without an optimum it is the largest model on all images, trained as long as the study's.

    Raises:
        UserError: the law is not one of widths, or no width is small enough.
    """
    planner = known.planner
    optimal = best.parameters or 0.0 if best else math.inf
    is_limited = most_parameters is not None and most_parameters < optimal
    wanted = most_parameters if is_limited and most_parameters is not None else optimal
    fraction = planner.sizes.width(wanted)
    if fraction is None or fraction < 1:
        raise UserError(
            f"--apply: got a plan for {wanted:.3g} parameters, expected a size that the widths of the study reach; "
            "fix: a larger budget or limit, in a project whose sweep has three widths"
        )
    width = math.floor(fraction + 1e-9) if is_limited else max(1, round(fraction))
    parameters = known.parameters_of_width.get(width) or round(planner.sizes.parameters(width))
    epochs, images = max(1, round(planner.epochs)), planner.all_samples
    affordable = None
    if best is not None:
        seen = float(planner.sizes.samples(best.flops, np.array([float(parameters)]))[0])
        if planner.data_axis == "seen_samples":
            epochs = max(1, round(seen / images))
        elif "unique_samples" in planner.law.form.axes:
            affordable = seen / epochs
    share = min(1.0, float(f"{affordable / images:.4g}")) if affordable else 1.0
    lacking = affordable if affordable and affordable > 1.02 * images else None
    predicted = at_point(known, parameters=parameters, samples=share * images, epochs=epochs)
    flops = planner.sizes.flops(parameters, epochs * share * images)
    return Training(width, parameters, share, epochs, flops, predicted, lacking)


@dataclass(frozen=True)
class Written:
    """What a plan wrote into params.yaml, by dotted key, and what it replaced that costs time or models."""

    values: dict[str, Any]
    is_longer: bool  # the epochs changed, which the stages of the sweep depend on as a part of their recipe
    removed: list[str]  # variants


def apply_training(project: Path, training: Training, limits: Limits, *, forecasts_files: bool) -> Written:
    """Write width, fraction and epochs into params.yaml, whose comments stay; with limits of the file also these.

    If the study forecasts files, the base stays as the only candidate, because it forecasts no other variant.

    Raises:
        UserError: the file lacks one of the keys.
    """
    changes: dict[tuple[str, str], Any] = {
        ("train", "width"): training.width,
        ("train", "fraction"): training.fraction,
        ("recipe", "epochs"): training.epochs,
    }
    if limits.latency_ms is not None:
        changes[("ship", "max_latency_ms")] = limits.latency_ms
    if limits.of_file and forecasts_files:
        # the smallest file that meets ship.max_latency_ms meets both limits if any file does
        changes[("ship", "objective")] = "latency" if limits.most_bytes is None else "bytes"
        changes |= {("variants", kind): {} for kind in KINDS}
        changes |= {("variants", "candidates"): [BASE], ("variants", "float16"): [], ("variants", "tflite"): []}
    before = write_values(project / PARAMS_FILE, changes)
    removed = [name for name in before.get(("variants", "candidates"), []) if name != BASE]
    values = {".".join(key): value for key, value in changes.items() if key[0] != "variants"}
    return Written(values, bool(before["recipe", "epochs"] != training.epochs), removed)


def write_values(file: Path, changes: Mapping[tuple[str, str], Any]) -> dict[tuple[str, str], Any]:
    """Replace values of params.yaml, by section and key; comments and layout stay. Return the values before.

    Raises:
        UserError: the file lacks one of the keys; it is then left as it was.
    """
    params = load(file.read_text(encoding="utf-8"))
    before: dict[tuple[str, str], Any] = {}
    for (section, key), value in changes.items():
        if section not in params or key not in params[section]:
            raise UserError(
                f"{file}: got no {section}.{key}, expected a params.yaml of this version; fix: `isoflop upgrade`"
            )
        before[section, key] = params[section][key]
        params[section][key] = value
    write_atomically(file, dump(params))
    return before


def print_training(known: KnownLaw, training: Training, written: Written) -> None:
    """Print what was written, and what to expect of the training."""
    interval = training.predicted.interval
    expected = f"predicted {known.metric} {digits_of_loss(training.predicted.predicted)}"
    expected += f" (95 % interval of a new run {between(*interval)})" if interval else " (no interval)"
    print("params.yaml: " + ", ".join(f"{key} {value}" for key, value in written.values.items()))
    if written.removed:
        print(f"params.yaml: variants {', '.join(written.removed)} removed, for which there is no forecast")
    images = training.fraction * known.planner.all_samples
    print(
        f"{rounded(training.parameters)} parameters, {rounded(images)} images, "
        f"{rounded(training.flops)} training FLOPs: {expected}"
    )
    if training.wanted_images:
        print(f"the budget is enough for {rounded(training.wanted_images)} images; more images would use all of it")
    if not training.predicted.trusted:
        print("warning: unreliable prediction: extrapolation beyond the distance to which backtests held")
    if written.is_longer:
        print("recipe.epochs changed: `dvc repro` runs the sweep again, because its recipe includes the epochs")
