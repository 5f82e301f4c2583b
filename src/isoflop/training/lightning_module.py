"""What Lightning trains: the network with its loss, optimizer and schedule (``Training``), on batches (``Data``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Timer
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import swa_utils

from isoflop.data.arrays import Split
from isoflop.data.loading import TrainingImages, evaluation_batches
from isoflop.data.normalization import normalize
from isoflop.runtime.errors import UserError
from isoflop.training.batches import Batch, Floats, TrainingBatches
from isoflop.training.losses import (
    ClassBalance,
    Teacher,
    distillation_loss,
    logits_and_features,
    similarity_loss,
    supervised_loss,
)
from isoflop.training.optimizers import learning_rate_factor, make_optimizer
from isoflop.training.privacy import Mechanism, private_optimizer
from isoflop.training.recipe import Recipe
from isoflop.training.transfer import Tuning, rate_factors, set_phase, tuned_optimizer


class DivergedError(UserError):
    """The loss is not finite."""


@dataclass(frozen=True)
class Plan:
    """Length of the training and interval between validations."""

    steps_an_epoch: int
    images_an_epoch: int
    epochs: int
    seconds: float | None  # the schedule ends after this time, if that is before the last epoch
    images: int | None  # the schedule ends after this number of images, if that is before the last epoch
    validate_every: int  # epochs; the last epoch is always validated


class Training(pl.LightningModule):
    """The network with its loss, optimizer, schedule, moving average and validation."""

    def __init__(
        self,
        net: nn.Module,
        width: int,
        val: Split,
        recipe: Recipe,
        plan: Plan,
        teacher: Teacher | None = None,
        private: Mechanism | None = None,
        classes: ClassBalance | None = None,
        tuning: Tuning | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.average = _moving_average(net, recipe.ema_decay) if recipe.ema_decay else None
        self.plan = plan
        self.clock = Timer()  # a callback; its reading is in the checkpoint, so the schedule continues after a resume
        self.images_seen = 0  # by this process; images from before a resume do not count
        self._width, self._val, self._recipe, self._private = width, val, recipe, private
        self._classes, self._tuning = classes, tuning
        self._teacher = [teacher] if teacher else []  # in a list, so that its weights are not parameters of this module
        self._loss_sum, self._batches = torch.zeros(()), 0  # of this epoch

    @property
    def trained(self) -> nn.Module:
        """The network to keep: the moving average if there is one."""
        return self.average.module if self.average else self.net

    def progress(self, step: int) -> float:
        """Fraction of the training completed after ``step`` steps: by steps, images or time, whichever is largest."""
        fraction = step / (self.plan.epochs * self.plan.steps_an_epoch)
        if self.plan.images is not None:
            fraction = max(fraction, self.images_seen / self.plan.images)
        if self.plan.seconds is not None:
            fraction = max(fraction, self.clock.time_elapsed() / self.plan.seconds)
        return fraction

    def on_train_epoch_start(self) -> None:
        self._loss_sum, self._batches = torch.zeros((), device=self.device), 0

    def training_step(self, batch: Batch, _: int) -> dict[str, Tensor]:
        if self._tuning:
            progress, alone = self.progress(self.global_step), self.trainer.world_size == 1
            set_phase(self.net, self._tuning, progress, is_alone=alone)
        loss_B = self._losses(normalize(batch.images, self._val.input_spec), batch.labels)
        loss = (loss_B * batch.weights).mean() if not self._private else loss_B.sum()
        # stays on the device: logging does not wait for the step
        self._loss_sum += loss.detach() if not self._private else loss.detach() / max(1, len(loss_B))
        self._batches += 1
        self.images_seen += len(batch.labels)
        return {"loss": loss, "image_losses": loss_B.detach()}

    def _losses(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        resized_BCHW = self._resized(images_BCHW)
        if not self._teacher:
            return supervised_loss(self.net(resized_BCHW).float(), labels_B, self._recipe, self._classes)
        (teacher,) = self._teacher
        logits_BK, features_BF = logits_and_features(self.net, resized_BCHW)
        with torch.no_grad():  # at full size: the size that the teacher was trained for
            wanted_BK, teacher_BG = logits_and_features(teacher.net, images_BCHW)
        imitation_B = distillation_loss(logits_BK, wanted_BK, teacher.temperature)
        supervised_B = supervised_loss(logits_BK, labels_B, self._recipe, self._classes)
        loss_B = teacher.alpha * imitation_B + (1 - teacher.alpha) * supervised_B
        return loss_B + teacher.features * similarity_loss(features_BF, teacher_BG) if teacher.features else loss_B

    def _resized(self, images_BCHW: Tensor) -> Tensor:
        """Progressive resizing (Howard 2018): smaller images early in the training, where they cost little accuracy."""
        scales = self._recipe.progressive_resizing
        scale = scales[min(len(scales) - 1, int(len(scales) * self.progress(self.global_step)))]
        side = max(1, round(scale * images_BCHW.shape[-1]))
        if side == images_BCHW.shape[-1]:
            return images_BCHW
        return functional.interpolate(images_BCHW, (side, side), mode="bilinear", antialias=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average:
            self.average.update_parameters(self.net)

    def on_train_batch_end(self, *_: Any) -> None:
        if self.progress(self.global_step) >= 1:
            self.trainer.should_stop = True

    def mean_loss(self) -> float:
        """Mean training loss of the epoch's batches, over all processes."""
        sums = torch.stack([self._loss_sum, torch.tensor(float(self._batches), device=self.device)])
        loss_sum, batches = (float(value) for value in self.trainer.strategy.reduce(sums, reduce_op="sum"))
        return loss_sum / batches

    @torch.no_grad()
    def validate(self) -> tuple[float, float]:
        """Mean NLL (nats) and accuracy on all validation images; every process computes both, so none waits."""
        sums = torch.zeros(2, device=self.device)
        net = self.trained.eval()
        with self.trainer.precision_plugin.forward_context():
            for images_BHWC, labels_B in evaluation_batches(self._val, self.device):
                logits_BK = net(normalize(images_BHWC, self._val.input_spec)).float()
                nll = functional.cross_entropy(logits_BK, labels_B, reduction="sum")
                sums += torch.stack([nll, (logits_BK.argmax(1) == labels_B).sum()])
        net.train()
        sum_of_nll, correct = sums.tolist()
        return sum_of_nll / len(self._val), correct / len(self._val)

    def try_batch(self, size: int) -> None:
        """Run forward and backward on a batch of ``size`` images, to see whether it fits into memory."""
        shape = self._val.images.shape[1:]
        images_BCHW = normalize(torch.zeros(size, *shape, dtype=torch.uint8, device=self.device), self._val.input_spec)
        with self.trainer.precision_plugin.forward_context():
            self.net.train()(images_BCHW).float().sum().backward()
        self.zero_grad(set_to_none=True)

    def configure_optimizers(self) -> Any:
        if self._tuning:
            tuned, heads = tuned_optimizer(self.net, self._recipe, self._tuning)
            factors = rate_factors(self._recipe, self._tuning, heads, self.progress)
            rates = torch.optim.lr_scheduler.LambdaLR(tuned, factors)
            return {"optimizer": tuned, "lr_scheduler": {"scheduler": rates, "interval": "step"}}
        bf16 = self.trainer.precision == "bf16-mixed"
        optimizer = make_optimizer(self.net, self._recipe, self._width, torch.bfloat16 if bf16 else torch.float32)
        if self._private:
            optimizer = private_optimizer(optimizer, self._private)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(self._recipe, self.progress(step))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def _moving_average(net: nn.Module, decay: float) -> swa_utils.AveragedModel:
    averaging = swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    average = swa_utils.AveragedModel(net, multi_avg_fn=averaging, use_buffers=True)
    return average.requires_grad_(False)  # DDP would expect gradients of them


