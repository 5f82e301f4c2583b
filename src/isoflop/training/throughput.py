"""How fast a training was, against what the device can do, and what ran it: a leaf, as no two runs measure the same."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version

import torch

from isoflop.training.cpu import processor
from isoflop.training.fitting import Fitted
from isoflop.training.hardware import Hardware, lightning_precision, on_gpu
from isoflop.training.recipe import Recipe

_SIDES = {"cuda": 8192, "cpu": 2048}  # of the matrices
_SECONDS = 0.5
_PACKAGES = ("torch", "pytorch-lightning", "numpy", "albumentations", "isoflop")


def throughput(
    fitted: Fitted, flops_per_image: int, recipe: Recipe, on: Hardware
) -> dict[str, float | int | str | dict[str, str]]:
    """Images and FLOPs a second while stepping, and their share of the peak that a matrix product reaches here.

    Args:
        flops_per_image: of forward and backward (2 a multiply-accumulate). Optimizer, norms and augmentation do not
            count as FLOPs, and their time does count.
    """
    kind = "cuda" if on_gpu(on) else "cpu"
    dtype = torch.bfloat16 if lightning_precision(recipe.precision, kind) == "bf16-mixed" else torch.float32
    images_per_s = fitted.timed_images / max(fitted.seconds, 1e-9)  # taken up after its last epoch: no time at all
    achieved, peak = images_per_s * flops_per_image, peak_flops_per_s(kind, dtype)
    return {
        "seconds": round(fitted.seconds, 3),
        "images_per_s": round(images_per_s, 1),
        "flops_per_s": round(achieved),
        "peak_flops_per_s": round(peak),
        "share_of_peak": round(achieved / peak, 4),
        "device": torch.cuda.get_device_name() if kind == "cuda" else processor()[0],
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
    }


def peak_flops_per_s(kind: str, dtype: torch.dtype) -> float:
    """The best of some products of square matrices, in FLOP/s."""
    side = _SIDES[kind]
    left = torch.randn(side, side, device=kind, dtype=dtype)
    best, begin = 0.0, time.monotonic()
    while time.monotonic() - begin < _SECONDS or not best:
        start = time.perf_counter()
        product = left @ left
        product[0, 0].item()  # waits for the device
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best
