"""``isoflop plan`` asks a fitted scaling law: the best training for a goal, or the loss of one training."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from isoflop.cli.apply import apply_training, flops_in, print_training, training_for
from isoflop.cli.shipped_plan import Limits, expected_files, file_lines, most_parameters
from isoflop.report.facts import Facts
from isoflop.report.formats import between, rounded
from isoflop.report.formats import loss as digits_of_loss
from isoflop.report.scaling_words import budget_in_words
from isoflop.runtime.errors import UserError, unmade
from isoflop.runtime.files import json_text
from isoflop.scaling.asking import Answer, Goal, answer
from isoflop.scaling.diagnostics import WARNINGS
from isoflop.scaling.law_file import KnownLaw, read_law
from isoflop.scaling.planning import Optimum
from isoflop.scaling.results import rounded as digits


def plan_training(
    law_file: Path, goal: Goal, limits: Limits, project: Path | None
) -> tuple[KnownLaw, Optimum | Answer, float | None]:
    """Return the law, the compute-optimal training or the prediction for one, and the most parameters within limits.

    Raises:
        UserError: the law has no answer for the goal, or a file of the pipeline is missing.
    """
    if not law_file.exists():
        raise unmade(law_file) if project else UserError(f"{law_file}: not found; fix: `isoflop fit` writes it")
    known = read_law(law_file)
    if limits == Limits():
        return known, answer(known, goal), None
    if project is None:
        given = (("--latency-ms", limits.latency_ms), ("--bytes", limits.most_bytes), ("--hours", limits.hours))
        option = next(name for name, value in given if value is not None)
        raise UserError(f"{option}: got no project, whose measurements it takes; fix: run it in a project")
    if limits.hours is not None:
        goal = replace(goal, flops=flops_in(limits.hours, project))
    most = most_parameters(known, project, limits) if limits.of_file else None
    if goal == Goal(epochs=goal.epochs):
        goal = replace(goal, parameters=most)
    return known, answer(known, goal), most


def apply_plan(project: Path, known: KnownLaw, found: Optimum | Answer, most: float | None, limits: Limits) -> None:
    """Write the plan into params.yaml, for models of at most ``most`` parameters, and print what to expect.

    Raises:
        UserError: the plan is a prediction for one training, or params.yaml lacks a key.
    """
    if isinstance(found, Answer) and most is None:
        raise UserError(
            "--apply: got a single training, expected a goal: --flops, --hours, --loss, --latency-ms or --bytes"
        )
    training = training_for(known, found if isinstance(found, Optimum) else None, most)
    files = expected_files(known, project, training.width, training.epochs, training.fraction)
    written = apply_training(project, training, limits, forecasts_files=bool(files))
    print_training(known, training, written)
    print(*file_lines(files, training.width), "next: dvc repro; scaling/score.json then compares the predictions with "
          "the training and with the shipped file", sep="\n")  # fmt: skip


def print_plan(
    known: KnownLaw, found: Optimum | Answer, project: Path | None, measured: Facts | None, as_json: bool
) -> None:
    """Print the plan or the prediction, and a warning with the diagnostics of the law; as JSON also ``measured``."""
    diagnostics = _diagnostics(known, found)
    width, epochs = _width(known, found)
    files = expected_files(known, project, width, epochs)
    if as_json:
        content: dict[str, Any] = digits(asdict(found)) | {"diagnostics": diagnostics}
        print(json_text({"trusted": not diagnostics, **content, "formats": digits(files), "measured": measured}))
        return
    if isinstance(found, Answer):
        _print_answer(known, found)
    else:
        _print_optimum(found)
    print("".join(f"{line}\n" for line in file_lines(files, width)), end="")
    if diagnostics:
        print(f"warning: unreliable prediction: {', '.join(diagnostics).replace('_', ' ')}")


def _width(known: KnownLaw, found: Optimum | Answer) -> tuple[int | None, float]:
    """The whole width of a plan and its epochs; no width if the study has none or its widths do not reach it."""
    parameters = found.levels["parameters"] if isinstance(found, Answer) else found.parameters or 0.0
    width = known.planner.sizes.width(parameters)
    epochs = found.epochs if isinstance(found, Optimum) else None
    return (max(1, round(width)) if width else None), epochs or known.planner.epochs


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
