"""``isoflop fit`` analyzes a table of runs of the user."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from isoflop.cli.summary import held_out_row, print_lines, print_predictions, scaling_lines
from isoflop.report.facts import Facts, read_facts
from isoflop.report.formats import between
from isoflop.report.scaling_words import trust_in_words
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import json_text
from isoflop.scaling.analysis import Analysis, analyse
from isoflop.scaling.asking import predict_table
from isoflop.scaling.figures.compute_optimal_plots import draw_profiles, draw_surface
from isoflop.scaling.figures.law_plots import draw_held_out, draw_law
from isoflop.scaling.fitting.options import forms_of, trimmed, with_gamma
from isoflop.scaling.law_file import known_law, write_law
from isoflop.scaling.results import write_facts, write_points
from isoflop.scaling.tables.runs import Study
from isoflop.scaling.tables.user_tables import Columns, read_points

_ROWS = 8  # of a table that were left out and are listed


@dataclass(frozen=True)
class Points:
    """A table of points to predict with the law, whose columns have the names of the table of runs."""

    file: Path
    columns: Columns


@dataclass(frozen=True)
class Settings:
    """How to fit: the objective, the form with what is fixed about it, and the bootstrap."""

    objective: str
    form: str
    fix: Sequence[str]
    tie: bool
    trim: float | None  # standard deviations
    gamma: str | None  # exponent of a learning curve, or search
    resampling: str
    bootstraps: int
    seed: int


def fit_table(study: Study, folder: Path, settings: Settings, *, force: bool, points: Points | None) -> Facts:
    """Analyze a study, write law.json, scaling.json, scaling.csv and figures to ``folder``; return scaling.json.

    Files are moved into ``folder`` only after all of them have been written.

    Args:
        points: to predict; the predictions are written to predictions.csv.

    Raises:
        UserError: the folder is not empty and ``force`` is not set, or the points are not readable.
    """
    if folder.exists() and any(folder.iterdir()) and not force:
        raise UserError(f"{folder}: got a folder with files, expected a new or empty one; fix: --force writes into it")
    if points:
        read_points(points.file, points.columns)  # before a fit of minutes
    with warnings.catch_warnings():  # of NumPy, SciPy and matplotlib; the diagnostics state what limits the law
        warnings.simplefilter("ignore")
        _fit_into(study, folder, settings, points)
    return read_facts(folder / "scaling.json")


def _fit_into(study: Study, folder: Path, settings: Settings, points: Points | None) -> None:
    forms = forms_of(study, settings.form, settings.fix, settings.tie)
    if settings.gamma is not None:
        study, form = with_gamma(study, settings.gamma)
        forms = [form]
    if settings.trim is not None:
        study = trimmed(study, settings.trim, settings.objective, forms)
    analysis = analyse(
        study, settings.bootstraps, settings.seed, settings.objective, resampling=settings.resampling, forms=forms
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
        _write_analysis(analysis, Path(temporary) / "all", settings.objective, points)
        folder.mkdir(exist_ok=True)
        for file in (Path(temporary) / "all").iterdir():
            shutil.move(file, folder / file.name)


def print_fit(facts: Facts, folder: Path, as_json: bool) -> None:
    """Print the laws, their diagnostics and the path of the results."""
    if as_json:
        print(json_text(facts))
        return
    print_predictions([held_out_row(facts)])
    lines = [*scaling_lines(facts), *_fit_lines(facts)]
    lines.append(("trusted", trust_in_words(facts)))
    lines += [("", f"- {diagnosis['message']}") for diagnosis in facts["diagnostics"]]
    predictions = "predictions.csv, " if (folder / "predictions.csv").exists() else ""
    print_lines([*lines, ("written", f"{folder}: {predictions}law.json, scaling.json, scaling.csv and figures")])


def _fit_lines(facts: Facts) -> list[tuple[str, str]]:
    """Return what was fitted and what was left out, the coefficients and the exponents of compute-optimal training."""
    left_out = ", ".join(f"{count} {reason}" for reason, count in facts["excluded"].items())
    rows = ", ".join(f"row {one['row']}" for one in facts["dropped"][:_ROWS]) + (
        ", …" if len(facts["dropped"]) > _ROWS else ""
    )
    coefficients = ", ".join(
        f"{name} = {known['value']:.4g} ({between(known['low'], known['high'])})"
        for name, known in facts["parameters"].items()
        if name in ("A", "B", "G", "K")
    )
    objective = f"{facts['runs']} runs, objective {facts['objective']} {facts['objective_value']:.6g}"
    lines = [("fit", "; ".join(filter(None, [objective, left_out and f"left out: {left_out} ({rows})", coefficients])))]
    for source, found in facts["exponents"].items():
        if found:
            each = ", ".join(
                f"{name} = {known['value']:.3f} ({between(known['low'], known['high'])})"
                for name, known in found.items()
            )
            by = {"law": "the law", "profiles": "the IsoFLOP profiles"}[source]
            lines.append(("exponents", f"N* ∝ C^a and S* ∝ C^b by {by}: {each}"))
    return lines


def _write_analysis(analysis: Analysis, folder: Path, loss: str, points: Points | None) -> None:
    """Write the results under the names that the pipeline uses."""
    folder.mkdir()
    write_law(analysis, folder / "law.json")
    write_facts(analysis, folder / "scaling.json", loss)
    write_points(analysis, folder / "scaling.csv")
    draw_law(analysis, folder / "scaling.png")
    draw_held_out(analysis, folder / "held_out.png")
    draw_profiles(analysis, folder / "isoflop.png")
    draw_surface(analysis, folder / "surface.png")
    if points:
        predicted = predict_table(known_law(analysis), points.file, points.columns)
        (folder / "predictions.csv").write_text(predicted, encoding="utf-8")
