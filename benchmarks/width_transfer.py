"""Is the best learning rate at width 16 also the best at width 128?

``python -m benchmarks.width_transfer [--data data/prepared] [--images N] [--widths 16 128] [--epochs 10]
[--seeds 0 1] [--figure docs/width-transfer.png]`` trains every family at every width with learning rates a factor of 2
apart, on the project's prepared images (or N of them), and plots the validation NLL against the learning rate. It
prints each family's losses, its best learning rates, and the ratio of the last width's to the first's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean

import matplotlib.pyplot as plt
import numpy as np
import yaml
from rich.progress import track

from isoflop.data.arrays import Split, read_split
from isoflop.data.loading import TrainingImages, all_images, subset
from isoflop.models.architecture import ModelParams, architecture
from isoflop.models.initialization import initialized
from isoflop.training.fitting import fit
from isoflop.training.lightning_module import DivergedError
from isoflop.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
CASES = {  # family, depth, optimizer, middle learning rate
    "resnet, Muon": ("resnet", 1, "muon", 0.24),
    "resnet, AdamW": ("resnet", 1, "adamw", 0.004),
    "cnn, AdamW": ("cnn", 3, "adamw", 0.008),
    "mlp, AdamW": ("mlp", 2, "adamw", 0.002),
    "vit, AdamW": ("vit", 2, "adamw", 0.002),
}
FACTORS = (1 / 4, 1 / 2, 1, 2, 4)
Losses = dict[float, float]  # learning rate → validation NLL


def nll(case: str, width: int, rate: float, seed: int, epochs: int, images: TrainingImages, val: Split) -> float:
    """Return the validation NLL after the last epoch; infinite if the training diverged."""
    family, depth, optimizer, _ = CASES[case]
    params = yaml.safe_load((ROOT / "presets" / "digits.yaml").read_text())
    changes = {"optimizer": optimizer, "learning_rate": rate, "epochs": epochs, "batch_size": 64}
    recipe = Recipe.model_validate(params["recipe"] | changes | ({"momentum": 0.6} if optimizer == "muon" else {}))
    train = images.split
    shape = {"family": family, "depth": depth, "heads": 4, "patch_size": max(2, train.image_size // 8)}
    built = architecture(ModelParams.model_validate(params["model"] | shape | {"dropout": 0.0}), width, train)
    net = initialized(built, images, seed)
    try:
        fitted = fit(net, images, val, recipe, width=width, seed=seed, validate_every=epochs, progress=False)
    except DivergedError:
        return float("inf")
    return fitted.val_nll


def draw(curves: dict[str, dict[int, Losses]], figure: Path) -> None:
    drawn, panes = plt.subplots(1, len(curves), figsize=(3 * len(curves), 3.2), layout="constrained")
    for axes, (case, by_width) in zip(np.atleast_1d(panes), curves.items(), strict=True):
        for width, losses in by_width.items():
            (line,) = axes.plot(list(losses), list(losses.values()), marker=".", label=f"width {width}")
            best = min(losses, key=losses.__getitem__)
            axes.plot(best, losses[best], marker="o", markersize=9, color=line.get_color())
        axes.set(xscale="log", title=case, xlabel="learning rate")
        rates = list(next(iter(by_width.values())))
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates], fontsize=8)
        axes.minorticks_off()
    np.atleast_1d(panes)[0].set_ylabel("validation NLL")
    np.atleast_1d(panes)[0].legend()
    drawn.savefig(figure, dpi=130)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/prepared"))
    parser.add_argument("--images", type=int, help="number of training images; default: all")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 128])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    train, val = read_split(options.data / "train"), read_split(options.data / "val")
    images = all_images(train, np.zeros((0, *train.images.shape), np.uint8))
    images = subset(images, min(1.0, options.images / len(train)), seed=0) if options.images else images
    curves: dict[str, dict[int, Losses]] = {}
    for case in options.only:
        rates = [CASES[case][3] * factor for factor in FACTORS]
        curves[case] = {
            width: {
                rate: fmean(nll(case, width, rate, seed, options.epochs, images, val) for seed in options.seeds)
                for rate in track(rates, f"{case}, width {width}", transient=True)
            }
            for width in options.widths
        }
        best = [min(losses, key=losses.__getitem__) for losses in curves[case].values()]
        losses = {width: {f"{rate:g}": round(nll, 4) for rate, nll in by.items()} for width, by in curves[case].items()}
        print(json.dumps({"case": case, "best": best, "ratio": best[-1] / best[0], "nll": losses}), flush=True)
    if options.figure:
        draw(curves, options.figure)


if __name__ == "__main__":
    main()
