"""Training on a GPU: CIFAR-10 after a warm-up, and one epoch of every preset. Not yet run on a GPU.

``python -m benchmarks.gpu [--data data/prepared] [--width 64] [--epochs 10] [--seeds 0 1 2] [--compile]`` trains
presets/cifar10.yaml once as a warm-up (kernels, memory, compilation) and then once per seed, and prints the seconds in
training steps and the test accuracy. The goals on an H200 are 94 % within 5 s and 96 % within 30 s. Then it trains
every preset for an epoch on noise of the preset's image size. ``python -m benchmarks.training_loop --accelerator gpu``
measures the overhead of Lightning there. ``--accelerator cpu`` is for testing this script.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import OmegaConf

from isoflop.data.arrays import InputSpec, Split, SplitWriter, read_split
from isoflop.data.loading import all_images
from isoflop.evaluation.scores import accuracy, predict_logits
from isoflop.models.architecture import ModelParams, architecture
from isoflop.models.initialization import initialized
from isoflop.training.cpu import processor
from isoflop.training.fitting import Fitted, fit
from isoflop.training.hardware import Hardware, on_gpu
from isoflop.training.recipe import Recipe

PRESETS = Path(__file__).resolve().parents[1] / "presets"


def trained(
    preset: str, width: int | None, epochs: int, train: Split, val: Split, seed: int, on: Hardware
) -> tuple[torch.nn.Module, Fitted]:
    """Train a network for ``epochs`` epochs with a preset's recipe, at the preset's width if ``width`` is None."""
    params: Any = OmegaConf.to_container(OmegaConf.load(PRESETS / f"{preset}.yaml"))
    recipe = Recipe.model_validate(params["recipe"] | {"epochs": epochs, "max_minutes": None})
    recipe = recipe.model_copy(update={"batch_size": min(recipe.batch_size, len(train))})
    width = width or int(params["train"]["width"])
    images = all_images(train, np.zeros((0, *train.images.shape), np.uint8))
    built = architecture(ModelParams.model_validate(params["model"]), width, train)
    net = initialized(built, images, seed)
    fitted = fit(net, images, val, recipe, width=width, seed=seed, on=on, validate_every=epochs, progress=False)
    return net, fitted


def noise(folder: Path, preset: str, count: int = 2000) -> Split:
    """Write a split of noise, of the image size of the preset."""
    prepare: Any = OmegaConf.load(PRESETS / f"{preset}.yaml").prepare
    side, channels = int(prepare.image_size), int(prepare.channels)
    rng = np.random.default_rng(0)
    with SplitWriter(folder, (side, side, channels)) as writer:
        writer.append(rng.integers(0, 256, (count, side, side, channels), np.uint8), rng.integers(0, 10, count))
        writer.finish(InputSpec([str(label) for label in range(10)], [0.5] * channels, [0.25] * channels, "crop"))
    return read_split(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/prepared"))
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--compile", action="store_true", help="use torch.compile; the warm-up includes its time")
    parser.add_argument("--accelerator", default="gpu", choices=("gpu", "cpu"))
    options = parser.parse_args()
    on = Hardware(options.accelerator, compile=options.compile)
    name = torch.cuda.get_device_name() if on_gpu(on) else processor()[0]
    print(json.dumps({"device": name, "torch": torch.__version__, "lightning": version("pytorch-lightning")}))
    train, val, test = (read_split(options.data / part) for part in ("train", "val", "test"))
    trained("cifar10", options.width, options.epochs, train, val, options.seeds[0], on)  # warm-up
    for seed in options.seeds:
        net, fitted = trained("cifar10", options.width, options.epochs, train, val, seed, on)
        measured = accuracy(predict_logits(net, test), test.labels)
        facts = {"width": options.width, "epochs": options.epochs, "seed": seed, "seconds_of_steps": fitted.seconds}
        print(json.dumps(facts | {"images_seen": fitted.images_seen, "accuracy": measured}), flush=True)
    for preset in sorted(file.stem for file in PRESETS.glob("*.yaml")):
        with tempfile.TemporaryDirectory() as folder:
            split = noise(Path(folder) / "split", preset)
            _, fitted = trained(preset, None, 1, split, split, 0, on)
        rate = fitted.timed_images / fitted.seconds
        print(json.dumps({"preset": preset, "images_per_s": round(rate), "loss": fitted.train_loss}), flush=True)


if __name__ == "__main__":
    main()
