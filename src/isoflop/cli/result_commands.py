"""Commands that show and use the results of ``dvc repro``: ``summary``, ``report``, ``savings``, ``plan``, ``fit``."""

from __future__ import annotations

import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from cyclopts.validators import LimitedChoice

from isoflop.cli.app import PLANNING, RESULTS, command
from isoflop.cli.options import Bootstraps, Flag, Json, Natural, Positive
from isoflop.cli.project_folder import find_project, project_around, project_here, refuse_outputs
from isoflop.runtime.errors import unmade

_GOAL = Group("Goal: exactly one of", sort_key=1, validator=LimitedChoice(1, 1))
_COLUMNS = Group("Columns of the table", sort_key=1)

Column = Annotated[str | None, Parameter(metavar="COLUMN")]


@dataclass(frozen=True)
class TableColumns:
    """Names of the columns of a table of runs, for ``fit``.

    Attributes:
        parameters: number of model parameters.
        samples: number of unique training samples or tokens.
        seen: number of samples seen in training, if samples are repeated.
        epochs: passes over the samples; an alternative to --seen.
        flops: training FLOPs; default: 6 x parameters x samples seen.
        seed: random seed; runs that differ only in it measure the noise.
        accuracy: accuracy, from 0 to 1.
        loss: loss.
    """

    parameters: Column = None
    samples: Column = None
    seen: Column = None
    epochs: Column = None
    flops: Column = None
    seed: Column = None
    accuracy: Column = None
    loss: Annotated[str, Parameter(metavar="COLUMN")] = "loss"


@command(
    RESULTS,
    example="dvc repro && isoflop summary",
    then="open report/index.html, or plan a training: isoflop plan --flops 1e12",
)
def summary(*, as_json: Json = False) -> None:
    """Show the results of the last `dvc repro`.

    Prints accuracy, size and latency of the variants, the scaling law with predicted and measured losses, and the
    paths of the report and of the study's page. Results that are older than the parameters, code or data are marked
    stale.

    Args:
        as_json: print a JSON object: variants, latency_of, scaling, forecast, report, stale.
    """
    from isoflop.cli.summary import print_summary

    print_summary(project_here(), as_json=as_json)


@command(RESULTS, example="isoflop report --compare main my-experiment")
def report(
    *,
    compare: Annotated[list[str] | None, Parameter(consume_multiple=1)] = None,
    out: Path | None = None,
) -> None:
    """Print the path of the report, or write a page that compares runs.

    The comparison shows the parameters that differ, the metrics with differences and intervals, the training curves
    and the trade-offs. It neither runs nor checks out anything.

    Args:
        compare: git revisions or DVC experiments; a single one is compared with the workspace.
        out: HTML file for the comparison, outside of the outputs of the pipeline; default: compare.html in the project.
    """
    from isoflop.project.staleness import stale_note, stale_outputs
    from isoflop.report.compare import write_comparison

    project = project_here()
    page = project / "report" / "index.html"
    if compare:
        file = out or project / "compare.html"
        refuse_outputs(project, file, "--out")
        print(f"{file}: {' and '.join(write_comparison(find_project(Path.cwd()), compare, file))}")
        return
    if not page.is_file():
        raise unmade(page)
    if stale := stale_outputs(project):
        print(f"warning: stale results: {stale_note(stale.values())}", file=sys.stderr)
    print(page)


@command(RESULTS, example="dvc repro --pull && isoflop savings")
def savings(*, as_json: Json = False) -> None:
    """Show which results were computed here and what the cache saved.

    Lists for each stage whether it ran in this workspace, and for how long, or was restored from a cache, and the
    training FLOPs that the cache saved.

    Args:
        as_json: print a JSON object: stages, and the totals.
    """
    from isoflop.cli.savings import show, stage_costs

    project = project_here()
    show(project, stage_costs(project), as_json=as_json)


@command(
    PLANNING, example="isoflop plan --flops 1e12", then="dvc exp run -S train.width=WIDTH (trains a model of that size)"
)
def plan(
    *,
    flops: Annotated[Positive | None, Parameter(group=_GOAL)] = None,
    loss: Annotated[Positive | None, Parameter(group=_GOAL)] = None,
    parameters: Annotated[Positive | None, Parameter(group=_GOAL)] = None,
    latency_ms: Annotated[Positive | None, Parameter(group=_GOAL)] = None,
    as_json: Json = False,
) -> None:
    """Predict the compute-optimal model size and its loss from the scaling law.

    Uses the law that `dvc repro` fitted. Prints model size, number of samples and loss with 95 % intervals, and
    warnings of the law's diagnostics.

    Args:
        flops: budget of training FLOPs.
        loss: validation loss (NLL) to reach with the smallest budget.
        parameters: number of parameters of the model.
        latency_ms: median latency in ms in the report's main setting, converted to a size with the benchmark.
        as_json: print a JSON object: size, loss, intervals, diagnostics.
    """
    from isoflop.cli.law import plan_training, print_plan

    goal = {"flops": flops, "loss": loss, "parameters": parameters, "latency_ms": latency_ms}
    print_plan(*plan_training(project_here(), **goal), as_json=as_json)


@command(
    PLANNING,
    example="isoflop fit runs.csv --parameters N --samples tokens --loss val_loss",
    then="look at the figures in the folder; scaling.json has the diagnostics of the law",
)
def fit(
    table: Path,
    /,
    *,
    columns: Annotated[TableColumns, Parameter(name="*", group=_COLUMNS)] = TableColumns(),
    where: list[str] | None = None,
    chance_loss: Positive | None = None,
    objective: Literal["huber", "l1", "mse", "least_squares"] = "huber",
    bootstraps: Bootstraps = 1000,
    bootstrap_seed: Natural = 0,
    out: Path = Path("scaling"),
    force: Flag = False,
    as_json: Json = False,
) -> None:
    """Fit scaling laws to your own table of training runs.

    Reads CSV or Parquet with one row per run. Writes the laws with their intervals, the prediction for the held-out
    largest size, the best size per budget, the next run to add and the diagnostics as JSON, CSV and figures. Name the
    columns that your table has; they decide which laws can be fitted.

    Args:
        table: CSV or Parquet file.
        where: keep only rows with COLUMN=VALUE; may be repeated.
        chance_loss: loss of guessing; runs less than 10 % better are left out.
        objective: huber (delta 0.001), l1 or mse of log loss, or least_squares of the loss.
        bootstraps: number of bootstrap samples.
        bootstrap_seed: random seed of the bootstrap.
        out: folder for the results.
        force: write into a folder that is not empty.
        as_json: print the content of scaling.json.
    """
    from isoflop.cli.law import fit_table, print_fit
    from isoflop.scaling.tables import Columns, read_table

    if project := project_around(Path.cwd()):
        refuse_outputs(project, out, "--out")
    study = read_table(table, Columns(**asdict(columns)), where or [], chance_loss)
    facts = fit_table(study, out, loss=objective, bootstraps=bootstraps, seed=bootstrap_seed, force=force)
    print_fit(facts, out, as_json)
