"""``isoflop plan`` evaluates the fitted scaling law; ``isoflop fit`` analyzes a table of runs of the user."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.cli.summary import held_out_row, print_lines, print_predictions, scaling_lines
from isoflop.report.facts import Facts, read_facts
from isoflop.report.formats import ms, rounded
from isoflop.report.scaling_words import budget_in_words
from isoflop.runtime.errors import UserError, unmade
from isoflop.scaling.analysis import Analysis, analyse
from isoflop.scaling.compute_optimal_plots import draw_profiles, draw_surface
from isoflop.scaling.diagnostics import MAX_EXTRAPOLATION, WARNINGS
from isoflop.scaling.law_file import KnownLaw, read_law, write_law
from isoflop.scaling.law_plots import draw_held_out, draw_law
from isoflop.scaling.planning import Optimum
from isoflop.scaling.results import rounded as digits
from isoflop.scaling.results import write_facts, write_points
from isoflop.scaling.runs import Study


def plan_training(
    project: Path, *, flops: float | None, loss: float | None, parameters: float | None, latency_ms: float | None
) -> tuple[KnownLaw, Optimum]:
    """Return the fitted law and the compute-optimal training for one goal; the other three goals are None.

    Args:
        flops: budget of training FLOPs.
        loss: validation loss to reach.
        parameters: number of parameters of the model.
        latency_ms: median latency of the model, in ms.

    Raises:
        UserError: the law has no optimum for the goal, or a file of the pipeline is missing.
    """
    file = project / "scaling" / "law.json"
    if not file.exists():
        raise unmade(file)
    known = read_law(file)
    planner = known.planner
    label = planner.law.form.label
    if planner.best(planner.sizes.flops(planner.largest, planner.most_samples)) is None:
        raise UserError(f"law {label}: has no best size, because it does not trade size against samples")
    if latency_ms is not None:
        parameters = parameters_for(latency_ms, project)
    if loss is not None:
        flops = planner.flops_for(loss)
        if flops is None:
            raise UserError(f"--loss: got {loss:g}, which no budget reaches by the law {label}")
    elif parameters is not None:
        flops = planner.flops_of(parameters)
        if flops is None:
            raise UserError(f"law {label}: {parameters:.3g} parameters are the best size for no budget")
    if flops is None:
        raise ValueError("no goal")
    best = planner.optimum(flops)
    if best.parameters is None:
        raise UserError(
            f"law {label}: has no best size for {flops:.3g} FLOPs, because the loss depends on only one of size and "
            "samples there; see the diagnostics in the report"
        )
    return known, best


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


def print_plan(known: KnownLaw, best: Optimum, measured: Facts | None, as_json: bool) -> None:
    """Print the plan and a warning with its diagnostics; as JSON also the answer of the runs to the same goal."""
    diagnostics = _diagnostics(known, best)
    if as_json:
        content: dict[str, Any] = digits(asdict(best)) | {"trusted": not diagnostics, "diagnostics": diagnostics}
        print(json.dumps(content | {"measured": measured}, indent=1))
        return
    print(budget_in_words("planned", digits(asdict(best))))
    if best.loss_interval and best.loss_prediction:
        law, run = ("{:.4g} to {:.4g}".format(*interval) for interval in (best.loss_interval, best.loss_prediction))
        print(f"95 % intervals of the loss: law {law}, a single run {run}")
    print(f"{rounded(best.unique_samples)} unique samples, {best.epochs:.3g} epochs")
    if diagnostics:
        print(f"warning: unreliable prediction: {', '.join(diagnostics).replace('_', ' ')}")


def _diagnostics(known: KnownLaw, best: Optimum) -> list[str]:
    """Return the serious diagnostics of the law, and ``extrapolation`` for a plan far outside the study."""
    planner = known.planner
    largest = planner.sizes.flops(planner.largest, planner.most_samples)
    far = best.flops > MAX_EXTRAPOLATION * largest or (best.parameters or 0) > MAX_EXTRAPOLATION * planner.largest
    grave: list[str] = [kind for kind in dict.fromkeys(known.diagnostics) if kind in WARNINGS]
    return grave + (["extrapolation"] if far else [])


def fit_table(study: Study, folder: Path, *, loss: str, bootstraps: int, seed: int, force: bool) -> Facts:
    """Analyze a study, write law.json, scaling.json, scaling.csv and figures to ``folder``; return scaling.json.

    Files are moved into ``folder`` only after all of them have been written.

    Args:
        loss: objective of the fit: huber, l1, mse or least_squares.

    Raises:
        UserError: the folder is not empty and ``force`` is not set.
    """
    if folder.exists() and any(folder.iterdir()) and not force:
        raise UserError(f"{folder}: got a folder with files, expected a new or empty one; fix: --force writes into it")
    analysis = analyse(study, bootstraps, seed, loss)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        _write_analysis(analysis, Path(temporary) / "all", loss)
        folder.mkdir(exist_ok=True)
        for file in (Path(temporary) / "all").iterdir():
            shutil.move(file, folder / file.name)
    return read_facts(folder / "scaling.json")


def print_fit(facts: Facts, folder: Path, as_json: bool) -> None:
    """Print the laws, their diagnostics and the path of the results."""
    if as_json:
        print(json.dumps(facts, indent=1))
        return
    print_predictions([held_out_row(facts)])
    lines = scaling_lines(facts)
    if facts["diagnostics"] and not facts["trusted"]:
        lines.append(("warning", "the law is unreliable outside the range of the runs"))
    lines += [("", f"- {diagnosis['message']}") for diagnosis in facts["diagnostics"]]
    print_lines([*lines, ("written", f"{folder}: law.json, scaling.json, scaling.csv and figures")])


def _write_analysis(analysis: Analysis, folder: Path, loss: str) -> None:
    """Write the results under the names that the pipeline uses."""
    folder.mkdir()
    write_law(analysis, folder / "law.json")
    write_facts(analysis, folder / "scaling.json", loss)
    write_points(analysis, folder / "scaling.csv")
    draw_law(analysis, folder / "scaling.png")
    draw_held_out(analysis, folder / "held_out.png")
    draw_profiles(analysis, folder / "isoflop.png")
    draw_surface(analysis, folder / "surface.png")
