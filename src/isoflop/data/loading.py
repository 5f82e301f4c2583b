"""Training images (with their augmented views) and evaluation batches, from prepared splits."""

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
    """The images at ``indices`` of a split; a training uses each one itself or one of its K augmented views."""

    split: Split
    views: Images  # uint8 [K, N, H, W, C]
    indices: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.indices)


def all_images(split: Split, views: Images) -> TrainingImages:
    """Return every image of the split.

    Raises:
        UserError: the views do not belong to these images, or a class has no image.
    """
    if views.shape[1:] != split.images.shape:
        raise UserError(
            f"data/augmented: got views of images {list(views.shape[1:])}, expected {list(split.images.shape)}; "
            "fix: `dvc repro` creates them again"
        )
    missing = sorted(set(range(split.num_classes)) - set(np.unique(split.labels).tolist()))
    if missing:
        names = ", ".join(repr(split.input_spec.classes[label]) for label in missing)
        raise UserError(
            f"data/prepared/train: got no images of class {names}, expected at least one of each class; "
            "fix: add images to the class, or lower prepare.val_fraction and prepare.test_fraction"
        )
    return TrainingImages(split, views, np.arange(len(split)))


def subset(images: TrainingImages, fraction: float, seed: int) -> TrainingImages:
    """Draw ``fraction`` of each class, at least one image. With the same seed, smaller fractions are subsets of it."""
    kept = []
    labels = images.split.labels[images.indices]
    for label in range(images.split.num_classes):
        members = images.indices[labels == label]
        order = np.random.default_rng([seed, label]).permutation(len(members))
        kept.append(members[order[: max(1, round(fraction * len(members)))]])
    return TrainingImages(images.split, images.views, np.sort(np.concatenate(kept)))


def evaluation_batches(split: Split, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield all images of ``split`` in order, uint8 [B, H, W, C], and their labels int64 [B]."""
    for start in range(0, len(split), _EVAL_BATCH):
        images_BHWC = torch.from_numpy(np.array(split.images[start : start + _EVAL_BATCH]))
        labels_B = torch.from_numpy(split.labels[start : start + _EVAL_BATCH])
        yield images_BHWC.to(device), labels_B.to(device)
