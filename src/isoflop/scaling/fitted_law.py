"""The Python API of scaling laws: fit a table of runs, then ask the law, as ``isoflop fit`` and ``isoflop plan`` do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.scaling.analysis import OBJECTIVE, Analysis, analyse
from isoflop.scaling.asking import Answer, Goal, answer, predictions
from isoflop.scaling.diagnostics import Diagnostic
from isoflop.scaling.fitting.options import forms_of
from isoflop.scaling.fitting.reach import Predictions
from isoflop.scaling.law_file import known_law, write_law
from isoflop.scaling.planning import Optimum
from isoflop.scaling.results import facts
from isoflop.scaling.tables.metrics import Metric
from isoflop.scaling.tables.user_tables import Columns, read_points, read_table


@dataclass(frozen=True)
class FittedLaw:
    """A scaling law fitted to a table of runs, to ask for predictions and plans.

    ``analysis`` has all results: the law, its held-out test, compute-optimal sizes and advice.
    """

    analysis: Analysis
    columns: Columns
    objective: str

    def predict(self, points: Any) -> Predictions:
        """Predict new runs.

        Args:
            points: file, data frame, columns or rows of M points with the columns of sizes of the fitted table.

        Returns:
            ``predicted``, ``low`` and ``high`` [M], in the unit of the loss column (95 % prediction interval of one new
            run, nan without noise or sizes), and ``trusted`` [M]: whether backtests held at that distance.

        Raises:
            UserError: a column is missing, or a size is not a positive number.
        """
        _, levels = read_points(points, self.columns)
        return predictions(known_law(self.analysis), levels)

    def plan(
        self,
        *,
        flops: float | None = None,
        loss: float | None = None,
        parameters: float | None = None,
        samples: float | None = None,
        epochs: float | None = None,
    ) -> Optimum | Answer:
        """The compute-optimal training for a budget of FLOPs, a loss or a size; with ``samples``, that one training.

        Raises:
            UserError: the law has no answer for the goal.
        """
        return answer(known_law(self.analysis), Goal(flops, loss, parameters, samples, epochs))

    @property
    def diagnostics(self) -> list[Diagnostic]:
        """Weaknesses of the table and the law, each with a stable ``kind``, a ``message`` and ``values``."""
        return self.analysis.diagnostics

    def facts(self) -> dict[str, Any]:
        """The content of scaling.json: parameters, exponents, intervals, objective, what was left out, and more."""
        return facts(self.analysis, self.objective)

    def save(self, file: Path) -> None:
        """Write law.json, which ``isoflop plan --law`` reads."""
        write_law(self.analysis, file)


def fit(
    frame: Any,
    *,
    loss: str = "loss",
    parameters: str | None = None,
    samples: str | None = None,
    seen: str | None = None,
    epochs: str | None = None,
    flops: str | None = None,
    seed: str | None = None,
    accuracy: str | None = None,
    weight: str | None = None,
    loss_is: Metric | None = None,
    where: Sequence[str] = (),
    form: str = "auto",
    fix: Sequence[str] = (),
    tie: bool = False,
    hold_out: str | None = None,
    objective: str = OBJECTIVE,
    resampling: str = "auto",
    bootstraps: int = 1000,
    bootstrap_seed: int = 0,
) -> FittedLaw:
    """Fit scaling laws to a table of runs; the names of its columns decide on which.

    Args:
        frame: data frame (pandas, polars, pyarrow), columns by name, rows, or a file; one row per run.
        loss, parameters, samples, seen, epochs, flops, seed, accuracy, weight: names of columns, see ``Columns``.
        loss_is: what the column ``loss`` holds; accuracies become errors, and perplexities their logarithm.
        where: conditions on rows, such as "depth=2".
        form: auto, additive, multiplicative, m4 or broken.
        fix: parameters with a fixed value: "E=0".
        tie: whether all exponents are equal, as in laws of over-training (Gadre et al. 2024).
        hold_out: condition of the runs to test the law on, such as "flops>1e20"; default: the largest level.
        resampling: of the bootstrap: auto, pairs, wild, residual or cluster.
        objective: huber (δ = 0.001), l1 or mse of log loss, or least_squares of the loss; with a quantile, such as
            l1:0.1, the penalty is asymmetric and a tenth of the runs lies below the law.
        bootstraps: number of bootstrap replicates, drawn with ``bootstrap_seed``.

    Raises:
        UserError: the table is not usable; the message names the row and the cure.
    """
    columns = Columns(loss, parameters, samples, seen, epochs, flops, seed, accuracy, weight)
    study = read_table(frame, columns, where, loss_is=loss_is, hold_out=hold_out)
    forms = forms_of(study, form, fix, tie)
    analysis = analyse(study, bootstraps, bootstrap_seed, objective, resampling=resampling, forms=forms)
    return FittedLaw(analysis, columns, objective)
