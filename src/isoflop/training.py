"""Training a network with Lightning: the module, and ``fit``, which every stage that trains calls."""

from __future__ import annotations

import logging
import math
import sys
import time
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, RichProgressBar
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import swa_utils

from isoflop.arrays import Split
from isoflop.curves import Curves
from isoflop.data_module import Data, Losses, training_batches
from isoflop.errors import UserError
from isoflop.hardware import Hardware, trainer_options
from isoflop.loading import Batch, TrainingImages, evaluation_batches
from isoflop.losses import Teacher, distillation_loss, supervised_loss
from isoflop.models.mlp import Mlp
from isoflop.models.vit import Vit
from isoflop.normalization import normalize
from isoflop.optimizers import learning_rate_factor, make_optimizer
from isoflop.recipe import Recipe


class DivergedError(UserError):
    """The loss is not finite."""


_SEES_ALL_FROM = 0.85  # of the training: from here on recipe.skip_easy skips nothing (Qin et al. 2024: 0.875)

Row = dict[str, float]  # what an epoch measured, by name


@dataclass(frozen=True)
class Fitted:
    """How a training ended; its network, in evaluation mode on the CPU, is the one that was handed to ``fit``."""

    history: list[Row] = field(repr=False)
    epochs: int
    steps: int
    images_seen: int
    train_loss: float
    val_nll: float
    val_accuracy: float
    seconds: float  # in steps, of this process: without validation, and without what came before a resume
    timed_images: int  # seen in these seconds


@dataclass(frozen=True)
class Plan:
    """How long to train, and when to look."""

    steps_an_epoch: int
    epochs: int
    seconds: float | None  # the schedule comes to its end within these, if that is before the last epoch
    patience: int | None  # epochs without a better validation NLL before stopping
    validate_each_epoch: bool


