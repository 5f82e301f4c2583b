"""Sweeps whose losses follow a known law, and the scaling stage on them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.scaling.forms import L_ND
from stages import scaling

LAW = np.array([0.05, 20.0, 30.0, 0.5, 0.7])


WIDTHS = (8, 12, 16, 24, 32)


OUTPUTS = ("law.json", "scaling.json", "scaling.csv")  # and the folder of pictures


def size(width: int) -> int:
    return 70 * width**2 + 30 * width + 10


def loss_at(width: int, images: int, epochs: int = 12) -> float:
    """By LAW, with a term of the images seen that is nothing at 12 epochs."""
    loss = L_ND.predict(LAW[None], np.array([[size(width)], [images]], np.float64))[0, 0]
    return float(loss + 20 * ((epochs * images) ** -0.6 - (12 * images) ** -0.6))


def write_runs(
    folder: Path,
    widths: Iterable[int] = WIDTHS,
    fractions: Iterable[float] = (0.25, 0.5, 1.0),
    seeds: int = 2,
    spread: float = 0.02,
    epochs: Iterable[int] = (12,),
) -> Path:
    """A sweep's files of losses that follow LAW, with noise of ``spread``."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    for width in widths:
        cost = 384.0 * size(width)
        rows = []
        for fraction in fractions:
            images = round(1220 * fraction)
            for passes, seed in product(epochs, range(seeds)):
                loss = loss_at(width, images, passes) * float(np.exp(spread * rng.standard_normal()))
                seen = passes * images
                rows.append({"fraction": fraction, "budget": None, "seed": seed, "unique_images": images,
                             "images_seen": seen, "flops": seen * cost, "val_nll": loss,
                             "val_accuracy": 1 - 0.3 * loss, "train_loss": 0.5, "diverged": False})  # fmt: skip
        content = {"width": width, "family": "cnn", "parameters": size(width), "body_parameters": size(width) - 170,
                   "flops_per_image": cost, "chance_nll": 2.302585, "runs": rows}  # fmt: skip
        (folder / f"width-{width}.json").write_text(json.dumps(content))
    return folder


def write_formats(file: Path, widths: Iterable[int] = WIDTHS) -> Path:
    """What stage ``formats`` measures: quadratic bytes, a latency affine in MACs, and INT8 that is twice as fast."""
    file.parent.mkdir(parents=True, exist_ok=True)
    found = {}
    for width in widths:
        shared = {"val_accuracy": 0.9, "val_nll": 0.3}
        macs = 6 * size(width)
        found[str(width)] = {
            "parameters": size(width),
            "macs": macs,
            "float": {"bytes": 4 * size(width) + 2_000, "latency_ms": 0.01 + 1e-6 * macs, **shared},
            "int8": {"bytes": size(width) + 40 * width + 6_000, "latency_ms": 0.01 + 5e-7 * macs, **shared},
            "change": {"accuracy": -0.002, "accuracy_error": 0.002, "log_nll": 0.01, "log_nll_error": 0.002,
                       "layers_in_float": 0},
        }  # fmt: skip
    content = {"conditions": {"headline": "batch1_threads1"}, "val_images": 500, "widths": found, "untrained": {}}
    file.write_text(json.dumps(content))
    return file


def write_measurements(folder: Path, shipped: str = "base-int8", **changes: float) -> list[Path]:
    """variants.json, latency.json and choice.json of a base whose files are those of ``write_formats`` at width 16."""
    formats = json.loads(write_formats(folder / "expected.json").read_text())["widths"]["16"]
    blocks = {"base": formats["float"] | changes, "base-int8": formats["int8"] | changes}
    timed = {name: {"cell": {"p50_ms": block["latency_ms"]}} for name, block in blocks.items()}
    contents = {"variants": blocks, "latency": timed | {"conditions": {"headline": "cell"}},
                "choice": {"chosen": shipped}}  # fmt: skip
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return [folder / f"{name}.json" for name in contents]


def write_smaller(runs: Path, sizes: dict[int, float], image_size: int, widths: Iterable[int] = WIDTHS) -> None:
    """Add runs at smaller image sizes: the loss of ``image_size`` times a factor, at the FLOPs of its pixels."""
    for width in widths:
        file = runs / f"width-{width}.json"
        content = json.loads(file.read_text())
        smaller = []
        for size, factor in sizes.items():
            share = (size / image_size) ** 2
            rows = [
                row | {"val_nll": row["val_nll"] * factor, "flops": row["flops"] * share} for row in content["runs"]
            ]
            table = {"image_size": size, **content, "flops_per_image": content["flops_per_image"] * share, "runs": rows}
            smaller.append(table)
        file.write_text(json.dumps({"image_size": image_size, **content, "smaller": smaller}))


def edit(runs: Path, width: int, **changes: Any) -> None:
    """Change every run of a width."""
    file = runs / f"width-{width}.json"
    content = json.loads(file.read_text())
    for row in content["runs"]:
        row.update(changes)
    file.write_text(json.dumps(content))


def run_stage(runs: Path, folder: Path, widths: Iterable[int] = WIDTHS, bootstraps: int = 60) -> dict[str, Any]:
    """Run the stage's main; the metrics that it wrote."""
    folder.mkdir(parents=True, exist_ok=True)
    params = scaling.Params(bootstraps=bootstraps, seed=0, widths=list(widths))
    scaling.main(params, runs, *(folder / name for name in (*OUTPUTS, "pictures")))
    return dict(json.loads((folder / "scaling.json").read_text()))
