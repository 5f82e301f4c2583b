"""``isoflop summary``: what the last ``dvc repro`` came to, on one screen."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from dataclasses import asdict
from pathlib import Path

from isoflop.report import formats
from isoflop.report.facts import Facts, Variant, cell_in_words, read_facts, variants
from isoflop.report.scaling_words import (
    budget_in_words,
    data_in_words,
    forecast_in_words,
    held_out_in_words,
    law_in_words,
    next_run_in_words,
    profile_in_words,
)
from isoflop.runtime.errors import unmade


def print_summary(project: Path, *, as_json: bool = False) -> None:
    """Print the variants, the law and the path of the report of ``project``.

    Raises:
        UserError: something that `dvc repro` makes is not there.
    """
    project = Path(os.path.relpath(project))
    folder, report = project / "metrics", project / "report" / "index.html"
    measured = {name: read_facts(folder / f"{name}.json") for name in ("variants", "latency")}
    rows = variants(measured["variants"], measured["latency"], read_facts(project / "ship" / "choice.json")["chosen"])
    setting = measured["latency"]["conditions"]["headline"]
    if not as_json and not (folder / "scaling.json").is_file():  # after `dvc repro ship`
        _print_table(rows, cell_in_words(setting))
        print_lines([("study", "not run, nor the report and the demo: `dvc repro` runs what is left")])
        return
    metrics = {name: read_facts(folder / f"{name}.json") for name in ("scaling", "score")}
    if not report.is_file():
        raise unmade(report)
    if as_json:
        law = {name: metrics["scaling"][name] for name in ("trusted", "diagnostics", "optimal")}
        found = {
            "variants": [asdict(row) for row in rows],
            "latency_of": setting,
            "scaling": law,
            "forecast": metrics["score"],
            "report": str(report),
        }
        print(json.dumps(found, indent=1))
        return
    _print_table(rows, cell_in_words(setting))
    lines = scaling_lines(metrics["scaling"])
    diagnostics = dict.fromkeys(diagnosis["kind"].replace("_", " ") for diagnosis in metrics["scaling"]["diagnostics"])
    if not metrics["scaling"]["trusted"]:
        lines.insert(1, ("", f"not to be trusted beyond its runs: {', '.join(diagnostics)}; the report says why"))
    print_lines([*lines, ("training", forecast_in_words(metrics["score"])), ("report", str(report))])


def print_lines(lines: list[tuple[str, str]]) -> None:
    """A title and a line each; on a terminal wrapped to it."""
    for title, line in lines:
        if sys.stdout.isatty():
            columns = max(40, shutil.get_terminal_size().columns)
            print(textwrap.fill(line, columns, initial_indent=f"{title:10}", subsequent_indent=10 * " "))
        else:
            print(f"{title:10}{line}")


def _print_table(rows: list[Variant], setting: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption=f"latency: median, {setting}", caption_justify="left"
    )
    table.add_column("variant", no_wrap=True)
    for title in ("accuracy", "parameters", "size", "latency", "speed-up"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = (
            f"{row.name} (shipped)" if row.shipped else row.name,
            formats.percent(row.accuracy),
            formats.count(row.parameters),
            formats.size(row.bytes),
            formats.ms(row.latency_ms),
            formats.times(row.speedup),
        )
        table.add_row(*cells, style="bold" if row.shipped else None)
    Console().print(table)


def scaling_lines(law: Facts) -> list[tuple[str, str]]:
    """What the study says, a title and a line each."""
    lines = [("law", law_in_words(law))]
    lines.append(("held out", held_out_in_words(law)))
    lines += [("best size", budget_in_words(name, best)) for name, best in law["optimal"].items() if name == "largest"]
    lines += [("isoflop", profile_in_words(profile)) for profile in law["profiles"]]
    advice = ("data", data_in_words(law["data_question"])), ("next run", next_run_in_words(law["next_run"]))
    return lines + [(title, line) for title, line in advice if line]
