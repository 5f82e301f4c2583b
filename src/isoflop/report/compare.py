"""``isoflop report --compare``: compare runs on one self-contained page."""

from __future__ import annotations

import json
import string
import tempfile
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.evaluation.paired import paired_answers
from isoflop.report.charts import Figure, Point, draw_curves, draw_tradeoff
from isoflop.report.facts import Facts, Points, read_curves, read_facts, read_rows, share_interval
from isoflop.report.headlines import HEADLINES, Measured
from isoflop.report.page import STUDY
from isoflop.report.rendering import render
from isoflop.report.revisions import Run, read_runs
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import read_params
from isoflop.shipping.redaction import published

_TIMED = ("latency", "sessions", "throughput", "shipped")  # timings: they differ even with the same parameters
_TRADEOFF, _ANSWERS = "plots/tradeoff.csv", "plots/confusion.csv"
_METRICS_OF = {_TRADEOFF: "shipped"}  # output → its name among the metrics, if not its own
STALE = " (stale)"  # after a value that is older than the parameters, code or data of its run
_MOST_RUNS = 6  # the number of line colors


@dataclass(frozen=True)
class Line:
    """One metric of every run and its differences from the first run, formatted."""

    name: str
    values: list[str]
    intervals: list[str]
    differences: list[str]  # one fewer: the first run has none


def write_comparison(project: Path, names: Sequence[str], file: Path) -> list[str]:
    """Write the page that compares the runs ``names``, or a single run with the workspace, and return their names.

    Raises:
        UserError: there are too many runs, or one does not exist or has no results.
    """
    if len(names) > _MOST_RUNS:
        raise UserError(f"--compare: got {len(names)} runs, expected at most {_MOST_RUNS}")
    with tempfile.TemporaryDirectory(prefix="isoflop-") as scratch:
        runs = read_runs(project, names, Path(scratch))
        letters = dict(zip(string.ascii_uppercase, runs, strict=False))
        facts = {letter: _metrics(run.folder) for letter, run in letters.items()}
        stale = [{_METRICS_OF.get(output, Path(output).stem) for output in run.stale} for run in runs]
        page = render(
            "compare.html",
            runs={letter: asdict(run) for letter, run in letters.items()},
            params=differing_params([run.folder / "params.yaml" for run in runs]),
            stale={letter: stale_stages for letter, run in letters.items() if (stale_stages := sorted(run.stale))},
            headlines=headlines(list(facts.values()), stale),
            paired=_paired(letters, facts),
            curves=_curves(letters),
            tradeoffs=draw_tradeoffs(letters, facts),
            metrics=differing_metrics(list(facts.values()), stale),
        )
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page, encoding="utf-8", errors="backslashreplace")
    return [run.name for run in runs]


