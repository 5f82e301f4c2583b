"""Overhead of Lightning: ``fit`` against the same network, batches and optimizer in a bare loop.

``python -m benchmarks.training_loop [--width 32] [--images 5000] [--batch 500] [--turns 5] [--accelerator auto]``
times both in turns, and prints the seconds per epoch of each and the median of their ratios. The images are noise:
only time is measured.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import yaml

from isoflop.data.arrays import InputSpec, Split, SplitWriter, read_split
from isoflop.data.loading import TrainingImages, all_images
from isoflop.data.normalization import normalize
from isoflop.models.architecture import Architecture
from isoflop.models.families import build
from isoflop.training.batches import TrainingBatches
from isoflop.training.cpu import processor
from isoflop.training.fitting import fit
from isoflop.training.hardware import Hardware, lightning_precision, on_gpu
from isoflop.training.losses import supervised_loss
from isoflop.training.optimizers import learning_rate_factor, make_optimizer
from isoflop.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
EPOCHS = 2


def noise(folder: Path, count: int) -> Split:
    """Write a split of 32x32 color images of noise."""
    rng = np.random.default_rng(0)
    with SplitWriter(folder, (32, 32, 3)) as writer:
        writer.append(rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 10, count))
        writer.finish(InputSpec([str(label) for label in range(10)], [0.5] * 3, [0.25] * 3, "crop"))
    return read_split(folder)


def bare(net: torch.nn.Module, width: int, images: TrainingImages, recipe: Recipe, device: torch.device) -> float:
    """Train for ``EPOCHS`` epochs; return the seconds in training steps."""
    bf16 = lightning_precision(recipe.precision, device.type) == "bf16-mixed"
    net = net.to(device).train()
    batches = TrainingBatches(images, recipe, 0, device=device)
    optimizer = make_optimizer(net, recipe, width)
    rates = [group["lr"] for group in optimizer.param_groups]
    input_spec, step, seconds = images.split.input_spec, 0, 0.0
    for epoch in range(EPOCHS):
        batches.epoch = epoch
        start = time.perf_counter()
        for batch in batches:
            factor = learning_rate_factor(recipe, step / (EPOCHS * batches.steps))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * factor
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits_BK = net(normalize(batch.images, input_spec)).float()
            loss = (supervised_loss(logits_BK, batch.labels, recipe) * batch.weights).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
        loss.item()  # waits for the device
        seconds += time.perf_counter() - start
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("width", 32), ("images", 5000), ("batch", 500), ("turns", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--accelerator", default="auto", choices=("auto", "cpu", "gpu"))
    options = parser.parse_args()
    on = Hardware(options.accelerator)
    device = torch.device("cuda" if on_gpu(on) else "cpu")
    section = yaml.safe_load((ROOT / "presets" / "cifar10.yaml").read_text())["recipe"]
    same = {"epochs": EPOCHS, "batch_size": options.batch, "progressive_resizing": [1.0], "infobatch": 0.0}
    recipe = Recipe.model_validate(section | same)
    built = Architecture("resnet", options.width, 1, 4, 4, 0.0, 32, 3, 10)
    torch.use_deterministic_algorithms(True)  # as Lightning does
    times: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        split, val = noise(Path(folder) / "train", options.images), noise(Path(folder) / "val", 100)
        images = all_images(split, np.zeros((0, *split.images.shape), np.uint8))
        for turn in range(options.turns + 1):
            alone = bare(build(built), options.width, images, recipe, device)
            fitted = fit(build(built), images, val, recipe, width=options.width, seed=0, on=on, progress=False)
            if turn:  # the first turn is a warm-up
                times.append((alone, fitted.seconds))
    ratios = [lightning / alone for alone, lightning in times]
    print(f"{'':12} seconds per epoch, median of {len(times)}")
    for name, column in zip(("bare loop", "fit"), zip(*times, strict=True), strict=True):
        print(f"{name:12} {statistics.median(column) / EPOCHS:.4f}")
    print(f"fit / bare loop: {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor()[0]
    print(f"resnet width {options.width}, batch {options.batch}, {options.images} images; {name}, ", end="")
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, lightning {version('pytorch-lightning')}")


if __name__ == "__main__":
    main()
