"""``isoflop plan --apply``: write the planned training into params.yaml, for `dvc repro` and `score`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

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
    """A training of one width on all training images, and its predicted loss."""

    width: int
    parameters: int
    epochs: int
    flops: float
    predicted: Answer


def flops_in(hours: float, project: Path) -> float:
    """Training FLOPs in this time, at the FLOP/s that the last training of the project reached.

    Raises:
        UserError: the project has not trained.
    """
    return hours * 3600 * float(read_facts(project / "metrics" / "throughput.json")["flops_per_s"])


def training_for(known: KnownLaw, best: Optimum, most_parameters: float | None) -> Training:
    """The training closest to the optimum with a whole width and whole epochs, of at most ``most_parameters``.

    A smaller model than the optimum sees more images for the same FLOPs, if the study varied the epochs.

    Raises:
        UserError: the law is not one of widths, or no width is small enough.
    """
    planner = known.planner
    is_limited = most_parameters is not None and most_parameters < (best.parameters or 0)
    wanted = most_parameters if is_limited and most_parameters is not None else best.parameters or 0.0
    fraction = planner.sizes.width(wanted)
    if fraction is None or fraction < 1:
        raise UserError(
            f"--apply: got a plan for {wanted:.3g} parameters, expected a size that the widths of the study reach; "
            "fix: a larger budget or latency, in a project whose sweep has three widths"
        )
    width = math.floor(fraction + 1e-9) if is_limited else max(1, round(fraction))
    parameters = known.parameters_of_width.get(width) or round(planner.sizes.parameters(width))
    images = planner.all_samples
    seen = float(planner.sizes.samples(best.flops, np.array([float(parameters)]))[0])
    varies = "seen_samples" in planner.law.form.axes
    epochs = max(1, round(seen / images)) if varies else max(1, round(planner.epochs))
    predicted = at_point(known, parameters=parameters, samples=images, epochs=epochs)
    return Training(width, parameters, epochs, planner.sizes.flops(parameters, epochs * images), predicted)


def apply_training(project: Path, training: Training, latency_ms: float | None) -> bool:
    """Write width, epochs and the latency limit of the shipped file into params.yaml, whose comments stay.

    Returns:
        Whether the epochs changed, which the stages of the sweep depend on as a part of their recipe.

    Raises:
        UserError: the file lacks one of the keys.
    """
    changes: dict[tuple[str, str], float] = {
        ("train", "width"): training.width,
        ("recipe", "epochs"): training.epochs,
    }
    if latency_ms is not None:
        changes[("ship", "max_latency_ms")] = latency_ms
    before = write_values(project / PARAMS_FILE, changes)
    return bool(before["recipe", "epochs"] != training.epochs)


def write_values(file: Path, changes: Mapping[tuple[str, str], float]) -> dict[tuple[str, str], Any]:
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


def print_training(known: KnownLaw, training: Training, latency_ms: float | None, is_longer: bool) -> None:
    """Print what was written, and what to expect of the training."""
    interval = training.predicted.interval
    expected = f"predicted {known.metric} {digits_of_loss(training.predicted.predicted)}"
    expected += f" (95 % interval of a new run {between(*interval)})" if interval else " (no interval)"
    limit = "" if latency_ms is None else f", ship.max_latency_ms {latency_ms:g}"
    print(f"params.yaml: train.width {training.width}, recipe.epochs {training.epochs}{limit}")
    print(
        f"{rounded(training.parameters)} parameters, {rounded(known.planner.all_samples)} images, "
        f"{rounded(training.flops)} training FLOPs: {expected}"
    )
    if not training.predicted.trusted:
        print("warning: unreliable prediction: extrapolation beyond the distance to which backtests held")
    if is_longer:
        print("recipe.epochs changed: `dvc repro` runs the sweep again, because its recipe includes the epochs")
    print("next: dvc repro; metrics/score.json then compares the prediction with the training")
