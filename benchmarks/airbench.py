"""The recipe of airbench-94 with Muon (K. Jordan 2024) in a bare loop on any device, as a baseline for isoflop.

Network 64-256-256, batch 2,000, 8 epochs, whitened 2x2 stem, Muon on filters, SGD with Nesterov momentum on the rest,
alternating flip, shifts of up to 2 pixels, label smoothing 0.2, linear decay of the learning rate; bf16.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from isoflop.data.arrays import Split
from isoflop.data.normalization import normalize
from isoflop.models.initialization import whitening_filters
from isoflop.training.optimizers import orthogonalized

_WIDTHS, _BATCH, _EPOCHS, _SHIFT = (64, 256, 256), 2000, 8, 2
_MUON, _BIASES, _HEAD, _DECAY = 0.24, 0.053, 0.67, 2e-6 * _BATCH  # learning rates for summed losses; weight decay


@dataclass(frozen=True)
class Result:
    seconds: float  # of training
    accuracy: float
    accuracy_with_flips: float
    images_seen: int


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 2)
        self.stem.weight.requires_grad_(False)
        layers: list[nn.Module] = [nn.GELU()]
        before = 24
        for width in _WIDTHS:
            for into, pool in ((before, [nn.MaxPool2d(2)]), (width, [])):
                filters = nn.Conv2d(into, width, 3, padding="same", bias=False)
                nn.init.dirac_(filters.weight.data[:into])
                norm = nn.BatchNorm2d(width, eps=1e-12, momentum=0.4)
                norm.weight.requires_grad_(False)
                layers += [filters, *pool, norm, nn.GELU()]
            before = width
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(before, 10, bias=False)
        self.head.weight.data /= self.head.weight.data.std()

    def forward(self, images_BCHW: Tensor) -> Tensor:
        features_BC = self.features(self.stem(images_BCHW)).amax((2, 3))
        logits_BK: Tensor = self.head(features_BC) / features_BC.shape[1]
        return logits_BK


def moved(images_NCHW: Tensor, flips_B: Tensor) -> Tensor:
    """Mirror the images that ``flips_B`` selects, then shift each at random, with reflected edges."""
    count, _, side, _ = images_NCHW.shape
    padded = functional.pad(images_NCHW, (_SHIFT,) * 4, "reflect").permute(0, 2, 3, 1)
    device = images_NCHW.device
    starts = torch.randint(0, 2 * _SHIFT + 1, (2, count, 1), device=device)
    rows, columns = starts + torch.arange(side, device=device)
    columns = torch.where(flips_B[:, None], columns.flip(1), columns)
    picked = torch.arange(count, device=device)[:, None, None], rows[:, :, None], columns[:, None, :]
    return padded[picked].permute(0, 3, 1, 2)


def accuracies(net: nn.Module, split: Split, device: torch.device) -> tuple[float, float]:
    """Return the accuracy on the images, and that of the mean logits of each image and its mirror image."""
    plain = flipped = 0
    net.eval()
    for start in range(0, len(split), 1000):
        images = normalize(torch.from_numpy(np.array(split.images[start : start + 1000])).to(device), split.input_spec)
        labels = torch.from_numpy(split.labels[start : start + 1000]).to(device)
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16):
            one, other = net(images).float(), net(images.flip(3)).float()
        plain += int((one.argmax(1) == labels).sum())
        flipped += int(((one + other).argmax(1) == labels).sum())
    return plain / len(split), flipped / len(split)


def train(train: Split, test: Split, device: torch.device, seed: int, epochs: int = _EPOCHS) -> Result:
    """Train on ``train`` and evaluate on ``test``."""
    torch.manual_seed(seed)
    images = normalize(torch.from_numpy(np.array(train.images)).to(device), train.input_spec)
    labels = torch.from_numpy(train.labels).to(device)
    net = Net()
    net.stem.weight.data[:] = whitening_filters(images[:5000].cpu(), net.stem)
    net = net.to(device).train()
    filters = [weight for weight in net.parameters() if weight.ndim == 4 and weight.requires_grad]
    biases = [weight for name, weight in net.named_parameters() if name.startswith("features") and weight.ndim == 1]
    momenta = [torch.zeros_like(weight) for weight in filters]
    groups = [([net.stem.bias], _BIASES), ([one for one in biases if one.requires_grad], _BIASES),
              ([net.head.weight], _HEAD)]  # fmt: skip
    held = [{"params": weights, "lr": rate, "weight_decay": _DECAY / rate} for weights, rate in groups]
    optimizer = torch.optim.SGD(held, momentum=0.85, nesterov=True)
    mirrored = torch.rand(len(images), device=device) < 0.5
    steps = len(images) // _BATCH
    begin = time.perf_counter()
    order = torch.empty(0)
    for step in range(epochs * steps):
        epoch, position = divmod(step, steps)
        if position == 0:
            order = torch.randperm(len(images), device=device)
        mine = order[position * _BATCH : (position + 1) * _BATCH]
        progress = step / (epochs * steps)
        for index, (group, (_, rate)) in enumerate(zip(optimizer.param_groups, groups, strict=True)):
            group["lr"] = rate * (max(0, 1 - 3 * progress) if index == 0 else 1 - progress)
        with torch.autocast(device.type, torch.bfloat16):
            batch = moved(images[mine], mirrored[mine] ^ bool(epoch % 2))
            logits = net(batch.contiguous(memory_format=torch.channels_last))
        loss = functional.cross_entropy(logits.float(), labels[mine], label_smoothing=0.2, reduction="sum")
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        with torch.no_grad():
            for weight, momentum in zip(filters, momenta, strict=True):
                assert weight.grad is not None
                momentum.mul_(0.6).add_(weight.grad)
                ahead = weight.grad + 0.6 * momentum
                weight.mul_(math.sqrt(len(weight)) / weight.norm())
                update = orthogonalized(ahead.flatten(1), torch.bfloat16).view_as(weight)
                weight.add_(update, alpha=-_MUON * (1 - progress))
        net.zero_grad(set_to_none=True)
    loss.item()  # waits for the device
    seconds = time.perf_counter() - begin
    return Result(seconds, *accuracies(net, test, device), epochs * steps * _BATCH)
