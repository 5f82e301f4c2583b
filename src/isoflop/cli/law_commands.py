"""``isoflop plan`` and ``isoflop fit``: the law asked for a size, and the whole analysis of anyone's table of runs."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.cli.summary import print_lines, scaling_lines
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


def plan(
    project: Path, *, flops: float | None, loss: float | None, parameters: float | None, latency_ms: float | None
) -> tuple[KnownLaw, Optimum]:
    """The compute-optimal training for a budget, for a loss, of a model of so many parameters, or of one so fast.

    Raises:
        UserError: the law has no answer, or a file that it takes is missing.
    """
    file = project / "scaling" / "law.json"
    if not file.exists():
        raise unmade(file)
    known = read_law(file)
    planner = known.planner
    form = planner.law.form
    if planner.best(planner.sizes.flops(planner.largest, planner.most_samples)) is None:
        raise UserError(f"no budget has a best size by the law {form.label}: it does not weigh size against samples")
    if latency_ms is not None:
        parameters = _parameters_for(latency_ms, project)
    if loss is not None:
        flops = planner.flops_for(loss)
        if flops is None:
            raise UserError(f"--loss: found {loss:g}, which no budget reaches by the law {form.label}")
    elif parameters is not None:
        flops = planner.flops_of(parameters)
        if flops is None:
            raise UserError(f"no budget has {parameters:.3g} parameters as its best size by {form.label}")
    if flops is None:
        raise ValueError("nothing to plan for")
    best = planner.optimum(flops)
    if best.parameters is None:
        raise UserError(
            f"no best size for {flops:.3g} FLOPs: by {form.label} the loss falls with one of size and "
            "samples alone; the report's diagnostics say why"
        )
    return known, best


def _parameters_for(latency_ms: float, project: Path) -> float:
    """The size that takes so long, on the power law through the float models that the benchmark timed."""
    timed = read_facts(project / "metrics" / "latency.json")
    scores = read_facts(project / "metrics" / "variants.json")
    cell = timed["conditions"]["headline"]
    whole = [name for name, block in scores.items() if block["made_by"] in ("train", "distill") and name in timed]
    names = [name for name in whole if scores[name]["network"] == name]  # and not those in 8 or 16 bits
    points = {scores[name]["parameters"]: timed[name][cell]["p50_ms"] for name in names}
    if len(points) < 2:
        raise UserError("--latency-ms: found one size that was timed, expected two: the base and a distilled one")
    sizes, times = np.log(np.array(sorted(points.items()), np.float64)).T
    slope, start = np.polyfit(sizes, times, 1)
    if slope <= 0:
        raise UserError(
            f"--latency-ms: the smaller models were not the faster ({ms(float(np.exp(times[0])))} and "
            f"{ms(float(np.exp(times[-1])))}), so size does not follow from latency; benchmark on an idle machine"
        )
    return float(np.exp((np.log(latency_ms) - start) / slope))


def print_plan(known: KnownLaw, best: Optimum, as_json: bool) -> None:
    """The plan, and what speaks against it."""
    diagnostics = _diagnostics(known, best)
    if as_json:
        content: dict[str, Any] = digits(asdict(best)) | {"trusted": not diagnostics, "diagnostics": diagnostics}
        print(json.dumps(content, indent=1))
        return
    print(budget_in_words("best", digits(asdict(best))))
    if best.loss_interval and best.loss_prediction:
        print("95 %: the law's loss {:.4g} to {:.4g}, that of a new run".format(*best.loss_interval), end=" ")
        print("{:.4g} to {:.4g}".format(*best.loss_prediction))
    print(f"on {rounded(best.unique_samples)} unique samples, {best.epochs:.3g} epochs of them")
    if diagnostics:
        print(f"not to be trusted: {', '.join(diagnostics).replace('_', ' ')}")


def _diagnostics(known: KnownLaw, best: Optimum) -> list[str]:
    """What forbids to believe the plan: of the law, and that it lies more than four times beyond the study."""
    planner = known.planner
    dearest = planner.sizes.flops(planner.largest, planner.most_samples)
    far = best.flops > MAX_EXTRAPOLATION * dearest or (best.parameters or 0) > MAX_EXTRAPOLATION * planner.largest
    grave: list[str] = [kind for kind in dict.fromkeys(known.diagnostics) if kind in WARNINGS]
    return grave + (["extrapolation"] if far else [])


def fit_table(study: Study, folder: Path, *, loss: str, bootstraps: int, seed: int, force: bool) -> Facts:
    """Analyse a study and write law.json, scaling.json, scaling.csv and the figures to ``folder``; the facts.

    Everything is written beside the folder first and moved in when it is whole.

    Raises:
        UserError: the folder holds something, and ``force`` is not set.
    """
    if folder.exists() and any(folder.iterdir()) and not force:
        raise UserError(f"{folder}: found files in it, expected an empty folder or a new one (or --force)")
    analysis = analyse(study, bootstraps, seed, loss)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        write_analysis(analysis, Path(temporary) / "all", loss)
        folder.mkdir(exist_ok=True)
        for file in (Path(temporary) / "all").iterdir():
            shutil.move(file, folder / file.name)
    return read_facts(folder / "scaling.json")


def write_analysis(analysis: Analysis, folder: Path, loss: str) -> None:
    """Everything that an analysis leaves behind, under the names that the pipeline gives it."""
    folder.mkdir()
    write_law(analysis, folder / "law.json")
    write_facts(analysis, folder / "scaling.json", loss)
    write_points(analysis, folder / "scaling.csv")
    draw_law(analysis, folder / "scaling.png")
    draw_held_out(analysis, folder / "held_out.png")
    draw_profiles(analysis, folder / "isoflop.png")
    draw_surface(analysis, folder / "surface.png")


def print_fit(found: Facts, folder: Path, as_json: bool) -> None:
    """What the analysis says, and where the rest is."""
    if as_json:
        print(json.dumps(found, indent=1))
        return
    lines = scaling_lines(found)
    if found["diagnostics"]:
        lines.append(("diagnostics", "few:" if found["trusted"] else "the law is not to be trusted beyond its runs:"))
    lines += [("", f"- {diagnosis['message']}") for diagnosis in found["diagnostics"]]
    print_lines([*lines, ("written", f"{folder}: law.json, scaling.json, scaling.csv and figures")])
