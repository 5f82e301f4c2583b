"""The scaling study at smaller image sizes: the runs of a width, repeated on resized images."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from isoflop.data.arrays import Images, TrainingData
from isoflop.models.architecture import ModelParams
from isoflop.runtime.files import write_json
from isoflop.training.recipe import Recipe
from isoflop.training.sweep import SweepRuns, sweep_width

_BATCH = 512  # images that are resized together


def add_image_sizes(
    model: ModelParams, recipe: Recipe, runs: SweepRuns, width: int, data: TrainingData, file: Path
) -> None:
    """Train the runs of a width at each of ``runs.image_sizes``, and add their tables to that of ``sweep_width``.

    Budgets of FLOPs are for the prepared size alone. Each table is like the one in ``file``, with its ``image_size``;
    they are listed under ``smaller``.

    Raises:
        UserError: a network does not suit a size.
    """
    tables = []
    alike = runs.model_copy(update={"budgets": [], "image_sizes": []})
    for size in sorted(runs.image_sizes, reverse=True):
        with tempfile.TemporaryDirectory(prefix="isoflop-") as scratch:
            part, network = Path(scratch) / "runs.json", Path(scratch) / "network"  # ships at the prepared size
            sweep_width(model, recipe, alike, width, resized(data, size), file=part, network=network)
            tables.append({"image_size": size, **json.loads(part.read_text())})
    whole = json.loads(file.read_text())
    write_json(file, {"image_size": data.train.image_size, **whole, "smaller": tables})


def resized(data: TrainingData, side: int) -> TrainingData:
    """Return the images, views and validation images with ``side`` pixels a side, in memory."""
    train, val = (replace(split, images=_resized(split.images, side)) for split in (data.train, data.val))
    return TrainingData(train, _resized(data.views, side), val)


def _resized(images: Images, side: int) -> Images:
    """Resize images uint8 [..., H, W, C] bilinearly with antialiasing, as progressive resizing does."""
    import torch
    from torch.nn import functional

    flat_NHWC = images.reshape(-1, *images.shape[-3:])
    small_NHWC = np.zeros((len(flat_NHWC), side, side, images.shape[-1]), np.uint8)
    for start in range(0, len(flat_NHWC), _BATCH):
        batch_NCHW = torch.from_numpy(np.array(flat_NHWC[start : start + _BATCH])).permute(0, 3, 1, 2).float()
        shrunk_NCHW = functional.interpolate(batch_NCHW, (side, side), mode="bilinear", antialias=True)
        small_NHWC[start : start + _BATCH] = shrunk_NCHW.round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return small_NHWC.reshape(*images.shape[:-3], side, side, images.shape[-1])
