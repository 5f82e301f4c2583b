"""Throughput of a training, and its share of the device's peak. No stage depends on it: timings differ by run."""

from __future__ import annotations

import platform
import time
from importlib.metadata import version

import torch

from isoflop.training.cpu import processor
from isoflop.training.fitting import Fitted
from isoflop.training.hardware import Hardware, lightning_precision, on_gpu
from isoflop.training.recipe import Recipe

_SIDES = {"cuda": 8192, "cpu": 2048}  # of the matrices, by device
_SECONDS = 0.5
_PACKAGES = ("torch", "pytorch-lightning", "numpy", "albumentations", "isoflop")


def throughput(fitted: Fitted, recipe: Recipe, on: Hardware) -> dict[str, float | int | str | dict[str, str]]:
    """Return images and FLOPs per second of training steps, and their share of the device's peak.

    The peak is that of a matrix product, measured here. FLOPs are those of forward and backward (2 per
    multiply-accumulate): optimizer, norms and augmentation count as time and not as FLOPs.
    """
    kind = "cuda" if on_gpu(on) else "cpu"
    dtype = torch.bfloat16 if lightning_precision(recipe.precision, kind) == "bf16-mixed" else torch.float32
    images_per_s = fitted.timed_images / max(fitted.seconds, 1e-9)  # 0 s if resumed after the last epoch
    achieved, peak = images_per_s * fitted.flops_per_image, peak_flops_per_s(kind, dtype)
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
    """Return the FLOP/s of a product of square matrices, the best of those that fit into half a second."""
    side = _SIDES[kind]
    left = torch.randn(side, side, device=kind, dtype=dtype)
    best, begin = 0.0, time.monotonic()
    while time.monotonic() - begin < _SECONDS or not best:
        start = time.perf_counter()
        product = left @ left
        product[0, 0].item()  # waits for the device
        best = max(best, 2 * side**3 / (time.perf_counter() - start))
    return best
