"""A scaling study on CIFAR-10, written as a table for ``isoflop fit``.

``python -m benchmarks.cifar10_study --data data/prepared --folder FOLDER --table benchmarks/results/cifar10_study.csv``
trains every width on every fraction of the data for every number of epochs, and on all data for every budget, with
presets/cifar10.yaml. FOLDER gets one file of runs per width; a width whose file exists is not trained again. Then it
writes the table and, next to it, a JSON file with the conditions.
"""

from __future__ import annotations

import argparse
import csv
import json
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml

from isoflop.data.arrays import TrainingData, read_split
from isoflop.models.architecture import ModelParams
from isoflop.training.cpu import processor
from isoflop.training.recipe import Recipe
from isoflop.training.sweep import SweepRuns, sweep_width

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("width", "parameters", "unique_samples", "seen_samples", "flops", "budget", "seed", "loss", "accuracy")


def rows(folder: Path, widths: list[int]) -> list[dict[str, object]]:
    """Return the runs of the widths as rows of the table."""
    found = []
    for width in widths:
        content = json.loads((folder / f"width-{width}.json").read_text())
        for run in content["runs"]:
            sizes = (
                width,
                content["parameters"],
                run["unique_images"],
                run["images_seen"],
                run["flops"],
                run["budget"],
            )
            values = (*sizes, run["seed"], run["val_nll"], run["val_accuracy"])
            found.append(dict(zip(COLUMNS, values, strict=True)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/prepared"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    parser.add_argument("--widths", type=int, nargs="+", default=[4, 8, 16, 32, 64])
    parser.add_argument("--epochs", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--fractions", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--budgets", type=float, nargs="*", default=[])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    options = parser.parse_args()
    params = yaml.safe_load((ROOT / "presets" / "cifar10.yaml").read_text())
    named = {name: getattr(options, name) for name in ("fractions", "epochs", "budgets", "seeds")}
    runs = SweepRuns(**named, image_sizes=[])
    train, val = (read_split(options.data / name) for name in ("train", "val"))
    views = np.zeros((0, *train.images.shape), np.uint8)
    options.folder.mkdir(parents=True, exist_ok=True)
    asked = options.folder / "runs.json"
    if asked.exists() and json.loads(asked.read_text()) != runs.model_dump():
        parser.error(
            f"--folder: {options.folder} has runs of other fractions, epochs, budgets or seeds; fix: another folder"
        )
    asked.write_text(json.dumps(runs.model_dump()))
    begin = time.perf_counter()
    for width in options.widths:
        file = options.folder / f"width-{width}.json"
        if not file.exists():
            model, recipe = ModelParams.model_validate(params["model"]), Recipe.model_validate(params["recipe"])
            data = TrainingData(train, views, val)
            sweep_width(model, recipe, runs, width, data, file=file, network=options.folder / f"width-{width}")
            print(f"width {width}: {time.perf_counter() - begin:.0f} s since the start", flush=True)
    options.table.parent.mkdir(parents=True, exist_ok=True)
    with options.table.open("w", newline="") as stream:
        table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
        table.writeheader()
        table.writerows(rows(options.folder, options.widths))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()[0]
    conditions = {
        "date": datetime.now(UTC).date().isoformat(),
        "data": f"CIFAR-10, {len(train)} training and {len(val)} validation images",
        "device": device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "lightning": version("pytorch-lightning"),
        "model": params["model"],
        "recipe": params["recipe"],
        "runs": runs.model_dump(),
        "loss": "validation NLL (nats per image) after the last step",
    }
    options.table.with_suffix(".json").write_text(json.dumps(conditions, indent=1) + "\n")


if __name__ == "__main__":
    main()