def differing_params(files: Sequence[Path]) -> dict[str, list[str]]:
    """Return dotted key → its value in each file, for the keys that differ; a dash where a file lacks the key."""
    flats = [flat(published(read_params(file))) if file.is_file() else {} for file in files]
    return _differing(flats, lambda value: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def differing_metrics(
    runs: Sequence[Mapping[str, Facts]], stale: Sequence[Container[str]] = ()
) -> dict[str, list[str]]:
    """Return dotted key → its value in each run, for the numeric metrics that differ; timings are left out.

    Args:
        stale: names of the stale metrics files of each run, whose values are marked.
    """
    flats = [
        {
            f"{name}.{key}": value
            for name, facts in run.items()
            if name not in _TIMED
            for key, value in flat(facts).items()
        }
        for run in runs
    ]
    numbers = [{key: value for key, value in one.items() if isinstance(value, int | float)} for one in flats]
    found = _differing(numbers, lambda value: f"{value:.6g}" if isinstance(value, float) else str(value))
    return {key: _marked(values, key.partition(".")[0], stale) for key, values in found.items()}


def _marked(values: list[str], name: str, stale: Sequence[Container[str]]) -> list[str]:
    if not stale:
        return values
    return [f"{value}{STALE}" if name in of else value for value, of in zip(values, stale, strict=True)]


def headlines(runs: Sequence[Mapping[str, Facts]], stale: Sequence[Container[str]] = ()) -> list[Line]:
    """Return the main metrics; a metric that no run has is left out.

    Args:
        stale: names of the stale metrics files of each run; their values are marked, and have no difference.
    """
    lines = []
    for headline in HEADLINES:
        read = [_Read(run) for run in runs]
        found = [_measure(headline.of, run) for run in read]
        is_stale = [
            any(name in of for name in run.names) for run, of in zip(read, stale or [()] * len(runs), strict=True)
        ]
        if all(one is None for one in found):
            continue
        first = found[0]
        lines.append(
            Line(
                headline.name,
                ["–" if one is None else headline.shown(one.value) + (STALE if old else "")
                 for one, old in zip(found, is_stale, strict=True)],
                ["" if one is None or one.low is None or one.high is None
                 else f"{headline.shown(one.low)} to {headline.shown(one.high)}" for one in found],
                ["–" if one is None or first is None
                 else "stale" if old or is_stale[0] else headline.difference(one.value, first.value)
                 for one, old in zip(found[1:], is_stale[1:], strict=True)],
            )
        )  # fmt: skip
    return lines


class _Read(Mapping[str, Facts]):
    """The metrics of a run, which notes the names that are read."""

    def __init__(self, metrics: Mapping[str, Facts]) -> None:
        self._metrics = metrics
        self.names: set[str] = set()

    def __getitem__(self, name: str) -> Facts:
        self.names.add(name)
        return self._metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """{"train": {"width": 8}} → {"train.width": 8}; lists count as values."""
    if not isinstance(tree, dict):
        return {prefix: tree}
    return {
        key: value for name, inner in tree.items() for key, value in flat(inner, f"{prefix}.{name}".lstrip(".")).items()
    }


def _differing(flats: Sequence[Mapping[str, Any]], shown: Callable[[Any], str]) -> dict[str, list[str]]:
    missing = object()
    keys = dict.fromkeys(key for one in flats for key in one)
    values = {key: [one.get(key, missing) for one in flats] for key in keys}
    return {
        key: ["–" if value is missing else shown(value) for value in found]
        for key, found in values.items()
        if any(value != found[0] for value in found)
    }


def _measure(of: Callable[[Mapping[str, Facts]], Measured | None], run: Mapping[str, Facts]) -> Measured | None:
    try:
        return of(run)
    except (KeyError, TypeError, StopIteration):  # the run stopped early or is from an older version
        return None


def _metrics(folder: Path) -> dict[str, Facts]:
    """Return the metrics by file name, and under ``shipped`` the row of the shipped variant in plots/tradeoff.csv."""
    files = [*sorted((folder / "metrics").glob("*.json")), *(folder / "scaling" / f"{name}.json" for name in STUDY)]
    repeated = ("base", "shipped")  # values of the others, for `dvc metrics diff`
    found = {file.stem: read_facts(file) for file in files if file.is_file() and file.stem not in repeated}
    file = folder / _TRADEOFF
    chosen = [row for row in read_rows(file) if row["chosen"] == "yes"] if file.is_file() else []
    return found | ({"shipped": dict(chosen[0])} if chosen else {})


def _paired(letters: Mapping[str, Run], facts: Mapping[str, Mapping[str, Facts]]) -> dict[str, Any]:
    """Return letter → paired comparison of the base with that of the first run, where the test images are the same."""
    answers = {}
    tested_on = {letter: one.get("data", {}).get("md5", {}).get("test") for letter, one in facts.items()}
    for letter, run in letters.items():
        file = run.folder / _ANSWERS
        answers[letter] = read_rows(file) if file.is_file() and _ANSWERS not in run.stale else []
    (first, base), *others = answers.items()
    found = {}
    for letter, rows in others:
        if rows and len(rows) == len(base) and tested_on[letter] and tested_on[letter] == tested_on[first]:
            correct = (np.array([row["actual"] == row["predicted"] for row in one]) for one in (base, rows))
            found[letter] = {"first": first, **asdict(paired_answers(*correct))}
    return found


def _curves(letters: Mapping[str, Run]) -> list[Figure]:
    quantities: dict[str, dict[str, Points]] = {}
    for letter, run in letters.items():
        folder = run.folder / "plots" / "training"
        for quantity, series in read_curves(folder).items() if folder.is_dir() else ():
            for name, points in series.items():
                label = f"{letter} {name}" if len(series) > 1 else letter
                quantities.setdefault(quantity, {})[label] = points
    return [draw_curves(quantity, series) for quantity, series in quantities.items()]


def draw_tradeoffs(letters: Mapping[str, Run], facts: Mapping[str, Mapping[str, Facts]]) -> list[Figure]:
    """Draw accuracy against latency and file size for all runs; without intervals where the number of test images is
    unknown."""
    points = []
    for index, (letter, run) in enumerate(letters.items()):
        file = run.folder / _TRADEOFF
        for row in read_rows(file) if file.is_file() else []:
            shipped = row["chosen"] == "yes"
            accuracy = float(row["accuracy"])
            images = facts[letter].get("data", {}).get("images", {}).get("test")
            bounds = share_interval(accuracy, images) if images else (accuracy, accuracy)
            label = f"{letter} {row['variant']}" + (" (shipped)" if shipped else "")
            label += STALE if _TRADEOFF in run.stale else ""
            points.append(Point(label, accuracy, *bounds, float(row["latency_ms"]), int(row["bytes"]), index, shipped))
    return [draw_tradeoff(points, by) for by in ("latency_ms", "bytes")] if points else []
