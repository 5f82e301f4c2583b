"""Commands that show and use the results of ``dvc repro``: ``summary``, ``report``, ``savings``, ``plan``, ``fit``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import ArgumentCollection, Group, Parameter
from cyclopts.validators import LimitedChoice

from isoflop.cli.app import PLANNING, RESULTS, command
from isoflop.cli.options import Bootstraps, Flag, Json, Natural, Positive
from isoflop.cli.project_folder import find_project, project_around, project_here, refuse_outputs, warn_if_stale
from isoflop.runtime.damage import check_outputs
from isoflop.runtime.errors import UserError, unmade


def _one_goal(arguments: ArgumentCollection) -> None:
    """Accept one goal, a size with its samples, or limits of the file with one budget, as ``LimitedChoice`` does."""
    given = {argument.name for argument in arguments.filter_by(value_set=True)}
    rest = given - _OF_FILE
    if given != {"--parameters", "--samples"} and not (len(rest) < len(given) and (not rest or rest <= _BUDGETS)):
        LimitedChoice(1, 1)(arguments)
    elif len(rest & _BUDGETS) > 1:
        LimitedChoice(0, 1)(arguments)


_OF_FILE = {"--latency-ms", "--bytes"}  # limits, which combine with each other and with one budget
_BUDGETS = {"--flops", "--hours", "--loss"}
_GOAL = Group("Goal: one of, or --parameters with --samples", sort_key=1, validator=_one_goal)
_COLUMNS = Group("Columns of the table", sort_key=1)
_FIT = Parameter(group=Group("Fit", sort_key=2))

Column = Annotated[str | None, Parameter(metavar="COLUMN")]
Metric = Literal["loss", "accuracy", "error", "nll", "perplexity"]  # as in ``scaling.metrics``, which imports NumPy


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
        weight: positive weight of each run in the fit.
        loss: loss.
    """

    parameters: Column = None
    samples: Column = None
    seen: Column = None
    epochs: Column = None
    flops: Column = None
    seed: Column = None
    accuracy: Column = None
    weight: Column = None
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
    check_outputs(page)
    warn_if_stale(page)
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
    most_bytes: Annotated[Positive | None, Parameter(name="--bytes", group=_GOAL)] = None,
    samples: Annotated[Positive | None, Parameter(group=_GOAL)] = None,
    hours: Annotated[Positive | None, Parameter(group=_GOAL)] = None,
    epochs: Positive | None = None,
    law: Path | None = None,
    apply: Flag = False,
    as_json: Json = False,
) -> None:
    """Predict the compute-optimal model size and its loss from the scaling law.

    Uses the law that `dvc repro` fitted, or that of --law, which needs no project. Prints model size, number of samples
    and loss with 95 % intervals, and warnings of the law's diagnostics. With --samples it predicts the loss of one
    training of --parameters on them. In a project it also prints the best measured run of the study for the goal, and
    the command that measures more, with its time on this machine; if the law has no answer, these are the answer.

    Args:
        flops: budget of training FLOPs.
        loss: validation loss (NLL) to reach with the smallest budget.
        parameters: number of parameters of the model.
        latency_ms: most ms of the shipped file in the report's main setting; the largest width whose interval is below
            it, as float or INT8. Combines with a budget.
        most_bytes: most bytes of the shipped file, in the same way.
        samples: unique training samples of one training, for its loss.
        hours: time of the training, at the measured FLOP/s of the last one.
        epochs: passes over --samples; default: the most of the study.
        law: file law.json of `isoflop fit`; default: that of the project.
        apply: write width, fraction of the images, epochs and, for limits of the file, the limit and the variants into
            params.yaml, and print what to expect.
        as_json: print a JSON object: size, loss, intervals, diagnostics, and measured (the best run, the next command).
    """
    from isoflop.cli.measured_plan import answer_by_runs, print_answer
    from isoflop.cli.plan import apply_plan, plan_training, print_plan
    from isoflop.cli.shipped_plan import Limits
    from isoflop.scaling.asking import Goal

    goal = Goal(flops, loss, parameters, samples, epochs)
    project = project_here() if law is None else project_around(Path.cwd())
    file = law or project_here() / "scaling" / "law.json"
    limits = Limits(latency_ms, hours, most_bytes)
    asks_runs = project and law is None and samples is None and not apply
    measured = answer_by_runs(project, goal, limits) if project and asks_runs else None
    warn_if_stale(file, *([project / "runs"] if project and asks_runs else []))
    try:
        known, found, most = plan_training(file, goal, limits, project)
    except UserError as error:  # no law, or one that has no answer
        if measured is None:
            raise
        print_answer(measured, str(error), as_json)
        return
    if apply:
        apply_plan(project_here(), known, found, most, limits)
        return
    print_plan(known, found, project if law is None else None, measured.facts if measured else None, as_json)
    if measured and not as_json:
        print(*measured.lines, sep="\n")


