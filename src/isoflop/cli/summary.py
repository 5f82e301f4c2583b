"""``isoflop summary``: the results of the last ``dvc repro`` on one screen, at most 100 columns wide."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.project.staleness import Stale, stale_note, stale_outputs
from isoflop.report import formats
from isoflop.report.facts import Facts, Variant, cell_in_words, read_facts, variants
from isoflop.report.scaling_words import (
    budget_in_words,
    data_in_words,
    lack_in_words,
    law_in_words,
    next_run_in_words,
    profile_in_words,
    shipped_in_words,
    trust_in_words,
)
from isoflop.runtime.errors import unmade
from isoflop.runtime.files import json_text
from isoflop.runtime.params import PARAMS_FILE, read_params

if TYPE_CHECKING:
    from rich.table import Table

    from isoflop.cli.imperatives import Imperative

_COLUMNS = 100  # widest line, also on wider terminals
_LOW_RECALL = 0.7  # of the accuracy
_TITLE = 11  # columns of the title of a line
_STUDY = ("scaling", "score")  # files of the study that the summary shows

Prediction = tuple[str, str, str, str, str]  # model, predicted loss, its 95 % interval, measured loss, error


def print_summary(project: Path, *, as_json: bool) -> None:
    """Print the variants, the scaling law with its predictions, and the paths of the reports of ``project``.

    Raises:
        UserError: an output of `dvc repro` is missing.
    """
    folder, report = project / "metrics", project / "report" / "index.html"
    measured = {name: read_facts(folder / f"{name}.json") for name in ("variants", "latency")}
    rows = variants(measured["variants"], measured["latency"], read_facts(project / "ship" / "choice.json")["chosen"])
    setting = measured["latency"]["conditions"]["headline"]
    has_study = (project / "scaling" / "scaling.json").is_file()
    law, score = (read_facts(project / "scaling" / f"{name}.json") if has_study else None for name in _STUDY)
    if has_study and not report.is_file():
        raise unmade(report)
    stale = stale_outputs(project)
    if as_json:
        print(
            json_text(
                _as_json(rows, setting, law, score, report, stale)
                | {"next": [asdict(one) for one in _imperatives(project)]},
            )
        )
        return
    _print_variants(rows, setting, stale)
    shipped = next(measured["variants"][row.name] for row in rows if row.shipped)
    print_lines(class_lines(shipped, is_weighted=_weights_classes(project)))
    lines = [("stale", stale_note(stale.values()))] if stale else []
    if law is None or score is None:
        lines.append(("study", "did not run yet; `dvc repro` runs it"))
    elif law.get("lacks"):
        lines.append(("study", lack_in_words(law)))
    else:
        epochs = (
            f"base: predicted for {formats.rounded(score['forecast_epochs'])} epochs, trained for {score['epochs']}"
        )
        mark = " (stale)" if "scaling/score.json" in stale else ""
        print_predictions([held_out_row(law), _trained_row(score, mark)], epochs)
        lines += _trusted_lines(law, " (stale)" if "scaling/scaling.json" in stale else "")
        lines += [("shipped", line)] if (line := shipped_in_words(score)) else []
    print_lines([*lines, *_pages(project, stale), *_next_lines(project)])


def _as_json(
    rows: list[Variant], setting: str, law: Facts | None, score: Facts | None, report: Path, stale: Mapping[str, Stale]
) -> Facts:
    return {
        "variants": [asdict(row) for row in rows],
        "latency_of": setting,
        "scaling": law and {name: law.get(name) for name in ("trusted_to", "diagnostics", "optimal", "lacks")},
        "forecast": score,
        "report": str(report),
        "stale": sorted({one.stage for one in stale.values()}),
    }


def _trusted_lines(law: Facts, mark: str) -> list[tuple[str, str]]:
    (title, form), *others = scaling_lines(law)
    lines = [(title, form + mark), ("trusted", trust_in_words(law)), *others]
    if max(law["trusted_to"].values()) <= 1:
        kinds = dict.fromkeys(diagnosis["kind"].replace("_", " ") for diagnosis in law["diagnostics"])
        warning = f"unreliable outside the range of its runs: {', '.join(kinds)}; the report explains each"
        lines.insert(2, ("warning", warning))
    return lines


def _pages(project: Path, stale: Container[str]) -> Iterator[tuple[str, str]]:
    """Yield the path of each page, or the command that writes it."""
    for folder in ("report", "study"):
        page = project / folder / "index.html"
        note = " (stale)" if folder in stale else ""
        if page.is_file():
            yield ("report" if folder == "report" else "study page"), f"{page}{note}"
        elif folder == "report":
            yield folder, "not written yet; `dvc repro report` writes it"


def _next_lines(project: Path) -> list[tuple[str, str]]:
    """Return the imperatives, each a command with its measured effect."""
    return [
        ("next" if number == 0 else "", f"{number + 1}. {one.command}  ({one.effect})")
        for number, one in enumerate(_imperatives(project))
    ]


def _imperatives(project: Path) -> list[Imperative]:
    from isoflop.cli.imperatives import imperatives  # half a second, which `isoflop fit` need not pay

    return imperatives(project)


def print_lines(lines: list[tuple[str, str]]) -> None:
    """Print lines with a title each, wrapped to the terminal and to 100 columns."""
    width = max(40, min(_COLUMNS, shutil.get_terminal_size((_COLUMNS, 24)).columns))
    for title, line in lines:
        print(
            textwrap.fill(
                line, width, initial_indent=f"{title:{_TITLE}}", subsequent_indent=" " * _TITLE, break_on_hyphens=False
            )
        )


def class_lines(shipped: Facts, *, is_weighted: bool = False) -> list[tuple[str, str]]:
    """Return a line if the shipped model finds the images of a class far less often than its accuracy suggests.

    Args:
        shipped: its block of metrics/variants.json.
        is_weighted: whether its training weighted the classes.
    """
    lowest = shipped.get("lowest_recall", shipped["accuracy"])
    if lowest >= _LOW_RECALL * shipped["accuracy"]:
        return []
    name = shipped["lowest_recall_class"]
    found = f"finds {formats.percent(lowest)} of the test images of {name!r}" if lowest else f"never finds {name!r}"
    set_weights = "set recipe.class_weights: balanced and ship.metric: balanced_accuracy"
    cure = f"collect images of it, or {'raise recipe.epochs' if is_weighted else set_weights}"
    return [("recall", f"{found}; balanced accuracy {formats.percent(shipped['balanced_accuracy'])}; {cure}")]


def _weights_classes(project: Path) -> bool:
    file = project / PARAMS_FILE
    return file.is_file() and read_params(file)["recipe"].get("class_weights", "none") != "none"


def print_predictions(rows: list[Prediction | None], note: str | None = None) -> None:
    """Print losses that the scaling law predicted next to the measured ones; None: there is no prediction."""
    table = _table(("loss of", "predicted", "95 % interval", "measured", "error"))
    table.caption = note
    for row in filter(None, rows):
        table.add_row(*row)
    if table.row_count:
        _print(table)


def held_out_row(law: Facts) -> Prediction | None:
    """Return the prediction for the largest size, which the fit leaves out; None: all sizes were needed to fit."""
    held_out = law["held_out"]
    return held_out and _prediction(f"{held_out['name']} (held out)", held_out)


def scaling_lines(law: Facts) -> list[tuple[str, str]]:
    """Return the results of the scaling study as lines with a title each."""
    lines = [("law", law_in_words(law))]
    if law["held_out"] is None:
        lines.append(("held out", "nothing, because too few sizes would remain to fit a law"))
    unit = law["unit"]
    lines += [
        ("best size", budget_in_words(name, best, unit)) for name, best in law["optimal"].items() if name == "largest"
    ]
    lines += [("isoflop", profile_in_words(profile, unit)) for profile in law["profiles"]]
    question, run = law["data_question"], law["next_run"]
    advice = ("data", data_in_words(question, unit)), ("next run", next_run_in_words(run, unit))
    return lines + [(title, line) for title, line in advice if line]


def _trained_row(score: Facts, mark: str) -> Prediction:
    """Return the forecast for the trained base model, of scaling/score.json."""
    return _prediction(f"width {score['width']} (base){mark}", score)


def _prediction(name: str, facts: Facts) -> Prediction:
    return (
        name,
        formats.loss(facts["predicted"]),
        formats.between(facts["low"], facts["high"]),
        formats.loss(facts["actual"]),
        formats.signed_percent(facts["relative_error"]),
    )


def _print_variants(rows: list[Variant], setting: str, stale: Container[str]) -> None:
    compared, timed = ("\nstale" if f"metrics/{name}.json" in stale else "" for name in ("variants", "latency"))
    titles = *(name + compared for name in ("accuracy", "parameters", "size")), f"latency{timed}", f"speed-up{timed}"
    table = _table(("variant", *titles))
    table.caption = f"latency: median, {cell_in_words(setting)}"
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
    _print(table)


def _table(titles: tuple[str, ...]) -> Table:
    """Return an empty table whose columns, after the first, are aligned to the right."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), caption_justify="left")
    for title in titles:
        table.add_column(title, justify="left" if title == titles[0] else "right", no_wrap=title != titles[0])
    return table


def _print(table: Table) -> None:
    from rich.console import Console

    console = Console()
    console.print(table, width=min(_COLUMNS, console.width))
