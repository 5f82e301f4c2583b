"""Forecast the shipped files of widths outside of a study, then make them: bytes, latency and accuracy.

``python -m benchmarks.shipped_formats --project FOLDER --widths 20 32 40 [--seed 3]`` takes a project in which
`dvc repro` has run. For each width it forecasts both files from scaling/law.json and scaling/formats.json, trains the
network on all images as stage ``train`` does, exports, quantizes and times it, and prints a line per quantity with the
95 % interval. For CIFAR-10: `isoflop init FOLDER --preset cifar10`, `dvc repro` there, and ``--widths`` outside of
sweep.widths.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from isoflop.compression.study_formats import study_formats
from isoflop.data.arrays import read_training_data
from isoflop.runtime.params import load_params
from isoflop.scaling.forecasting import forecast
from isoflop.scaling.formats import FORMATS
from isoflop.training.sweep import SweepRuns, sweep_width
from stages import formats, sweep


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="+", required=True)
    parser.add_argument("--seed", type=int, default=3)
    options = parser.parse_args()
    project, params = options.project, options.project / "params.yaml"
    how, made = load_params(sweep.Params, params), load_params(formats.Params, params)
    epochs = how.recipe.epochs
    runs = SweepRuns(fractions=[1.0], epochs=[epochs], budgets=[], seeds=[options.seed], image_sizes=[])
    folder = project / "data" / "prepared"
    data = read_training_data(folder / "train", project / "data" / "augmented", folder / "val")
    law, known = project / "scaling" / "law.json", project / "scaling" / "formats.json"
    print(f"{'width':>5} {'file':6} {'quantity':13} {'predicted':>10} {'low':>10} {'high':>10} {'measured':>10} inside")
    inside = []
    for width in options.widths:
        expected = forecast(law, known, width, [], epochs)["formats"]
        with tempfile.TemporaryDirectory() as scratch:
            network = Path(scratch) / f"width-{width}"
            sweep_width(how.model, how.recipe, runs, width, data, file=Path(scratch) / "runs.json", network=network)
            table = study_formats(
                Path(scratch), [width], data.train, data.val, made.export, made.quantize, made.benchmark
            )
            found = table["widths"][str(width)]
        for form in FORMATS:
            for name, band in expected[form].items():
                low, high, actual = band["low"], band["high"], found[form][name]
                held = None if low is None else low <= actual <= high
                inside.append(held)
                ends = " ".join("         -" if end is None else f"{end:10.5g}" for end in (low, high))
                print(f"{width:5} {form:6} {name:13} {band['predicted']:10.5g} {ends} {actual:10.5g} "
                      f"{ {True: 'yes', False: 'no', None: '-'}[held]}", flush=True)  # fmt: skip
    known_ones = [one for one in inside if one is not None]
    print(f"{sum(known_ones)} of {len(known_ones)} inside")


if __name__ == "__main__":
    main()
