"""The training batches as Lightning asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pytorch_lightning as pl
import torch

from isoflop.data.loading import TrainingImages
from isoflop.training.batches import Batch, TrainingBatches
from isoflop.training.recipe import Recipe

Losses = npt.NDArray[np.float32] | None  # the last loss of each image of the split


class Data(pl.LightningDataModule):
    """Hands each process its share of the batches, on its device."""

    def __init__(
        self,
        images: TrainingImages,
        recipe: Recipe,
        seed: int,
        accumulate_grad_batches: int,
        losses: Callable[[], Losses],
        *,
        poisson: bool,
    ) -> None:
        super().__init__()
        self._images, self._recipe, self._seed, self._micro_batches = images, recipe, seed, accumulate_grad_batches
        self._losses, self._poisson = losses, poisson

    def train_dataloader(self) -> Epochs:
        trainer = self.trainer
        assert trainer is not None
        batches = TrainingBatches(
            self._images,
            self._recipe,
            self._seed,
            device=trainer.strategy.root_device,
            rank=trainer.global_rank,
            world=trainer.world_size,
            accumulate_grad_batches=self._micro_batches,
            poisson=self._poisson,
        )
        return Epochs(batches, trainer, self._seed, self._losses)


class Epochs:
    """The training batches as Lightning iterates over them: each pass is the epoch that the trainer is at."""

    def __init__(self, batches: TrainingBatches, trainer: pl.Trainer, seed: int, losses: Callable[[], Losses]) -> None:
        self._batches, self._trainer, self._seed, self._losses = batches, trainer, seed, losses

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        # by steps: when a training is taken up again, Lightning asks before it has raised current_epoch
        epoch = self._trainer.global_step // self._batches.steps
        self._batches.epoch = epoch
        self._batches.losses = self._losses()
        # dropout draws from torch's global state: a function of the epoch, so that a resumed training repeats it
        torch.manual_seed((self._seed * 1_000_003 + epoch + 1) % 2**63)
        return iter(self._batches)