class Training(pl.LightningModule):
    """A network in training: loss, optimizer, schedule, averaging, validation."""

    def __init__(
        self, net: nn.Module, width: int, images: int, val: Split, recipe: Recipe, plan: Plan, teacher: Teacher | None
    ) -> None:
        super().__init__()
        self.net = net
        self.average = _moving_average(net, recipe.ema_decay) if recipe.ema_decay else None
        self.history: list[Row] = []
        self.best: dict[str, Any] | None = None  # nll and weights of the best epoch
        self.curves: Curves | None = None
        self.seconds, self.timed_images = 0.0, 0
        self._width, self._val, self._recipe, self.plan = width, val, recipe, plan
        self._teacher = [teacher] if teacher else []  # in a list: its weights are not this module's
        self._earlier, self._start, self._epoch_start = 0.0, 0.0, 0.0  # seconds; of before a resume, and clock readings
        self._sums = torch.zeros(2)  # of this epoch: loss, batches
        self._last = torch.zeros(images, 2)  # of this epoch: the last loss of each image, and whether it was seen
        self._losses = np.zeros(images, np.float32)  # the last loss of each image

    @property
    def trained(self) -> nn.Module:
        """The network to keep: the averaged one where there is one."""
        return self.average.module if self.average else self.net

    def on_train_start(self) -> None:
        self._start = time.monotonic()

    def on_train_epoch_start(self) -> None:
        self._sums = torch.zeros(2, device=self.device)
        self._last = torch.zeros(self._last.shape, device=self.device)
        self._epoch_start = time.monotonic()

    def training_step(self, batch: Batch, _: int) -> Tensor:
        images_BCHW = self._resized(normalize(batch.images, self._val.meaning))
        logits_BK = self.net(images_BCHW).float()
        loss_B = supervised_loss(logits_BK, batch.labels, self._recipe)
        for teacher in self._teacher:
            with torch.no_grad():
                wanted_BK = teacher.net(images_BCHW).float()
            imitation_B = distillation_loss(logits_BK, wanted_BK, teacher.temperature)
            loss_B = teacher.alpha * imitation_B + (1 - teacher.alpha) * loss_B
        loss = (loss_B * batch.weights).mean()
        if self._recipe.skip_easy:
            self._last.index_put_((batch.numbers,), torch.stack([loss_B.detach(), torch.ones_like(loss_B)], 1))
        self._sums[0] += loss.detach()  # on the device: logging never waits for a step
        self._sums[1] += 1
        self.timed_images += len(batch.labels)
        return loss

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
        if self._progress(self.global_step) >= 1:
            self.trainer.should_stop = True

    def on_train_epoch_end(self) -> None:
        loss, batches = (float(value) for value in self.trainer.strategy.reduce(self._sums, reduce_op="sum"))
        self.seconds += time.monotonic() - self._epoch_start
        if self._recipe.skip_easy:
            sum_N, seen_N = self.trainer.strategy.reduce(self._last, reduce_op="sum").cpu().numpy().T
            self._losses = np.where(seen_N > 0, sum_N / np.maximum(seen_N, 1), self._losses).astype(np.float32)
        row: Row = {"train/loss": loss / batches}
        last = self.trainer.should_stop or self.current_epoch + 1 == self.plan.epochs
        if last or self.plan.validate_each_epoch:
            row |= self._validate()
        if not all(math.isfinite(value) for value in row.values()):
            raise DivergedError(
                f"params.yaml: recipe.learning_rate: the loss is not finite after epoch {self.current_epoch + 1} "
                f"with learning rate {self._recipe.learning_rate}; try a lower one, or recipe.gradient_clip 1.0"
            )
        self.history.append(row)
        self._stop_early()
        if self.curves and self.trainer.is_global_zero:
            self.curves.write(self.history)

    @torch.no_grad()
    def _validate(self) -> Row:
        """In every process on all images, so that none needs to ask the others."""
        sums = torch.zeros(2, device=self.device)
        net = self.trained.eval()
        with self.trainer.precision_plugin.forward_context():
            for images_BHWC, labels_B in evaluation_batches(self._val, self.device):
                logits_BK = net(normalize(images_BHWC, self._val.meaning)).float()
                nll = functional.cross_entropy(logits_BK, labels_B, reduction="sum")
                sums += torch.stack([nll, (logits_BK.argmax(1) == labels_B).sum()])
        net.train()
        sum_of_nll, correct = sums.tolist()
        return {"val/nll": sum_of_nll / len(self._val), "val/accuracy": correct / len(self._val)}

    def _stop_early(self) -> None:
        if self.best is None:
            return
        nll = self.history[-1]["val/nll"]
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
        optimizer = make_optimizer(self.net, self._recipe, self._width)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: learning_rate_factor(self._recipe, self._progress(step))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def losses(self) -> Losses:
        """The last loss of each image; None as long as there is none, and in the last part, which sees all alike."""
        early = self.global_step > 0 and self._progress(self.global_step) < _SEES_ALL_FROM
        return self._losses if early else None

    def _progress(self, step: int) -> float:
        """The share of the training that is behind when ``step`` steps are, by steps or by the clock."""
        share = step / (self.plan.epochs * self.plan.steps_an_epoch)
        if self.plan.seconds is None or not self._start:
            return share
        return max(share, (self._earlier + time.monotonic() - self._start) / self.plan.seconds)


