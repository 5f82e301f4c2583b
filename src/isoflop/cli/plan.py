"""``isoflop plan`` asks a fitted scaling law: the best training for a goal, or the loss of one training."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.cli.apply import apply_training, flops_in, print_training, training_for
from isoflop.report.facts import Facts, read_facts
from isoflop.report.formats import between, ms, rounded
from isoflop.report.formats import loss as digits_of_loss
from isoflop.report.scaling_words import budget_in_words
from isoflop.runtime.errors import UserError, unmade
from isoflop.runtime.files import json_text
from isoflop.scaling.asking import Answer, Goal, answer
from isoflop.scaling.diagnostics import WARNINGS
from isoflop.scaling.law_file import KnownLaw, read_law
from isoflop.scaling.planning import Optimum
from isoflop.scaling.results import rounded as digits


@dataclass(frozen=True)
class Limits:
    """Goals that take measurements of a project: the latency of the model in ms, and hours of training."""

    latency_ms: float | None = None
    hours: float | None = None


def plan_training(
    law_file: Path, goal: Goal, limits: Limits, project: Path | None
) -> tuple[KnownLaw, Optimum | Answer, float | None]:
    """Return the law, the compute-optimal training or the prediction for one, and the most parameters for a latency.

    Raises:
        UserError: the law has no answer for the goal, or a file of the pipeline is missing.
    """
    if not law_file.exists():
        raise unmade(law_file) if project else UserError(f"{law_file}: not found; fix: `isoflop fit` writes it")
    known = read_law(law_file)
    if limits == Limits():
        return known, answer(known, goal), None
    if project is None:
        option = "--hours" if limits.latency_ms is None else "--latency-ms"
        raise UserError(f"{option}: got no project, whose measurements it takes; fix: run it in a project")
    if limits.hours is not None:
        goal = replace(goal, flops=flops_in(limits.hours, project))
    most = None if limits.latency_ms is None else parameters_for(limits.latency_ms, project)
    if goal == Goal(epochs=goal.epochs):
        goal = replace(goal, parameters=most)
    return known, answer(known, goal), most


def parameters_for(latency_ms: float, project: Path) -> float:
    """Return the number of parameters at this latency, by a power law fitted to the float models of the benchmark."""
    timed = read_facts(project / "metrics" / "latency.json")
    scores = read_facts(project / "metrics" / "variants.json")
    cell = timed["conditions"]["headline"]
    whole = [name for name, block in scores.items() if block["made_by"] in ("train", "distill") and name in timed]
    names = [name for name in whole if scores[name]["network"] == name]  # not INT8 or FP16
    points = {scores[name]["parameters"]: timed[name][cell]["p50_ms"] for name in names}
    if len(points) < 2:
        raise UserError("--latency-ms: got benchmarks of one model size, expected two (the base and a distilled model)")
    sizes, times = np.log(np.array(sorted(points.items()), np.float64)).T
    slope, start = np.polyfit(sizes, times, 1)
    if slope <= 0:
        raise UserError(
            f"--latency-ms: smaller models were not faster ({ms(float(np.exp(times[0])))} and "
            f"{ms(float(np.exp(times[-1])))}), so latency does not determine size; fix: benchmark on an idle machine"
        )
    return float(np.exp((np.log(latency_ms) - start) / slope))


def apply_plan(
    project: Path, known: KnownLaw, found: Optimum | Answer, most: float | None, latency_ms: float | None
) -> None:
    """Write the plan into params.yaml, for models of at most ``most`` parameters, and print what to expect.

    Raises:
        UserError: the plan is a prediction for one training, or params.yaml lacks a key.
    """
    if isinstance(found, Answer):
        raise UserError("--apply: got a single training, expected a goal: --flops, --hours, --loss or --latency-ms")
    training = training_for(known, found, most)
    is_longer = apply_training(project, training, latency_ms)
    print_training(known, training, latency_ms, is_longer)


def print_plan(known: KnownLaw, found: Optimum | Answer, measured: Facts | None, as_json: bool) -> None:
    """Print the plan or the prediction, and a warning with the diagnostics of the law; as JSON also ``measured``."""
    diagnostics = _diagnostics(known, found)
    if as_json:
        content: dict[str, Any] = digits(asdict(found)) | {"diagnostics": diagnostics}
        print(json_text({"trusted": not diagnostics, **content, "measured": measured}))
        return
    if isinstance(found, Answer):
        _print_answer(known, found)
    else:
        _print_optimum(found)
    if diagnostics:
        print(f"warning: unreliable prediction: {', '.join(diagnostics).replace('_', ' ')}")


def _print_answer(known: KnownLaw, found: Answer) -> None:
    nouns = {"parameters": "parameters", "unique_samples": "samples", "seen_samples": "samples seen", "flops": "FLOPs"}
    point = ", ".join(f"{rounded(found.levels[axis])} {nouns[axis]}" for axis in known.planner.law.form.axes)
    interval = f" (95 % interval of a new run {between(*found.interval)})" if found.interval else " (no interval)"
    print(f"{point}: predicted {known.metric} {digits_of_loss(found.predicted)}{interval}")


def _print_optimum(best: Optimum) -> None:
    print(budget_in_words("planned", digits(asdict(best))))
    if best.loss_interval and best.loss_prediction:
        law, run = ("{:.4g} to {:.4g}".format(*interval) for interval in (best.loss_interval, best.loss_prediction))
        print(f"95 % intervals of the loss: law {law}, a single run {run}")
    print(f"{rounded(best.unique_samples)} unique samples, {best.epochs:.3g} epochs")


def _diagnostics(known: KnownLaw, found: Optimum | Answer) -> list[str]:
    """Return ``extrapolation`` beyond the distance to which backtests held, and the serious diagnostics of the law."""
    if isinstance(found, Answer):
        trusted = found.trusted
    else:
        levels = {"parameters": found.parameters, "unique_samples": found.unique_samples, "seen_samples": found.samples}
        trusted = bool(known.planner.law.reach.trusts({axis: level or 0.0 for axis, level in levels.items()})[0])
    if trusted:
        return []
    return ["extrapolation", *(kind for kind in dict.fromkeys(known.diagnostics) if kind in WARNINGS)]
