"""Compare our fit of L(N, D) with scipy's L-BFGS from many starts: processor seconds and the objective reached.

``python -m benchmarks.scaling_fit [--starts 4500]`` prints a table for the public CIFAR-10 study (18 runs, with the
author's least-squares fit) and for 240 runs simulated from the law of Hoffmann et al. (2022); then the seconds of the
processor for ``isoflop fit`` on one thread for tables of ten rows with one axis, 240 rows and 5,000 rows.
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from isoflop.scaling.fitting.objectives import OBJECTIVES, Objective
from isoflop.scaling.fitting.one_form import fit, objective_values, refit
from isoflop.scaling.forms import L_ND, Floats, Form

GRID = Path(os.environ.get("ISOFLOP_MIRROR", "../shared/datasets")) / "scaling" / "cifar10_cnn_grid"
AUTHORS = np.array(
    [[1.4043607535011016e-16, 177.19604461031818, 26.213326449302752, 0.6570920219472594, 0.411584191676]]
)


def many_starts(form: Form, levels: Floats, losses: Floats, objective: Objective, starts: int, seed: int) -> float:
    """The lowest objective of L-BFGS from random starts, over the logs of E, A and B as in Hoffmann et al. (2022)."""
    from scipy.optimize import minimize

    axes = len(form.axes)
    logs_KM = np.log(levels)
    target_M = np.log(losses) if objective.logarithmic else losses

    def value_and_gradient(point: Floats) -> tuple[float, Floats]:
        linear, exponents = point[: 1 + axes], point[1 + axes :]
        terms = np.concatenate([np.full((1, len(losses)), linear[0]), linear[1:, None] - exponents[:, None] * logs_KM])
        log_loss_M = np.logaddexp.reduce(terms, axis=0)
        shares = np.exp(terms - log_loss_M)
        predicted_M = log_loss_M if objective.logarithmic else np.exp(np.minimum(log_loss_M, 50))
        residual_M = predicted_M - target_M
        size_M = np.abs(residual_M)
        capped_M = np.minimum(size_M, objective.delta)
        slope_M = np.clip(residual_M, -objective.delta, objective.delta) * (
            1.0 if objective.logarithmic else predicted_M
        )
        gradient = shares @ slope_M
        value = float((capped_M * (size_M - 0.5 * capped_M)).sum())
        return value, np.concatenate([gradient, -(shares[1:] * logs_KM) @ slope_M])

    rng = np.random.default_rng(seed)
    bounds = [(-40.0, 60.0)] * (1 + axes) + [(0.0, 10.0)] * axes
    options = {"maxiter": 2000, "maxfun": 5000, "ftol": 1e-15, "gtol": 1e-12}
    best = np.inf
    for _ in range(starts):
        start = np.concatenate([[rng.uniform(-3, 1)], rng.uniform(0, 20, axes), rng.uniform(0, 1.5, axes)])
        found = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
        best = min(best, float(found.fun))
    return best


def published() -> tuple[Floats, Floats]:
    """Levels [2, 18] and losses [18] of the public study at its default depth of 2."""
    with (GRID / "final_data.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if row["depth"] == "2"]
    levels = np.array([[float(row[name]) for row in rows] for name in ("N", "D")])
    return levels, np.array([float(row["final_test_loss_avg_last5"]) for row in rows])


def simulated(count: int = 240, noise: float = 0.005, seed: int = 0) -> tuple[Floats, Floats]:
    """Runs of L = 1.69 + 406.4/N^0.34 + 410.7/D^0.28 (Hoffmann et al. 2022, eq. 10) with relative noise."""
    rng = np.random.default_rng(seed)
    levels = np.exp(rng.uniform(np.log([[5e7], [1e9]]), np.log([[1.6e10], [3e11]]), (2, count)))
    law = np.array([[1.69, 406.4, 410.7, 0.34, 0.28]])
    return levels, L_ND.predict(law, levels)[0] * np.exp(noise * rng.standard_normal(count))


def compare(name: str, levels: Floats, losses: Floats, objective: str, starts: int) -> None:
    """Print one row of the table."""
    seconds = []
    for _ in range(5):
        begun = time.process_time()
        values, reached = fit(L_ND, levels, losses, OBJECTIVES[objective])
        seconds.append(time.process_time() - begun)
    begun = time.process_time()
    grid = many_starts(L_ND, levels, losses, OBJECTIVES[objective], starts, seed=0)
    grid_seconds = time.process_time() - begun
    ours = float(np.median(seconds))
    law = " ".join(f"{letter} {value:.4g}" for letter, value in zip(L_ND.names, values, strict=True))
    print(f"{name:22} {objective:14} {ours * 1e3:8.1f} ms {grid_seconds:9.2f} s {grid_seconds / ours:7.0f}x "
          f"{reached:.10g} {reached / grid - 1:+.1e}   {law}")  # fmt: skip


def command_line(rows: int, folder: Path) -> float:
    """Processor seconds of ``isoflop fit`` on one thread; ten rows are of one axis, so that M4 is fitted too."""
    levels, losses = simulated(rows)
    table = folder / f"{rows}.csv"
    table.write_text(
        "N,D,loss\n" + "".join(f"{n:.6g},{d:.6g},{y:.6g}\n" for n, d, y in zip(*levels, losses, strict=True))
    )
    columns = ["--samples", "D"] if rows <= 10 else ["--parameters", "N", "--samples", "D"]
    out = folder / f"out{rows}"
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    command = ["isoflop", "fit", str(table), *columns, "--loss", "loss", "--out", str(out)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env={**os.environ, **threads})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--starts", type=int, default=300)
    starts = parser.parse_args().starts
    print(f"numpy {np.__version__}, {platform.machine()}, {os.cpu_count()} cores, {starts} starts; ours: median of 5")
    print(f"{'data':22} {'objective':14} {'ours':>11} {'L-BFGS':>11} {'speed-up':>8} value, and relative to L-BFGS")
    if GRID.is_dir():
        levels, losses = published()
        for name in OBJECTIVES:
            compare("CIFAR-10 study, 18 runs", levels, losses, name, starts)
        author = float(objective_values(L_ND, AUTHORS, levels, losses[None], OBJECTIVES["least_squares"])[0])
        print(f"{'':22} least_squares of the author's fit: {author:.10g}")
    levels, losses = simulated()
    for name in ("huber", "mse"):
        compare("simulated, 240 runs", levels, losses, name, starts)
    values, _ = fit(L_ND, levels, losses, OBJECTIVES["huber"])
    tables = L_ND.predict(values[None], levels) * np.exp(0.005 * np.random.default_rng(1).standard_normal((4000, 240)))
    begun = time.process_time()
    refit(L_ND, levels, tables, OBJECTIVES["huber"], values)
    print(f"4,000 bootstrap replicates of 240 runs, huber: {time.process_time() - begun:.1f} s")
    with tempfile.TemporaryDirectory() as folder:
        for rows in (10, 240, 5000):
            print(f"isoflop fit, {rows} rows: {command_line(rows, Path(folder)):.1f} s of processor time on one thread")


if __name__ == "__main__":
    main()