def fit(
    net: nn.Module,
    images: TrainingImages,
    val: Split,
    recipe: Recipe,
    *,
    width: int,
    seed: int,
    teacher: Teacher | None = None,
    on: Hardware | None = None,
    patience: int | None = None,
    validate_each_epoch: bool = True,
    curves: Path | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Fitted:
    """Train ``net`` in place; it ends on the CPU in evaluation mode.

    Args:
        width: of the network, as its architecture has it; learning rates scale with it.
        patience: stop after so many epochs without a better validation NLL, and keep the best epoch's weights.
        curves: folder that DVCLive writes, an epoch a row.
        checkpoint: folder for the checkpoint of a training that may be killed. If it holds one, the training goes on
            from there, and ends with the bytes of an undisturbed one. The caller removes the folder.
        progress: show a progress bar, if standard error is a terminal.

    Raises:
        DivergedError: the loss is not finite.
        UserError: the batch is larger than the data or smaller than its parts, there is no such hardware, or the
            network takes images of one size alone.
    """
    on = on or Hardware()
    _check_sizes(net, recipe)
    steps_an_epoch = training_batches(images, recipe, seed, device=torch.device("cpu")).steps
    seconds = 60 * recipe.max_minutes if recipe.max_minutes else None
    plan = Plan(steps_an_epoch, recipe.epochs, seconds, patience, validate_each_epoch)
    training = Training(net, width, len(images.split), val, recipe, plan, teacher)
    training.curves = Curves(curves) if curves else None
    training.best = {"nll": math.inf, "weights": None, "epoch": 0} if patience else None
    trainer = _trainer(recipe, on, checkpoint, progress)
    if teacher:
        teacher.net.eval().to(trainer.strategy.root_device)
    if on.compile:
        net.compile()
    torch.manual_seed(seed)
    _run(trainer, training, Data(images, recipe, seed, on.micro_batches, training.losses), checkpoint)
    return _fitted(training, len(images))


def _check_sizes(net: nn.Module, recipe: Recipe) -> None:
    if isinstance(net, Mlp | Vit) and min(recipe.progressive_resizing) < 1:
        raise UserError(
            f"params.yaml: recipe.progressive_resizing: found {recipe.progressive_resizing}, "
            "expected [1.0] with an mlp or vit, which take images of one size"
        )


def _run(trainer: pl.Trainer, training: Training, data: Data, checkpoint: Path | None) -> None:
    resume = checkpoint / "last.ckpt" if checkpoint and (checkpoint / "last.ckpt").exists() else None
    with warnings.catch_warnings():
        # Lightning's hints on data loaders, which ours are not, and its own use of what torch deprecates
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        trainer.fit(training, datamodule=data, ckpt_path=resume, weights_only=False)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if training.curves and trainer.is_global_zero:
        training.curves.write(training.history)  # also where the checkpoint was of the last epoch
        training.curves.end()


def _fitted(training: Training, images: int) -> Fitted:
    weights = training.best["weights"] if training.best else training.trained.state_dict()
    net = training.net
    net.cpu().load_state_dict({name: value.cpu() for name, value in weights.items()})
    net.eval()
    history, steps = training.history, training.global_step
    kept = min(history, key=lambda row: row["val/nll"]) if training.best else history[-1]
    return Fitted(
        history=history,
        epochs=len(history),
        steps=steps,
        images_seen=round(images * steps / training.plan.steps_an_epoch),
        train_loss=kept["train/loss"],
        val_nll=kept["val/nll"],
        val_accuracy=kept["val/accuracy"],
        seconds=training.seconds,
        timed_images=training.timed_images,
    )


def _moving_average(net: nn.Module, decay: float) -> swa_utils.AveragedModel:
    averaging = swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return swa_utils.AveragedModel(net, multi_avg_fn=averaging, use_buffers=True)


def _trainer(recipe: Recipe, on: Hardware, checkpoint: Path | None, progress: bool) -> pl.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    callbacks: list[Callback] = []
    progress = progress and sys.stderr.isatty()
    if progress:
        callbacks.append(RichProgressBar(leave=False))
    if checkpoint:
        callbacks.append(ModelCheckpoint(checkpoint, "last", every_n_epochs=1, enable_version_counter=False))
    return pl.Trainer(
        **trainer_options(on, recipe.precision),
        max_epochs=recipe.epochs,
        gradient_clip_val=recipe.gradient_clip or None,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=checkpoint is not None,
        enable_progress_bar=progress,
        enable_model_summary=False,
        use_distributed_sampler=False,
        deterministic=True,
    )
