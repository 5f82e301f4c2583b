"""A network in training, as Lightning takes it: loss, optimizer, schedule, averaging, validation."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import swa_utils

from isoflop.data.arrays import Split
from isoflop.data.loading import evaluation_batches
from isoflop.data.normalization import normalize
from isoflop.runtime.errors import UserError
from isoflop.runtime.experiment_loggers import ExperimentLog
from isoflop.runtime.progress import Task
from isoflop.training.batches import Batch
from isoflop.training.curve_files import Curves
from isoflop.training.lightning_data import Losses
from isoflop.training.losses import (
    Teacher,
    distillation_loss,
    logits_and_features,
    similarity_loss,
    supervised_loss,
)
from isoflop.training.optimizers import learning_rate_factor, make_optimizer
from isoflop.training.privacy import Mechanism, private_optimizer
from isoflop.training.recipe import Recipe

_SEES_ALL_FROM = 0.85  # of the training: from here on recipe.infobatch skips nothing (Qin et al. 2024: 0.875)

Row = dict[str, float]  # what an epoch measured, by name


class DivergedError(UserError):
    """The loss is not finite."""


@dataclass(frozen=True)
class Plan:
    """How long to train, and when to look."""

    steps_an_epoch: int
    epochs: int
    seconds: float | None  # the schedule comes to its end within these, if that is before the last epoch
    validate_every: int  # epochs; after the last in any case
    patience: int | None  # epochs without a better validation NLL before stopping
    images: int | None = None  # the schedule comes to its end with so many, if that is before the last epoch


class Training(pl.LightningModule):
    """A network in training: loss, optimizer, schedule, averaging, validation."""

    def __init__(
        self,
        net: nn.Module,
        width: int,
        images: int,
        val: Split,
        recipe: Recipe,
        plan: Plan,
        teacher: Teacher | None,
        private: Mechanism | None = None,
    ) -> None:
        super().__init__()
        self.net = net
        self.average = _moving_average(net, recipe.ema_decay) if recipe.ema_decay else None
        self.history: list[Row] = []
        self.best: dict[str, Any] | None = None  # nll and weights of the best epoch
        self.task: Task | None = None  # that shows how far it is
        self.images_an_epoch = images
        self.told: list[Curves | ExperimentLog] = []  # the rows of history as they come
        self.seconds, self.timed_images = 0.0, 0
        self._width, self._val, self._recipe, self.plan = width, val, recipe, plan
        self._private = private
        self._teacher = [teacher] if teacher else []  # in a list: its weights are not this module's
        self._earlier, self._start, self._epoch_start = 0.0, 0.0, 0.0  # seconds; of before a resume, and clock readings
        self._sums = torch.zeros(2)  # of this epoch: loss, batches
        remembered = images if recipe.infobatch else 0
        self._last = torch.zeros(remembered, 2)  # of this epoch: the last loss of each image, and whether it was seen
        self._losses = np.zeros(remembered, np.float32)  # the last loss of each image

    @property
    def trained(self) -> nn.Module:
        """The network to keep: the averaged one where there is one."""
        return self.average.module if self.average else self.net

    def on_train_start(self) -> None:
        self._start = time.monotonic()
        if self.task:
            self.task.begin(self._images(self.global_step))

    def on_train_epoch_start(self) -> None:
        self._sums = torch.zeros(2, device=self.device)
        self._last = torch.zeros(self._last.shape, device=self.device)
        self._epoch_start = time.monotonic()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        images_BCHW = normalize(batch.images, self._val.input_spec)
        loss_B = self._losses_of(images_BCHW, batch.labels)
        loss = (loss_B * batch.weights).mean() if not self._private else loss_B.sum()
        if self._recipe.infobatch:
            self._last.index_put_((batch.numbers,), torch.stack([loss_B.detach(), torch.ones_like(loss_B)], 1))
        # on the device: logging never waits for a step
        self._sums[0] += loss.detach() if not self._private else loss.detach() / max(1, len(loss_B))
        self._sums[1] += 1
        self.timed_images += len(batch.labels)
        return loss

    def _losses_of(self, images_BCHW: Tensor, labels_B: Tensor) -> Tensor:
        resized_BCHW = self._resized(images_BCHW)
        if not self._teacher:
            return supervised_loss(self.net(resized_BCHW).float(), labels_B, self._recipe)
        (teacher,) = self._teacher
        logits_BK, features_BF = logits_and_features(self.net, resized_BCHW)
        with torch.no_grad():  # at whole size: what it has come to know is about such images
            wanted_BK, teacher_BG = logits_and_features(teacher.net, images_BCHW)
        imitation_B = distillation_loss(logits_BK, wanted_BK, teacher.temperature)
        supervised_B = supervised_loss(logits_BK, labels_B, self._recipe)
        loss_B = teacher.alpha * imitation_B + (1 - teacher.alpha) * supervised_B
        return loss_B + teacher.features * similarity_loss(features_BF, teacher_BG) if teacher.features else loss_B

    def try_batch(self, size: int) -> None:
        """Forward and backward of ``size`` images, as a step takes them."""
        shape = self._val.images.shape[1:]
        images_BCHW = normalize(torch.zeros(size, *shape, dtype=torch.uint8, device=self.device), self._val.input_spec)
        with self.trainer.precision_plugin.forward_context():
            self.net.train()(images_BCHW).float().sum().backward()
        self.zero_grad(set_to_none=True)

    def _resized(self, images_BCHW: Tensor) -> Tensor:
        """Smaller in the first part of the training: it costs less there, and little is lost (Howard 2018)."""
        scales = self._recipe.progressive_resizing
        scale = scales[min(len(scales) - 1, int(len(scales) * self._progress(self.global_step)))]
        side = max(1, round(scale * images_BCHW.shape[-1]))
        if side == images_BCHW.shape[-1]:
            return images_BCHW
        return functional.interpolate(images_BCHW, (side, side), mode="bilinear", antialias=True)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        if self.average:
            self.average.update_parameters(self.net)

    def on_train_batch_end(self, *_: Any) -> None:
        share = self._progress(self.global_step)
        if share >= 1:
            self.trainer.should_stop = True
        if self.task and share > 0:  # 0 before the first step of several parts
            self.task.update(self._images(self.global_step), self._images(self.global_step / share))

    def _images(self, steps: float) -> int:
        """How many images so many steps see."""
        return round(self.images_an_epoch * steps / self.plan.steps_an_epoch)

    def on_train_epoch_end(self) -> None:
        loss, batches = (float(value) for value in self.trainer.strategy.reduce(self._sums, reduce_op="sum"))
        self.seconds += time.monotonic() - self._epoch_start
        if self._recipe.infobatch:
            sum_N, seen_N = self.trainer.strategy.reduce(self._last, reduce_op="sum").cpu().numpy().T
            self._losses = np.where(seen_N > 0, sum_N / np.maximum(seen_N, 1), self._losses).astype(np.float32)
        row: Row = {"train/loss": loss / batches}
        last = self.trainer.should_stop or self.current_epoch + 1 == self.plan.epochs
        if last or (self.current_epoch + 1) % self.plan.validate_every == 0:
            row |= self._validate()
        if not all(math.isfinite(value) for value in row.values()):
            raise DivergedError(
                f"params.yaml: recipe.learning_rate: the loss is not finite after epoch {self.current_epoch + 1} "
                f"with learning rate {self._recipe.learning_rate}; try a lower one, or recipe.gradient_clip 1.0"
            )
        self.history.append(row)
        self._stop_early()
        if self.trainer.is_global_zero:
            for rows in self.told:
                rows.write(self.history)

    @torch.no_grad()
    def _validate(self) -> Row:
        """In every process on all images, so that none needs to ask the others."""
        sums = torch.zeros(2, device=self.device)
        net = self.trained.eval()
        with self.trainer.precision_plugin.forward_context():
            for images_BHWC, labels_B in evaluation_batches(self._val, self.device):
                logits_BK = net(normalize(images_BHWC, self._val.input_spec)).float()
                nll = functional.cross_entropy(logits_BK, labels_B, reduction="sum")
                sums += torch.stack([nll, (logits_BK.argmax(1) == labels_B).sum()])
        net.train()
        sum_of_nll, correct = sums.tolist()
        return {"val/nll": sum_of_nll / len(self._val), "val/accuracy": correct / len(self._val)}

    def _stop_early(self) -> None:
        if self.best is None:
            return
        nll = self.history[-1].get("val/nll", math.inf)
        if nll < self.best["nll"]:
            weights = {name: value.detach().cpu().clone() for name, value in self.trained.state_dict().items()}
            self.best.update(nll=nll, weights=weights, epoch=len(self.history))
        if self.plan.patience and len(self.history) - self.best["epoch"] >= self.plan.patience:
            self.trainer.should_stop = True

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        elapsed = self._earlier + time.monotonic() - self._start
        kept = {
            "history": self.history,
            "best": self.best,
            "elapsed": elapsed,
            "losses": torch.from_numpy(self._losses),
        }
        checkpoint["isoflop"] = kept

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        kept = checkpoint["isoflop"]
        self.history, self.best, self._earlier = kept["history"], kept["best"], kept["elapsed"]
        self._losses = kept["losses"].numpy()

    def configure_optimizers(self) -> Any:
        bf16 = self.trainer.precision == "bf16-mixed"
        optimizer = make_optimizer(self.net, self._recipe, self._width, torch.bfloat16 if bf16 else torch.float32)
        if self._private:
            optimizer = private_optimizer(optimizer, self._private)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(self._recipe, self._progress(step))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def losses(self) -> Losses:
        """The last loss of each image; None as long as there is none, and in the last part, which sees all alike."""
        early = self.global_step > 0 and self._progress(self.global_step) < _SEES_ALL_FROM
        return self._losses if early else None

    def _progress(self, step: int) -> float:
        """The share of the training that is behind when ``step`` steps are, by steps, by images or by the clock."""
        share = step / (self.plan.epochs * self.plan.steps_an_epoch)
        if self.plan.images is not None:
            share = max(share, self.timed_images / self.plan.images)
        if self.plan.seconds is None or not self._start:
            return share
        return max(share, (self._earlier + time.monotonic() - self._start) / self.plan.seconds)


def _moving_average(net: nn.Module, decay: float) -> swa_utils.AveragedModel:
    averaging = swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return swa_utils.AveragedModel(net, multi_avg_fn=averaging, use_buffers=True)
