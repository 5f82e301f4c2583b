"""Coverage of 95 % prediction intervals on published learning curves, each extrapolated from its smaller part.

``python -m benchmarks.real_curves [--data FILE] [--bootstraps 200]`` reads a CSV with the columns domain, task, model,
seen (samples), loss and training (1: fit, 0: predict), such as the curves of Alabdulmohsin, Neyshabur and Zhai (2022,
"Revisiting Neural Scaling Laws in Language and Vision", CC BY 4.0). Without ``--data`` it is
scaling/real_curves/curves.csv of the folder that ISOFLOP_MIRROR names. It prints a row per curve:

- ``points``: share of the held-out points in their interval; ``last``: whether the last point is in its interval;
- ``width``: median of log(high / low); ``before``: the same of the intervals without backtests, if
  results/real_curves_before.csv has the curve;
- ``error``: root mean square of log(predicted / measured) over the held-out points;
- ``trusted``: the factor up to which the law is trusted; ``missed``: share of trusted points outside their interval.
"""

from __future__ import annotations

import argparse
import csv
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from isoflop.scaling.analysis import analyse
from isoflop.scaling.forms import Floats
from isoflop.scaling.tables.runs import Run, Study

BEFORE = Path(__file__).parent / "results" / "real_curves_before.csv"
Curve = tuple[str, Floats]  # name; rows of seen, loss, training


@dataclass(frozen=True)
class Score:
    """How the intervals of one curve did; see the module's docstring."""

    name: str
    count: int
    inside: float
    last: bool
    width: float
    error: float
    trusted_to: float
    trusted: int  # points
    missed: int  # of the trusted points
    form: str


def read_curves(file: Path) -> list[Curve]:
    rows: dict[str, list[tuple[float, float, float]]] = {}
    with file.open() as stream:
        for row in csv.DictReader(stream):
            name = f"{row['domain']} {row['task']} {row['model']}"
            rows.setdefault(name, []).append((float(row["seen"]), float(row["loss"]), float(row["training"])))
    return [(name, np.array(sorted(values))) for name, values in rows.items()]


def score(curve: Curve, bootstraps: int = 200) -> Score:
    """Fit the training part of a curve and predict the rest."""
    name, rows = curve
    fitted, held = rows[rows[:, 2] == 1], rows[rows[:, 2] == 0]
    runs = tuple(Run(1.0, seen, seen, 6 * seen, 0, loss) for seen, loss, _ in fitted)
    law = analyse(Study(runs, all_samples=float(fitted[:, 0].max())), bootstraps, seed=0).law
    found = law.predictions({"unique_samples": held[:, 0]})
    inside = (found.low <= held[:, 1]) & (held[:, 1] <= found.high)
    return Score(
        name, len(held), float(inside.mean()), bool(inside[-1]), float(np.median(np.log(found.high / found.low))),
        float(np.sqrt((np.log(found.predicted / held[:, 1]) ** 2).mean())),
        law.reach.trusted_to.get("unique_samples", 1.0), int(found.trusted.sum()),
        int((found.trusted & ~inside).sum()), law.form.label,
    )  # fmt: skip


def scores(curves: list[Curve], bootstraps: int, workers: int) -> list[Score]:
    if workers == 1:
        return [score(curve, bootstraps) for curve in curves]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(partial(score, bootstraps=bootstraps), curves))


def widths_before() -> dict[str, float]:
    """Median widths of the intervals at commit 32d1ee5, before backtests, by curve."""
    if not BEFORE.exists():
        return {}
    with BEFORE.open() as stream:
        return {row["name"]: float(row["width"]) for row in csv.DictReader(stream)}


def summary(found: list[Score]) -> str:
    before = widths_before()
    points = sum(one.inside * one.count for one in found) / sum(one.count for one in found)
    ratios = [one.width / before[one.name] for one in found if one.name in before]
    trusted = sum(one.trusted for one in found)
    return (
        f"{len(found)} curves: {points:.1%} of the points and {np.mean([one.inside for one in found]):.1%} per curve, "
        f"{np.mean([one.last for one in found]):.1%} of the last points inside; median width "
        f"{np.median(ratios) if ratios else float('nan'):.2f} times that before; mean error "
        f"{np.mean([one.error for one in found]):.4f}; of {trusted} trusted points on "
        f"{sum(one.trusted > 0 for one in found)} curves "
        f"{sum(one.missed for one in found) / max(trusted, 1):.1%} missed"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    mirror = os.environ.get("ISOFLOP_MIRROR")
    default = Path(mirror) / "scaling" / "real_curves" / "curves.csv" if mirror else None
    parser.add_argument("--data", type=Path, default=default, required=default is None)
    parser.add_argument("--bootstraps", type=int, default=200)
    parser.add_argument("--every", type=int, default=1, help="only every n-th curve")
    parser.add_argument("--first", type=int, default=0, help="the first of these curves")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    before = widths_before()
    found = scores(read_curves(options.data)[options.first :: options.every], options.bootstraps, options.workers)
    print(
        f"{'curve':38} {'n':>4} {'points':>7} {'last':>5} {'width':>7} {'before':>7} {'error':>7} {'trusted':>8} missed"
    )
    for one in found:
        missed = f"{one.missed / one.trusted:6.1%}" if one.trusted else ""
        last, old = "yes" if one.last else "no", before.get(one.name, np.nan)
        print(f"{one.name[:38]:38} {one.count:4d} {one.inside:7.1%} {last:>5} {one.width:7.4f} {old:7.4f} "
              f"{one.error:7.4f} {one.trusted_to:8.2f} {missed:6} {one.form[-28:]}")  # fmt: skip
    print(summary(found))
    for domain in sorted({one.name.split()[0] for one in found}):
        print(f"{domain}: {summary([one for one in found if one.name.split()[0] == domain])}")


if __name__ == "__main__":
    main()