def _penalty(objective: str, quantile: float | None) -> str:
    """The name of an objective, symmetric or of a quantile, as ``objective_of`` reads it."""
    if quantile is None:
        return objective
    if not 0 < quantile < 1:
        raise UserError(f"--quantile: got {quantile:g}, expected a number between 0 and 1, such as 0.1")
    return f"{objective}:{quantile:g}"


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
    loss_is: Annotated[Metric | None, Parameter(group=_COLUMNS)] = None,
    where: list[str] | None = None,
    chance_loss: Positive | None = None,
    form: Annotated[Literal["auto", "additive", "multiplicative", "m4", "broken"], _FIT] = "auto",
    fix: Annotated[list[str] | None, _FIT] = None,
    tie: Annotated[Flag, _FIT] = False,
    gamma: Annotated[str | None, _FIT] = None,
    hold_out: Annotated[str | None, _FIT] = None,
    trim: Annotated[Positive | None, _FIT] = None,
    objective: Annotated[Literal["huber", "l1", "mse", "least_squares"], _FIT] = "huber",
    quantile: Annotated[float | None, _FIT] = None,
    bootstrap: Annotated[Literal["auto", "pairs", "wild", "residual", "cluster"], _FIT] = "auto",
    bootstraps: Bootstraps = 1000,
    bootstrap_seed: Natural = 0,
    predict: Path | None = None,
    out: Path = Path("scaling"),
    force: Flag = False,
    as_json: Json = False,
) -> None:
    """Fit scaling laws to your own table of training runs.

    Reads a table with one row per run; exports of W&B and MLflow are tables too. Writes the laws with their intervals,
    the prediction for the held-out largest size, the best size per budget, the next run to add and the diagnostics as
    JSON, CSV and figures. Name the columns that your table has; they decide which laws can be fitted.

    Args:
        table: CSV, TSV, JSON, JSONL or Parquet file; may be compressed by gzip, bzip2 or xz.
        loss_is: what the column of --loss holds; accuracy becomes error, and perplexity its logarithm.
        where: keep only rows with COLUMN=VALUE, or <, >, <=, >=, != in place of =; may be repeated.
        chance_loss: loss of guessing; runs less than 10 % better are left out.
        form: formula of the law; auto chooses by fit and backtests. m4 and broken are laws of one axis.
        fix: parameter with a fixed value: E=0, or an exponent, such as beta=0.5 of the samples.
        tie: fit one exponent for all axes, as in laws of over-training.
        gamma: fit a learning curve, error = E + B samples^gamma, by least squares with weights by the variance between
            seeds: search for the gamma from -0.99 to -0.01 that fits best, or a number such as -0.5.
        hold_out: test the law on the rows with COLUMN>VALUE, or on those where COLUMN is 1, in place of the largest.
        trim: leave out runs that deviate from a first fit by more than this number of standard deviations.
        objective: huber (delta 0.001), l1 or mse of log loss, or least_squares of the loss.
        quantile: asymmetric penalty: this share of the runs lies below the law, so that 0.1 is near the lower envelope.
        bootstrap: what is resampled: configurations (pairs), signs of residuals (wild), residuals, or runs with
            checkpoints (cluster); auto chooses by the residuals.
        bootstraps: number of bootstrap samples.
        bootstrap_seed: random seed of the bootstrap.
        predict: table of points with the same columns of sizes; writes predictions.csv with their columns and
            predicted, low, high (95 %, a new run) and trusted.
        out: folder for the results.
        force: write into a folder that is not empty.
        as_json: print the content of scaling.json.
    """
    from isoflop.cli.fit import Points, Settings, fit_table, print_fit
    from isoflop.scaling.tables.user_tables import Columns, read_table

    if project := project_around(Path.cwd()):
        refuse_outputs(project, out, "--out")
    names = Columns(**asdict(columns))
    study = read_table(table, names, where or [], chance_loss, loss_is, hold_out)
    if gamma is not None and (form != "auto" or fix or tie or objective != "huber"):
        raise UserError(
            "--gamma: got --form, --fix, --tie or --objective as well, expected none; --gamma decides these"
        )
    penalty = _penalty(objective if gamma is None else "least_squares", quantile)
    settings = Settings(penalty, form, fix or [], tie, trim, gamma, bootstrap, bootstraps, bootstrap_seed)
    facts = fit_table(
        study,
        out,
        settings,
        force=force,
        points=Points(predict, names) if predict else None,
    )
    print_fit(facts, out, as_json)
