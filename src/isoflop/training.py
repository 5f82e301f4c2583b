"""Training a network with Lightning: the module, and ``fit``, which every stage that trains calls."""

from __future__ import annotations

import logging
import math
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, EarlyStopping, ModelCheckpoint, RichProgressBar
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import swa_utils

from isoflop.arrays import Meaning, Split
from isoflop.cpu import computes_in_bf16
from isoflop.curves import Curves
from isoflop.errors import UserError
from isoflop.loading import Batch, TrainingBatches, TrainingImages, evaluation_batches
from isoflop.normalization import normalize
from isoflop.optimizers import learning_rate_factor, make_optimizer
from isoflop.recipe import Recipe


class DivergedError(UserError):
    """The loss is not finite."""


Row = dict[str, float]  # what an epoch measured, by name


@dataclass(frozen=True)
class Teacher:
    """A network to imitate (Hinton et al. 2015): weight ``alpha`` on its softened outputs, 1 - alpha on the labels."""

    net: nn.Module
    temperature: float
    alpha: float


@dataclass(frozen=True)
class Hardware:
    """Where to train, in Lightning's terms. The global batch and the learning rate do not depend on it."""

    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1


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


class Training(pl.LightningModule):
    """A network in training: loss, optimizer, schedule, averaging, validation."""

    def __init__(
        self, net: nn.Module, meaning: Meaning, recipe: Recipe, total_steps: int, teacher: Teacher | None = None
    ) -> None:
        super().__init__()
        self.net = net
        self.average = _moving_average(net, recipe.ema_decay) if recipe.ema_decay else None
        self.history: list[Row] = []
        self.best: dict[str, Any] | None = None  # nll and weights of the best epoch
        self.curves: Curves | None = None
        self._meaning, self._recipe, self._total_steps = meaning, recipe, total_steps
        self._teacher = [teacher] if teacher else []  # in a list: its weights are not this module's
        self._sums = torch.zeros(3)  # validation: NLL, correct, images

    @property
    def trained(self) -> nn.Module:
        """The network to keep: the averaged one where there is one."""
        return self.average.module if self.average else self.net

    def training_step(self, batch: Batch, _: int) -> Tensor:
        images_BHWC, labels_B = batch
        images_BCHW = normalize(images_BHWC, self._meaning)
        logits_BK = self.net(images_BCHW).float()
        loss = supervised_loss(logits_BK, labels_B, self._recipe)
        for teacher in self._teacher:
            with torch.no_grad():
                wanted_BK = teacher.net(images_BCHW).float()
            imitation = distillation_loss(logits_BK, wanted_BK, teacher.temperature)
            loss = teacher.alpha * imitation + (1 - teacher.alpha) * loss
        self.log("train/loss", loss, on_step=False, on_epoch=True, batch_size=len(labels_B), sync_dist=True)
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        if self.average:
            self.average.update_parameters(self.net)

    def on_validation_epoch_start(self) -> None:
        self._sums = torch.zeros(3, device=self.device)

    def validation_step(self, batch: Batch, _: int) -> None:
        images_BHWC, labels_B = batch
        logits_BK = self.trained(normalize(images_BHWC, self._meaning)).float()
        correct = (logits_BK.argmax(1) == labels_B).sum()
        nll = functional.cross_entropy(logits_BK, labels_B, reduction="sum")
        self._sums += torch.stack([nll, correct, torch.tensor(float(len(labels_B)), device=self.device)])

    def on_validation_epoch_end(self) -> None:
        nll, correct, images = (float(value) for value in self._sums)
        self.log_dict({"val/nll": nll / images, "val/accuracy": correct / images})
        if self.best is not None and nll / images < self.best["nll"]:
            weights = {name: value.detach().cpu().clone() for name, value in self.trained.state_dict().items()}
            self.best.update(nll=nll / images, weights=weights)

    def on_train_epoch_end(self) -> None:
        metrics = self.trainer.callback_metrics
        row: Row = {name: float(metrics[name]) for name in ("train/loss", "val/nll", "val/accuracy") if name in metrics}
        if not all(math.isfinite(value) for value in row.values()):
            raise DivergedError(
                f"params.yaml: recipe.learning_rate: the loss is not finite after epoch {self.current_epoch + 1} "
                f"with learning rate {self._recipe.learning_rate}; try a lower one, or recipe.gradient_clip 1.0"
            )
        self.history.append(row)
        if self.curves:
            self.curves.write(self.history)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["isoflop"] = {"history": self.history, "best": self.best}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history, self.best = checkpoint["isoflop"]["history"], checkpoint["isoflop"]["best"]

    def configure_optimizers(self) -> Any:
        optimizer = make_optimizer(self.net, self._recipe)
        factor = learning_rate_factor(self._recipe, self._total_steps)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class Data(pl.LightningDataModule):
    """Hands each process its share of the batches, on its device."""

    def __init__(self, images: TrainingImages, val: Split, recipe: Recipe, seed: int) -> None:
        super().__init__()
        self._images, self._val, self._recipe, self._seed = images, val, recipe, seed

    def train_dataloader(self) -> Epochs:
        trainer = self.trainer
        assert trainer is not None
        batches = training_batches(
            self._images,
            self._recipe,
            self._seed,
            device=trainer.strategy.root_device,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        return Epochs(batches, trainer, self._seed)

    def val_dataloader(self) -> Validation:
        assert self.trainer is not None
        return Validation(self._val, self.trainer.strategy.root_device)


class Epochs:
    """The training batches as Lightning iterates over them: each pass is the epoch that the trainer is at."""

    def __init__(self, batches: TrainingBatches, trainer: pl.Trainer, seed: int) -> None:
        self._batches, self._trainer, self._seed = batches, trainer, seed

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        # by steps: when a training is taken up again, Lightning asks before it has raised current_epoch
        epoch = self._trainer.global_step // len(self._batches)
        self._batches.epoch = epoch
        # dropout draws from torch's global state: a function of the epoch, so that a resumed training repeats it
        torch.manual_seed((self._seed * 1_000_003 + epoch + 1) % 2**63)
        return iter(self._batches)


class Validation:
    """The validation batches, in order; every process sees all of them, so that none needs to ask the others."""

    def __init__(self, split: Split, device: torch.device) -> None:
        self._split, self._device = split, device

    def __iter__(self) -> Iterator[Batch]:
        return evaluation_batches(self._split, self._device)


def training_batches(
    images: TrainingImages, recipe: Recipe, seed: int, *, device: torch.device, rank: int = 0, world: int = 1
) -> TrainingBatches:
    """The batches that ``recipe`` asks for."""
    return TrainingBatches(
        images,
        recipe.batch_size,
        flip=recipe.flip,
        shift=recipe.shift,
        cutout=recipe.cutout,
        seed=seed,
        device=device,
        rank=rank,
        world=world,
    )


def fit(
    net: nn.Module,
    images: TrainingImages,
    val: Split,
    recipe: Recipe,
    *,
    seed: int,
    teacher: Teacher | None = None,
    hardware: Hardware | None = None,
    patience: int | None = None,
    validate_each_epoch: bool = True,
    curves: Path | None = None,
    checkpoint: Path | None = None,
    progress: bool = True,
) -> Fitted:
    """Train ``net`` in place; it ends on the CPU in evaluation mode.

    Args:
        patience: stop after so many epochs without a better validation NLL, and keep the best epoch's weights.
        curves: folder that DVCLive writes, an epoch a row.
        checkpoint: folder for the checkpoint of a training that may be killed. If it holds one, the training goes on
            from there, and ends with the bytes of an undisturbed one. The caller removes the folder.
        progress: show a progress bar, if standard error is a terminal.

    Raises:
        DivergedError: the loss is not finite.
        UserError: the batch is larger than the data, or there is no such accelerator.
    """
    hardware = hardware or Hardware()
    steps_an_epoch = len(training_batches(images, recipe, seed, device=torch.device("cpu")))
    total_steps = recipe.epochs * steps_an_epoch
    training = Training(net, images.split.meaning, recipe, total_steps, teacher)
    training.curves = Curves(curves) if curves else None
    training.best = {"nll": math.inf, "weights": None} if patience else None
    trainer = _trainer(recipe, hardware, patience, validate_each_epoch, checkpoint, progress)
    if teacher:
        teacher.net.eval().to(trainer.strategy.root_device)
    resume = checkpoint / "last.ckpt" if checkpoint and (checkpoint / "last.ckpt").exists() else None
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # Lightning's hints on data loaders, which ours are not, and its own use of what torch deprecates
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        trainer.fit(training, datamodule=Data(images, val, recipe, seed), ckpt_path=resume, weights_only=False)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if training.curves:
        training.curves.write(training.history)  # also where the checkpoint was of the last epoch
        training.curves.end()
    weights = training.best["weights"] if training.best else training.trained.state_dict()
    net.cpu().load_state_dict({name: value.cpu() for name, value in weights.items()})
    net.eval()
    epochs = len(training.history)
    last = min(training.history, key=lambda row: row["val/nll"]) if patience else training.history[-1]
    return Fitted(
        training.history,
        epochs,
        epochs * steps_an_epoch,
        epochs * len(images),
        last["train/loss"],
        last["val/nll"],
        last["val/accuracy"],
    )


def _moving_average(net: nn.Module, decay: float) -> swa_utils.AveragedModel:
    averaging = swa_utils.get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    return swa_utils.AveragedModel(net, multi_avg_fn=averaging, use_buffers=True)


def supervised_loss(logits_BK: Tensor, labels_B: Tensor, recipe: Recipe) -> Tensor:
    """Cross-entropy with label smoothing, or the mean squared error of the logits to the one-hot labels."""
    if recipe.loss == "mse":
        return functional.mse_loss(logits_BK, functional.one_hot(labels_B, logits_BK.shape[1]).float())
    return functional.cross_entropy(logits_BK, labels_B, label_smoothing=recipe.label_smoothing)


def distillation_loss(logits_BK: Tensor, teacher_BK: Tensor, temperature: float) -> Tensor:
    """T² KL(teacher / T || student / T), mean over the batch (Hinton et al. 2015, section 2)."""
    student_BK = functional.log_softmax(logits_BK / temperature, dim=1)
    wanted_BK = functional.log_softmax(teacher_BK / temperature, dim=1)
    return temperature**2 * functional.kl_div(student_BK, wanted_BK, reduction="batchmean", log_target=True)


def lightning_precision(precision: str, device: torch.device) -> Any:
    """Lightning's name for ``recipe.precision``; ``auto`` is bf16 where the hardware computes with it, else fp32."""
    if precision == "auto":
        has_bf16 = (
            torch.cuda.is_bf16_supported(including_emulation=False)
            if device.type == "cuda"
            else device.type == "cpu" and computes_in_bf16()
        )
        precision = "bf16" if has_bf16 else "fp32"
    return {"bf16": "bf16-mixed", "fp32": "32-true"}[precision]


def _trainer(
    recipe: Recipe,
    hardware: Hardware,
    patience: int | None,
    validate_each_epoch: bool,
    checkpoint: Path | None,
    progress: bool,
) -> pl.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    callbacks: list[Callback] = []
    progress = progress and sys.stderr.isatty()
    if progress:
        callbacks.append(RichProgressBar(leave=False))
    if patience:
        callbacks.append(EarlyStopping("val/nll", patience=patience, mode="min"))
    if checkpoint:
        callbacks.append(ModelCheckpoint(checkpoint, "last", every_n_epochs=1, enable_version_counter=False))
    accelerator = hardware.accelerator
    if accelerator == "gpu" and not torch.cuda.is_available():
        raise UserError("params.yaml: train.accelerator: found 'gpu', and there is none here; expected 'auto' or 'cpu'")
    kind = "cuda" if torch.cuda.is_available() and accelerator != "cpu" else "cpu"
    devices: Any = hardware.devices
    return pl.Trainer(
        accelerator=accelerator,
        devices=devices,
        num_nodes=hardware.nodes,
        precision=lightning_precision(recipe.precision, torch.device(kind)),
        max_epochs=recipe.epochs,
        check_val_every_n_epoch=1 if validate_each_epoch else recipe.epochs,
        gradient_clip_val=recipe.gradient_clip or None,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=checkpoint is not None,
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        deterministic=True,
    )
