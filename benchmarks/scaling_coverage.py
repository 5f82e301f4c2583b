"""Coverage of 95 % intervals on simulated studies of known laws, by design and noise.

``python -m benchmarks.scaling_coverage [--studies 100] [--bootstraps 200]`` prints a row per design, noise and kind of
noise: the
share of studies whose interval covers the true value, and the number of studies with an interval, for

- ``law``: the loss at 4 times the largest size (confidence band);
- ``run``: a new run there (prediction interval);
- ``alpha``, ``beta`` and ``E``: these parameters;
- ``N* law``: the compute-optimal size for the study's largest budget, by the law;
- ``N* runs``: the same by the IsoFLOP profile of that budget, for designs that have one.

The designs: ``3x3`` and ``4x4`` sizes and data sizes over a factor of 64, one seed; ``4x4x2``, the same with two;
``isoflop``, 4 budgets with 7 sizes each, within a factor of 4 of the optimum; ``isoflop off``, with sizes from half to
8 times the optimum; ``240``, scattered over sizes and samples; ``runs``, 24 sizes with 10 checkpoints each. The kinds
of noise: ``equal``; ``varying``, four times as large at the smallest size as at the largest; ``heavy``, Student's t
with 3 degrees of freedom; ``correlated``, an autoregressive process (0.7) along the samples of each size. The laws are
random, near those of small image classifiers and of Hoffmann et al. (2022), with
irreducible losses between 0.25 and 0.9 of the lowest loss.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import pairwise, product

import numpy as np

from isoflop.scaling.analysis import read_profiles
from isoflop.scaling.fitting.irreducible import irreducible_interval
from isoflop.scaling.fitting.law_fitting import fit_law
from isoflop.scaling.fitting.objectives import OBJECTIVES
from isoflop.scaling.fitting.uncertainty import interval
from isoflop.scaling.forms import L_ND, Floats
from isoflop.scaling.planning import Planner
from isoflop.scaling.tables.runs import Run, Study

DESIGNS = ("3x3", "4x4", "4x4x2", "isoflop", "isoflop off", "240", "runs")
KINDS = ("equal", "varying", "heavy", "correlated")
NAMES = ("law", "run", "alpha", "beta", "E", "N* law", "N* runs")
Hits = dict[str, bool | None]


@dataclass(frozen=True)
class Truth:
    """L = E + A/N^α + B/D^β."""

    values: Floats  # [5]

    @classmethod
    def drawn(cls, rng: np.random.Generator, sizes: tuple[float, float], samples: tuple[float, float]) -> Truth:
        """A random law whose terms at the largest size and data have the order of magnitude of E."""
        alpha, beta = rng.uniform(0.3, 0.7, 2)
        irreducible = rng.uniform(0.25, 0.9)
        share = rng.uniform(0.3, 0.7)
        at_top = np.array([share, 1 - share]) * (1 - irreducible)
        return cls(np.array([irreducible, at_top[0] * sizes[1] ** alpha, at_top[1] * samples[1] ** beta, alpha, beta]))

    def loss(self, sizes: Floats, samples: Floats) -> Floats:
        return np.asarray(L_ND.predict(self.values[None], np.stack([sizes, samples]))[0])

    def best_size(self, flops: float) -> float:
        """N* of C = 6 N D (Hoffmann et al. 2022, eq. 4)."""
        _, a, b, alpha, beta = self.values
        return float((alpha * a / (beta * b) * (flops / 6) ** beta) ** (1 / (alpha + beta)))


def design(name: str, truth: Truth, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Sizes [M] and samples [M] of a study's runs."""
    if name == "240":
        sizes, samples = np.exp(rng.uniform(np.log([[1e4], [1e5]]), np.log([[6.4e5], [6.4e6]]), (2, 240)))
        return sizes, samples
    if name == "runs":
        return np.repeat(np.geomspace(1e4, 6.4e5, 24), 10), np.tile(np.geomspace(1e5, 6.4e6, 10), 24)
    if name.startswith("isoflop"):
        budgets, smallest = np.geomspace(1e12, 1e14, 4), 0.5 if name == "isoflop off" else 0.25
        sizes = np.concatenate([truth.best_size(budget) * smallest * np.geomspace(1, 16, 7) for budget in budgets])
        return sizes, np.repeat(budgets, 7) / (6 * sizes)
    count = int(name[0])
    sizes, samples = np.meshgrid(np.geomspace(1e4, 6.4e5, count), np.geomspace(1e5, 6.4e6, count))
    seeds = 2 if name.endswith("x2") else 1
    return np.tile(sizes.ravel(), seeds), np.tile(samples.ravel(), seeds)