class Data(pl.LightningDataModule):
    """Gives each process its part of the training batches, on its device."""

    def __init__(
        self,
        images: TrainingImages,
        recipe: Recipe,
        seed: int,
        accumulate_grad_batches: int,
        image_losses: Callable[[], Floats | None] | None,
        *,
        poisson: bool,
    ) -> None:
        super().__init__()
        self._images, self._recipe, self._seed, self._parts = images, recipe, seed, accumulate_grad_batches
        self._image_losses, self._poisson = image_losses, poisson

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
            accumulate_grad_batches=self._parts,
            poisson=self._poisson,
        )
        return Epochs(batches, trainer, self._seed, self._image_losses)


class Epochs:
    """The training batches as an iterable: each pass yields the trainer's current epoch."""

    def __init__(
        self,
        batches: TrainingBatches,
        trainer: pl.Trainer,
        seed: int,
        image_losses: Callable[[], Floats | None] | None,
    ) -> None:
        self._batches, self._trainer, self._seed, self._image_losses = batches, trainer, seed, image_losses

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        # from the steps: after a resume, Lightning asks for batches before it has raised current_epoch
        epoch = self._trainer.global_step // self._batches.steps
        self._batches.epoch = epoch
        self._batches.losses = self._image_losses() if self._image_losses else None
        # dropout draws from torch's global state: seeded by epoch, so that a resumed training repeats the draws
        torch.manual_seed((self._seed * 1_000_003 + epoch + 1) % 2**63)
        return iter(self._batches)
