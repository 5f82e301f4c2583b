"""``isoflop plan`` asks a fitted scaling law: the best training for a goal, or the loss of one training."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.report.facts import Facts, read_facts
from isoflop.report.formats import between, ms, rounded
from isoflop.report.formats import loss as digits_of_loss
from isoflop.report.scaling_words import budget_in_words
from isoflop.runtime.errors import UserError, unmade
from isoflop.scaling.asking import Answer, Goal, answer
from isoflop.scaling.diagnostics import MAX_EXTRAPOLATION, WARNINGS
from isoflop.scaling.law_file import KnownLaw, read_law
from isoflop.scaling.planning import Optimum
from isoflop.scaling.results import rounded as digits


def plan_training(
    law_file: Path, goal: Goal, latency_ms: float | None, project: Path | None
) -> tuple[KnownLaw, Optimum | Answer]:
    """Return the fitted law, and the compute-optimal training for the goal or the prediction for one training.

    Args:
        latency_ms: median latency of the model, in place of its size; it takes a project with a benchmark.

    Raises:
        UserError: the law has no answer for the goal, or a file of the pipeline is missing.
    """
    if not law_file.exists():
        raise unmade(law_file) if project else UserError(f"{law_file}: not found; fix: `isoflop fit` writes it")
    known = read_law(law_file)
    if latency_ms is not None:
        if project is None:
            raise UserError("--latency-ms: got no project, whose benchmark relates latency to size; fix: run it in one")
        goal = replace(goal, parameters=parameters_for(latency_ms, project))
    return known, answer(known, goal)


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


def print_plan(known: KnownLaw, found: Optimum | Answer, measured: Facts | None, as_json: bool) -> None:
    """Print the plan or the prediction, and a warning with the diagnostics of the law; as JSON also ``measured``."""
    diagnostics = _diagnostics(known, found)
    if as_json:
        content: dict[str, Any] = digits(asdict(found)) | {"diagnostics": diagnostics}
        print(json.dumps({"trusted": not diagnostics, **content, "measured": measured}, indent=1))
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
    """Return the serious diagnostics of the law, and ``extrapolation`` beyond the distance to which backtests held."""
    grave: list[str] = [kind for kind in dict.fromkeys(known.diagnostics) if kind in WARNINGS]
    if isinstance(found, Answer):
        return grave if found.trusted else [*grave, "extrapolation"]
    planner = known.planner
    largest = planner.sizes.flops(planner.largest, planner.most_samples)
    far = found.flops > MAX_EXTRAPOLATION * largest or (found.parameters or 0) > MAX_EXTRAPOLATION * planner.largest
    return grave + (["extrapolation"] if far else [])