def drawn_noise(kind: str, sizes: Floats, samples: Floats, rng: np.random.Generator) -> Floats:
    """Noise [M] of unit size, see the module's docstring."""
    if kind == "heavy":
        return np.asarray(rng.standard_t(3, len(sizes)) / np.sqrt(3))
    found = rng.standard_normal(len(sizes))
    if kind == "varying":
        share = np.log(sizes / sizes.min()) / np.log(sizes.max() / sizes.min())
        return np.asarray(found * 2.0 * 4.0**-share)
    if kind == "correlated":
        order = np.lexsort((samples, sizes))
        for before, here in pairwise(order):
            if sizes[before] == sizes[here]:
                found[here] = 0.7 * found[before] + np.sqrt(1 - 0.49) * found[here]
    return np.asarray(found)


def trial(name: str, noise: float, kind: str, bootstraps: int, seed: int) -> Hits:
    """Simulate a study: whether each interval covers the true value; None if the study has no such interval."""
    rng = np.random.default_rng([seed, round(1e4 * noise), len(name)])
    truth = Truth.drawn(rng, (1e4, 6.4e5), (1e5, 6.4e6))
    sizes, samples = design(name, truth, rng)
    losses = truth.loss(sizes, samples) * np.exp(noise * drawn_noise(kind, sizes, samples, rng))
    seeds = [2 * index // len(sizes) if name.endswith("x2") else 0 for index in range(len(sizes))]
    runs = tuple(
        Run(size, seen, seen, 6 * size * seen, seed, loss)
        for size, seen, seed, loss in zip(sizes, samples, seeds, losses, strict=True)
    )
    study = Study(runs, all_samples=float(samples.max()))
    law = fit_law(study, bootstraps, rng)
    size, seen = 4 * float(sizes.max()), float(samples.max())
    levels = {"parameters": size, "unique_samples": seen, "seen_samples": seen, "flops": 6 * size * seen}
    expected = float(truth.loss(np.array([size]), np.array([seen]))[0])
    low, high = law.confidence_band(levels)
    hits: Hits = {"law": bool(low[0] <= expected <= high[0])}
    _, bounds = law.prediction(levels, seeds=1)
    at_top = 0.5 if kind == "varying" else 1.0
    single = rng.standard_t(3) / np.sqrt(3) if kind == "heavy" else rng.standard_normal()
    new = expected * float(np.exp(noise * at_top * single))
    hits["run"] = None if bounds is None else bounds[0] <= new <= bounds[1]
    hits |= {"alpha": None, "beta": None, "E": None}
    if law.form == L_ND and law.sampled is not None:
        hits["alpha"] = _inside(interval(law.replicates[:, 3]), truth.values[3])
        hits["beta"] = _inside(interval(law.replicates[:, 4]), truth.values[4])
        bounds = irreducible_interval(
            L_ND, study.levels(L_ND.axes), losses, OBJECTIVES["huber"], law.values, law.sampled
        )
        hits["E"] = _inside(bounds, truth.values[0])
    profiled = name.startswith("isoflop")
    flops = float(np.max(6 * sizes * samples)) if profiled else 6 * 1e5 * 1e6
    hits["N* law"] = _inside(Planner.of(law, study).optimum(flops).parameters_interval, truth.best_size(flops))
    found = read_profiles(study, 1000, rng)
    hits["N* runs"] = _inside(found[-1].parameters_interval, truth.best_size(flops)) if profiled else None
    return hits


def _inside(bounds: tuple[float, float] | None, value: float) -> bool | None:
    return None if bounds is None else bool(bounds[0] <= value <= bounds[1])


def coverage(
    name: str, noise: float, studies: int, bootstraps: int, workers: int = 1, kind: str = "equal"
) -> dict[str, tuple[float, int]]:
    """Share of studies covered and number of studies with an interval, by quantity."""
    one = partial(trial, name, noise, kind, bootstraps)
    if workers > 1:
        with ProcessPoolExecutor(workers) as pool:
            every = list(pool.map(one, range(studies), chunksize=5))
    else:
        every = [one(seed) for seed in range(studies)]
    shares = {}
    for quantity in NAMES:
        known = [hit for hits in every if (hit := hits[quantity]) is not None]
        shares[quantity] = (float(np.mean(known)) if known else float("nan"), len(known))
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--bootstraps", type=int, default=200)
    parser.add_argument("--designs", nargs="+", choices=DESIGNS, default=DESIGNS)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--noise", nargs="+", type=float, default=(0.01, 0.02, 0.03))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    print(
        f"{options.studies} studies per row, {options.bootstraps} bootstrap replicates; coverage (number of intervals)"
    )
    print(f"{'design':11} {'noise':>6} {'kind':10} " + " ".join(f"{name:>13}" for name in NAMES))
    for name, noise, kind in product(options.designs, options.noise, options.kinds):
        found = coverage(name, noise, options.studies, options.bootstraps, options.workers, kind)
        cells = [f"{share:7.1%} ({count:3d})" for share, count in found.values()]
        print(f"{name:11} {noise:6.1%} {kind:10} " + " ".join(f"{cell:>13}" for cell in cells), flush=True)


if __name__ == "__main__":
    main()
