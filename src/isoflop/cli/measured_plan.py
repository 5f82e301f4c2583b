"""The part of ``isoflop plan`` that needs no law: the best measured configuration, and which runs would show more."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from isoflop.cli.apply import flops_in
from isoflop.cli.shipped_plan import Limits, most_parameters
from isoflop.report.facts import Facts, read_facts
from isoflop.report.formats import flops, loss, percent, rounded, seconds
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import json_text
from isoflop.runtime.params import PARAMS_FILE, read_params
from isoflop.scaling.asking import Goal
from isoflop.scaling.image_sizes import SizeChoice, choose_size, studies_by_size
from isoflop.scaling.law_file import read_law, read_laws_by_size
from isoflop.scaling.measured import (
    Measured,
    Speed,
    best_measured,
    configurations,
    costs_by_width,
    nearest_measured,
    profile_budget,
    study_seconds,
)
from isoflop.scaling.results import rounded as digits
from isoflop.scaling.tables.runs import Study, read_study
from isoflop.scaling.without_law import lack
from isoflop.training.sweep import flops_of_sizes


@dataclass(frozen=True)
class AnswerByRuns:
    """What the runs of the study answer to a goal."""

    best: Measured | None  # None: the study has no usable run
    meets_goal: bool
    command: str  # that adds the runs which would show more
    seconds: float | None  # upper estimate of its time on this machine; None: no training was timed here
    image_size: SizeChoice | None = None  # None: the study has one size

    @property
    def facts(self) -> Facts:
        """For ``--json``."""
        return dict(digits(asdict(self)))

    @property
    def lines(self) -> list[str]:
        """Return the answer as lines of text."""
        best = self.best
        if best is None:
            lines = ["measured: no usable run"]
        else:
            size = f"width {best.width}, " if best.width else ""
            score = "" if best.accuracy is None else f", validation accuracy {percent(best.accuracy)}"
            runs = f"mean of {best.seeds} seeds" if best.seeds > 1 else "one seed"
            title = "best measured" if self.meets_goal else "no run meets the goal; nearest"
            trained = f"{rounded(best.unique_samples)} images, {best.epochs:.3g} epochs ({flops(best.flops)})"
            size = f"{size}{rounded(best.parameters)} parameters"
            lines = [f"{title}: {size}, {trained}: loss {loss(best.loss)}{score} ({runs})"]
        cost = "" if self.seconds is None else f" (at most about {seconds(self.seconds)} on this machine)"
        return [*lines, *_size_lines(self.image_size), f"to measure more: `{self.command}`{cost}"]


def answer_by_runs(project: Path, goal: Goal, limits: Limits) -> AnswerByRuns | None:
    """Return the best measured configuration for a goal of ``isoflop plan``, and the next runs.

    None if the runs are not in the workspace.
    """
    folder = project / "runs"
    if not folder.is_dir() or not (project / PARAMS_FILE).is_file():
        return None
    params = read_params(project / PARAMS_FILE)
    try:
        study = read_study(folder, params["sweep"]["widths"])
    except UserError:  # of other widths, or damaged, which `dvc repro` reports
        return None
    if limits.hours is not None:
        goal = replace(goal, flops=flops_in(limits.hours, project))
    if limits.of_file and goal == Goal(epochs=goal.epochs):
        goal = replace(goal, parameters=_size_within(limits, project))
    known = configurations(study)
    best = best_measured(known, goal)
    setting = _next_setting(study, goal, params["sweep"]["widths"])
    nearest = best or (nearest_measured(known, goal) if known else None)
    time = _time(*setting, study, params["sweep"], project)
    if time and (smaller := params["sweep"]["runs"].get("image_sizes")):
        time *= flops_of_sizes(smaller, params["prepare"]["image_size"])
    sizes = _image_size(project, folder, params["sweep"]["widths"], goal)
    return AnswerByRuns(nearest, best is not None, _command(*setting), time, sizes)


def _image_size(project: Path, runs: Path, widths: list[int], goal: Goal) -> SizeChoice | None:
    laws = {}
    with contextlib.suppress(UserError):  # no law yet: the runs choose
        laws = read_laws_by_size(project / "scaling" / "law.json")
    return choose_size(laws, studies_by_size(runs, widths), goal)


def _size_lines(choice: SizeChoice | None) -> list[str]:
    """Return a line with the loss and the FLOPs at each image size, and the size to use."""
    if choice is None:
        return []
    what = "predicted loss" if choice.by_law else "best measured loss"
    sizes = ", ".join(f"{one.image_size} pixels {loss(one.loss)} ({flops(one.flops)})" for one in choice.sizes)
    return [f"image size: {choice.chosen} pixels; {what}: {sizes}"]


def print_answer(answer: AnswerByRuns, reason: str, as_json: bool) -> None:
    """Print the answer of the runs where the law has none, with the reason for that."""
    if as_json:
        print(json_text({"parameters": None, "reason": reason, "measured": answer.facts}))
    else:
        print(reason, *answer.lines, sep="\n")


def _size_within(limits: Limits, project: Path) -> float | None:
    """The most parameters within limits of the shipped file; None if no measurement tells."""
    try:
        return most_parameters(read_law(project / "scaling" / "law.json"), project, limits)
    except UserError:
        return None


def _next_setting(study: Study, goal: Goal, widths: list[int]) -> tuple[str, Any]:
    """Return the parameter, and its value, with which the study would show more."""
    if missing := lack(study, widths):
        if missing.command is None:
            raise UserError(f"plan: {missing}")
        key, _, value = shlex.split(missing.command)[-1].partition("=")
        return key, yaml.safe_load(value)
    budget = profile_budget(study, goal)
    return ("sweep.widths", [*widths, 2 * max(widths)]) if budget is None else ("sweep.runs.budgets", [budget])


def _command(key: str, value: Any) -> str:
    items = ",".join(f"{one:.4g}".replace("e+", "e") for one in value) if isinstance(value, list) else None
    setting = f"{key}={value}" if items is None else f"'{key}=[{items}]'"
    return f"dvc exp run -S {setting} scaling"


def _time(key: str, value: Any, study: Study, sweep: dict[str, Any], project: Path) -> float | None:
    """Estimate the time of the runs that a changed parameter adds; if the runs of a width change, all of them rerun."""
    speed, costs = _speed(project), costs_by_width(study)
    if speed is None or not costs or not key.startswith("sweep."):
        return None
    if key == "sweep.widths":
        new = [width for width in value if width not in sweep["widths"]]
        return study_seconds(new, sweep["runs"], costs, study.all_samples, speed)
    runs = sweep["runs"] | {key.rpartition(".")[2]: value}
    return study_seconds(sweep["widths"], runs, costs, study.all_samples, speed)


def _speed(project: Path) -> Speed | None:
    file = project / "metrics" / "throughput.json"
    if not file.is_file():
        return None
    measured = read_facts(file)
    return Speed(measured["images_per_s"], measured["flops_per_s"])
