"""Accuracy on CIFAR-10 within a time limit, of several training recipes on the same machine and images.

``python -m benchmarks.cifar10 [--data data/prepared] [--minutes 2 5 10] [--seeds 0] [--only NAME ...]`` trains

- ``isoflop``: ``fit`` with presets/cifar10.yaml at ``--width``, changed by ``--set``; its schedule ends at the time
  limit;
- ``resnet18``: ResNet-18 (He et al. 2016, with the 3x3 stem for small images) in plain Lightning: SGD with Nesterov
  momentum, a one-cycle schedule up to 0.1 that ends at the time limit, batch 128, random flips and shifts;
- ``article``: a small CNN with Adam 0.001, batch 32, at most 10 epochs, without augmentation. Its learning rate is
  constant, so one training, evaluated at each time limit, serves all of them;
- ``airbench``: the recipe of airbench-94 (``benchmarks.airbench``), which has a fixed length;

and prints a line of JSON for each: time limit in minutes, seconds taken, test accuracy, images seen. The time runs
from the first step to the end of the last; it excludes loading the data and the final evaluation. Precision is bf16 if
the hardware computes in it, and always for airbench.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from benchmarks import airbench
from isoflop.data.arrays import Split, read_split
from isoflop.data.loading import all_images
from isoflop.data.normalization import normalize
from isoflop.evaluation.scores import accuracy, predict_logits
from isoflop.models.architecture import ModelParams, architecture
from isoflop.models.initialization import initialized
from isoflop.training.cpu import computes_in_bf16, processor
from isoflop.training.fitting import fit
from isoflop.training.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]


class Images(Dataset[tuple[Tensor, int]]):
    """Normalized images; if ``moved``, mirrored with probability 0.5 and shifted by up to 4 pixels."""

    def __init__(self, split: Split, moved: bool) -> None:
        self._images = normalize(torch.from_numpy(np.array(split.images)), split.input_spec)
        self._labels, self._moved = split.labels, moved

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image = self._images[index]
        if self._moved:
            down, right = torch.randint(0, 9, (2,)).tolist()
            image = functional.pad(image, (4, 4, 4, 4))[:, down : down + 32, right : right + 32]
            image = image.flip(2) if torch.rand(()) < 0.5 else image
        return image, int(self._labels[index])


def unit(before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(),
        nn.Conv2d(after, after, 3, 1, 1, bias=False), nn.BatchNorm2d(after),
    )  # fmt: skip


class Residual(nn.Module):
    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.body = unit(before, after, stride)
        same = stride == 1 and before == after
        across = nn.Sequential(nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after))
        self.shortcut = nn.Identity() if same else across

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU()]
    before = 64
    for after, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Residual(before, after, stride), Residual(after, after, 1)]
        before = after
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 10))


def article_cnn() -> nn.Module:
    layers: list[nn.Module] = []
    before = 3
    for after in (32, 64, 128):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        before = after
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128 * 16, 128), nn.ReLU(), nn.Linear(128, 10))


class Plain(pl.LightningModule):
    """A network trained with cross-entropy as in a tutorial, up to the last of ``marks`` (seconds)."""

    def __init__(self, net: nn.Module, marks: list[float], one_cycle: bool) -> None:
        super().__init__()
        self.net, self._marks, self._one_cycle, self.images = net, sorted(marks), one_cycle, 0
        self.kept: list[dict[str, Any]] = []  # at each mark: the weights and the number of images seen

    def on_train_start(self) -> None:
        self.begin = time.perf_counter()

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        self.images += len(batch[1])
        return functional.cross_entropy(self.net(batch[0]), batch[1])

    def on_train_batch_end(self, *_: Any) -> None:
        elapsed = time.perf_counter() - self.begin
        share = elapsed / self._marks[-1]
        if elapsed >= self._marks[len(self.kept)]:
            self.keep(elapsed)
        self.trainer.should_stop = len(self.kept) == len(self._marks)
        if self._one_cycle:  # Smith and Topin 2018: up for 30 % of the time, then down
            for group in self.trainer.optimizers[0].param_groups:
                group["lr"] = 0.1 * max(1e-4, share / 0.3 if share < 0.3 else (1 - share) / 0.7)

    def keep(self, elapsed: float) -> None:
        weights = {name: value.detach().clone() for name, value in self.net.state_dict().items()}
        self.kept.append({"seconds": elapsed, "weights": weights, "images_seen": self.images})

    def configure_optimizers(self) -> torch.optim.Optimizer:
        if not self._one_cycle:
            return torch.optim.Adam(self.parameters(), lr=0.001)
        return torch.optim.SGD(self.parameters(), lr=1e-4, momentum=0.9, weight_decay=5e-4, nesterov=True)


def plain(name: str, train: Split, test: Split, minutes: list[float], seed: int) -> list[dict[str, Any]]:
    """Return the results of one training at each of ``minutes``, or at its end if that is earlier."""
    torch.manual_seed(seed)
    large = name == "resnet18"
    net = resnet18() if large else article_cnn()
    module = Plain(net, [60 * value for value in minutes], one_cycle=large)
    bf16 = torch.cuda.is_available() or computes_in_bf16()
    trainer = pl.Trainer(max_epochs=1000 if large else 10, precision="bf16-mixed" if bf16 else "32-true", logger=False,
                         enable_checkpointing=False, enable_model_summary=False, enable_progress_bar=False)  # fmt: skip
    trainer.fit(module, DataLoader(Images(train, moved=large), 128 if large else 32, shuffle=True))
    if len(module.kept) < len(minutes):
        module.keep(time.perf_counter() - module.begin)
    ended = []
    for mark in range(len(minutes)):
        kept = dict(module.kept[min(mark, len(module.kept) - 1)])
        net.load_state_dict(kept.pop("weights"))
        ended.append(kept | {"accuracy": test_accuracy(net.cpu().eval(), test)})
    return ended


def isoflop(
    width: int, changes: list[str], train: Split, val: Split, test: Split, minutes: float, seed: int
) -> dict[str, Any]:
    preset = OmegaConf.load(ROOT / "presets" / "cifar10.yaml")
    params: Any = OmegaConf.to_container(OmegaConf.merge(preset, OmegaConf.from_dotlist(changes)))
    recipe = Recipe.model_validate(params["recipe"] | {"epochs": 10_000, "max_minutes": minutes})
    images = all_images(train, np.zeros((0, *train.images.shape), np.uint8))
    built = architecture(ModelParams.model_validate(params["model"]), width, train)
    net = initialized(built, images, seed)
    begin = time.perf_counter()
    fitted = fit(net, images, val, recipe, width=width, seed=seed, validate_every=10_000, progress=False)
    return {
        "width": width,
        "set": changes,
        "seconds": time.perf_counter() - begin,
        "seconds_of_steps": fitted.seconds,
        "accuracy": test_accuracy(net, test),
        "images_seen": fitted.timed_images,
    }


def test_accuracy(net: nn.Module, test: Split) -> float:
    return accuracy(predict_logits(net, test), test.labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data/prepared"))
    parser.add_argument("--minutes", type=float, nargs="+", default=[2, 5, 10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="such as recipe.cutout=10")
    contenders = ("isoflop", "resnet18", "article", "airbench")
    parser.add_argument("--only", nargs="+", default=contenders, choices=contenders)
    parser.add_argument("--split", default="test", choices=("test", "val"), help="use val to choose between settings")
    options = parser.parse_args()
    train, val = (read_split(options.data / name) for name in ("train", "val"))
    test = read_split(options.data / options.split)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    name = torch.cuda.get_device_name() if device.type == "cuda" else processor()[0]
    versions = {"torch": torch.__version__, "lightning": version("pytorch-lightning")}
    print(json.dumps({"device": name, "threads": torch.get_num_threads(), "measured_on": options.split, **versions}))
    for seed in options.seeds:
        for contender in options.only:
            # one training serves all time limits if its schedule does not depend on them
            for group in [options.minutes] if contender in ("article", "airbench") else [[m] for m in options.minutes]:
                if contender == "isoflop":
                    ended = [isoflop(options.width, options.set, train, val, test, group[0], seed)]
                elif contender == "airbench":
                    ended = [asdict(airbench.train(train, test, device, seed))]
                else:
                    ended = plain(contender, train, test, sorted(group), seed)
                for minutes, facts in zip(sorted(group), ended, strict=False):
                    print(json.dumps({"contender": contender, "minutes": minutes, "seed": seed} | facts), flush=True)


if __name__ == "__main__":
    main()
