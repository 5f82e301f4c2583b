"""Coverage of the intervals of bytes and latency, on networks of random weights of many widths.

``python -m benchmarks.format_intervals --project FOLDER --widths 6 10 14 20 32 40`` takes a project whose images are
prepared. It exports and quantizes networks of the widths of the study (sweep.widths), of twice the largest, and of
``--widths``, and times all of them in turns, two times. From the study's files in the first timing it predicts bytes
and latency of the others, with and without the network of twice the largest width, and compares them with the second
timing.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.compression.study_formats import untrained_files, untrained_network
from isoflop.compression.variants import INT8
from isoflop.data.arrays import read_split
from isoflop.inference.benchmarking import Benchmark, benchmark
from isoflop.models.architecture import architecture
from isoflop.runtime.params import load_params
from isoflop.scaling.formats import FORMATS, Format, Formats
from stages import formats, sweep

NONE = np.zeros(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="+", required=True)
    options = parser.parse_args()
    file, prepared = options.project / "params.yaml", options.project / "data" / "prepared"
    model, made = load_params(sweep.Params, file).model, load_params(formats.Params, file)
    train, val = read_split(prepared / "train"), read_split(prepared / "val")
    studied = sorted(set(made.widths))
    widest, others = 2 * studied[-1], sorted(set(options.widths) - {*studied, 2 * studied[-1]})
    blocks: dict[int, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for width in (*studied, widest, *others):
            network = untrained_network(architecture(model, width, train), train.input_spec)
            blocks[width] = untrained_files(network, Path(scratch), train, val, made.export, made.quantize)
        timings = [timed(Path(scratch), list(blocks), made.benchmark) for _ in range(2)]
    for name, known in (("with twice the largest width", [*studied, widest]), ("the study's widths alone", studied)):
        show(name, known, others, blocks, timings)


def timed(folder: Path, widths: list[int], params: Benchmark) -> dict[tuple[int, Format], float]:
    """The median latency of each file in ms."""
    headline = {"batch_sizes": [min(params.batch_sizes)], "threads": [min(params.threads)]}
    stems: dict[tuple[int, Format], str] = {
        (width, form): f"width-{width}{INT8 if form == 'int8' else ''}" for width in widths for form in FORMATS
    }
    found = benchmark([folder / f"{stem}.onnx" for stem in stems.values()], params.model_copy(update=headline))
    return {key: found[stem][found["conditions"]["headline"]]["p50_ms"] for key, stem in stems.items()}


def show(
    name: str, known: list[int], others: list[int], blocks: dict[int, dict[str, Any]],
    timings: list[dict[tuple[int, Format], float]],
) -> None:  # fmt: skip
    fitted = Formats(
        np.array(known, np.float64), np.array([blocks[width]["macs"] for width in known], np.float64),
        {form: np.array([blocks[width][form]["bytes"] for width in known], np.float64) for form in FORMATS},
        {form: np.array([timings[0][width, form] for width in known], np.float64) for form in FORMATS},
        NONE, NONE, NONE, NONE, NONE,
    )  # fmt: skip
    print(f"{name}: {', '.join(map(str, known))}")
    at = np.array(others, np.float64)
    for form in FORMATS:
        for quantity, band, actual in (
            ("bytes", fitted.size(form, at), [blocks[width][form]["bytes"] for width in others]),
            ("latency", fitted.latency(form, at), [timings[1][width, form] for width in others]),
        ):
            inside = (band.low <= actual) & (actual <= band.high)
            error = np.abs(band.predicted / actual - 1)
            ratio = f"{np.median(band.high / band.low):.4g}"
            print(f"  {form:6} {quantity:8} inside {inside.sum()} of {len(others)}, median high / low {ratio}, "
                  f"median error {np.median(error):.2%}")  # fmt: skip
            for one in range(len(others)):
                print(f"    width {others[one]:4}: {band.predicted[one]:.5g} ({band.low[one]:.5g} to "
                      f"{band.high[one]:.5g}), measured {actual[one]:.5g}")  # fmt: skip


if __name__ == "__main__":
    main()
