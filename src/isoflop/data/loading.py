"""The images that a network learns from, and batches of those that it is measured on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from isoflop.data.arrays import Images, Split
from isoflop.runtime.errors import UserError

_EVAL_BATCH = 512


@dataclass(frozen=True)
class TrainingImages:
    """The images to learn from: those numbered ``indices`` of a split, each as itself or one of its K views."""

    split: Split
    views: Images  # K, N, H, W, C
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)


def all_images(split: Split, views: Images) -> TrainingImages:
    """Every image of the split.

    Raises:
        UserError: the views are of other images, or a class has none.
    """
    if views.shape[1:] != split.images.shape:
        raise UserError(
            f"data/augmented: found views of images {list(views.shape[1:])}, expected {list(split.images.shape)}; "
            "`dvc repro` makes them anew"
        )
    missing = sorted(set(range(split.num_classes)) - set(np.unique(split.labels).tolist()))
    if missing:
        names = ", ".join(repr(split.input_spec.classes[label]) for label in missing)
        raise UserError(
            f"data/prepared/train: found no image of class {names}, expected some of each; a larger class or a smaller "
            "prepare.val_fraction and prepare.test_fraction give it some"
        )
    return TrainingImages(split, views, np.arange(len(split)))


def subset(images: TrainingImages, fraction: float, seed: int) -> TrainingImages:
    """``fraction`` of each class, at least one image; a smaller fraction with the same seed is contained in it."""
    kept = []
    labels = images.split.labels[images.indices]
    for label in range(images.split.num_classes):
        members = images.indices[labels == label]
        order = np.random.default_rng([seed, label]).permutation(len(members))
        kept.append(members[order[: max(1, round(fraction * len(members)))]])
    return TrainingImages(images.split, images.views, np.sort(np.concatenate(kept)))


def evaluation_batches(split: Split, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """All images of ``split`` in order, uint8 [B, H, W, C], and their labels int64 [B]."""
    for start in range(0, len(split), _EVAL_BATCH):
        images_BHWC = torch.from_numpy(np.array(split.images[start : start + _EVAL_BATCH]))
        labels_B = torch.from_numpy(split.labels[start : start + _EVAL_BATCH])
        yield images_BHWC.to(device), labels_B.to(device)
