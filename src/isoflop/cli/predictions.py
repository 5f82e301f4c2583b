"""What ``isoflop predict`` prints: a table, tab-separated lines or JSON."""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from isoflop.inference.prediction import Failure, Prediction
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import json_text, write_atomically
from isoflop.runtime.terminal import printable

_ROWS = 64  # images per table; limits the memory for any number of files


def show(outcomes: Iterable[Prediction | Failure], *, as_json: bool, as_csv: bool = False) -> int:
    """Print predictions as they arrive and failures on stderr, one line each; return the number of failures.

    Prints tables on a terminal, otherwise one line of tab-separated columns per class. CSV has a header. JSON is
    printed at the end.
    """
    stdout = sys.stdout  # a progress bar replaces sys.stdout while it is drawn
    if as_csv:
        csv.writer(stdout, lineterminator="\n").writerow(("image", "rank", "class", "probability"))
    pending: list[Prediction] = []
    failures: list[Failure] = []
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            failures.append(outcome)
            print(f"error: {printable(str(outcome.image))}: {printable(outcome.error)}", file=sys.stderr)
        elif as_csv:
            _print_csv(outcome, stdout)
        elif as_json or stdout.isatty():
            pending.append(outcome)
            if not as_json and len(pending) == _ROWS:
                _print_table(pending)
                pending = []
        else:
            _print_lines(outcome, stdout)
    if as_json:
        predictions = [_as_dict(prediction) for prediction in pending]
        failed = [{"image": str(failure.image), "error": failure.error} for failure in failures]
        print(json_text({"predictions": predictions, "failed": failed}))
    elif pending:
        _print_table(pending)
    return len(failures)


def _as_dict(prediction: Prediction) -> dict[str, object]:
    top = [{"class": name, "probability": round(probability, 6)} for name, probability in prediction.top]
    return {"image": str(prediction.image), "top": top}


def _print_lines(prediction: Prediction, stdout: TextIO) -> None:
    for name, probability in prediction.top:
        columns = printable(str(prediction.image)), printable(name), f"{probability:.4f}"
        print(*columns, sep="\t", file=stdout, flush=True)


def _print_csv(prediction: Prediction, stdout: TextIO) -> None:
    writer = csv.writer(stdout, lineterminator="\n")
    for rank, (name, probability) in enumerate(prediction.top, 1):
        writer.writerow((printable(str(prediction.image)), rank, printable(name), f"{probability:.6f}"))
    stdout.flush()


def write_embeddings(outcomes: Iterable[Prediction | Failure], file: Path) -> Iterator[Prediction | Failure]:
    """Pass the outcomes on, and write the embeddings of the predictions, in order, to ``file`` (float32 [N, D], .npy).

    Raises:
        UserError: there is no prediction.
    """
    import numpy as np

    rows = []
    for one in outcomes:
        if isinstance(one, Prediction) and one.embedding is not None:
            rows.append(one.embedding)
        yield one
    if not rows:
        raise UserError(f"{file}: not written, because no image was classified")
    content = io.BytesIO()
    np.save(content, np.stack(rows), allow_pickle=False)
    write_atomically(file, content.getvalue())


def _print_table(predictions: Sequence[Prediction]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("image", overflow="fold")
    table.add_column("class", overflow="fold")
    table.add_column("probability", justify="right")
    for prediction in predictions:
        for rank, (name, probability) in enumerate(prediction.top):
            shown = printable(str(prediction.image)) if rank == 0 else ""
            # Text, not str: a class named [red] is not markup
            table.add_row(Text(shown), Text(printable(name)), f"{100 * probability:.1f} %")
    Console().print(table)
