"""Training a network with Lightning: ``fit``, which every training stage calls."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict, Unpack

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import nn

from isoflop.data.arrays import Split
from isoflop.data.loading import TrainingImages
from isoflop.models.costs import count_macs, count_training_flops
from isoflop.models.vit import Vit
from isoflop.runtime.errors import UserError, is_out_of_memory
from isoflop.runtime.experiment_loggers import ExperimentLog
from isoflop.training.batches import check_batch_size, steps_an_epoch
from isoflop.training.callbacks import BestWeights, Curves, History, LossesByImage, ProgressDisplay, Row
from isoflop.training.checkpoints import VerifiedCheckpoints, is_intact
from isoflop.training.hardware import Hardware, keep_freed_memory, largest_batch, trainer_options
from isoflop.training.lightning_module import Data, Plan, Training
from isoflop.training.losses import Teacher, class_balance
from isoflop.training.privacy import Mechanism, per_image_gradients
from isoflop.training.recipe import Recipe
from isoflop.training.transfer import Tuning

_CHECKPOINT = "last"  # the name of its file, without .ckpt
_TERMINATED = 143  # 128 + SIGTERM


class FitOptions(TypedDict, total=False):
    """The optional arguments of ``fit``."""

    teacher: Teacher | None  # a network to imitate in addition to learning from the labels
    private: Mechanism | None  # train with differential privacy: Poisson batches, clipped gradients, noise; in fp32
    on: Hardware | None  # default: one device, a GPU if there is one
    images_budget: int | None  # the schedule ends after this number of images, if that is before the last epoch
    tuning: Tuning | None  # the weights are pretrained, and trained further in this way
    patience: int | None  # stop after this number of epochs without a better validation NLL; keep the best weights
    validate_every: int  # epochs from one validation to the next, default 1; the last epoch is always validated
    curves: Path | None  # folder for DVCLive, which writes a row per epoch
    log: ExperimentLog | None  # gets the same rows; the caller closes it
    checkpoint: Path | None  # folder for a checkpoint per epoch; training resumes from the one that it holds
    progress: bool  # show progress, default true
    doing: str  # description of the progress, default "training"


@dataclass(frozen=True)
class Fitted:
    """Results of a training."""

    history: list[Row] = field(repr=False)
    epochs: int
    steps: int
    images_seen: int
    train_loss: float
    val_nll: float
    val_accuracy: float
    seconds: float  # in training steps, validation excluded; of this process, so without the time before a resume
    timed_images: int  # seen in these seconds
    flops_per_image: int  # of forward and backward, the teacher's forward included (2 per multiply-accumulate)
    flops: int  # of the whole training


def fit(
    net: nn.Module,
    images: TrainingImages,
    val: Split,
    recipe: Recipe,
    *,
    width: int,
    seed: int,
    **options: Unpack[FitOptions],
) -> Fitted:
    """Train ``net`` in place. It ends on the CPU, in evaluation mode.

    A training that was killed and is called again with the same ``checkpoint`` ends with the bytes of an undisturbed
    one. The caller removes the folder.

    Args:
        width: of the network's architecture; learning rates scale with it.
        seed: of batches, augmentation and dropout.

    Raises:
        DivergedError: the loss is not finite.
        UserError: the batch is larger than the data or smaller than its parts, the hardware does not exist, memory
            runs out, or the network does not take the image sizes of ``recipe.progressive_resizing``.
    """
    on, teacher, private = options.get("on") or Hardware(), options.get("teacher"), options.get("private")
    _check_network(net, recipe, on)
    keep_freed_memory()
    flops_per_image = count_training_flops(net, val, recipe.progressive_resizing)
    flops_per_image += 2 * count_macs(teacher.net, val) if teacher else 0
    classes = class_balance(images.split.labels[images.indices], images.split.num_classes, recipe)
    plan, how = _plan(len(images), recipe, options), options.get("tuning")
    training = Training(net, width, val, recipe, plan, teacher, private, classes, how)
    history = History(training, recipe.learning_rate, _logs(options))
    best = BestWeights(training, history, options.get("patience"))
    losses = LossesByImage(training, len(images.split)) if recipe.infobatch else None
    trainer = _trainer(recipe, on, training, [history, best, *([losses] if losses else [])], options)
    parts = on.accumulate_grad_batches
    check_batch_size(len(images), recipe, trainer.world_size, parts)
    torch.manual_seed(seed)
    data = Data(images, recipe, seed, parts, losses.latest if losses else None, poisson=private is not None)
    try:
        _run(trainer, training, data, on, options)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        message = str(error)  # not the error, whose frames hold the step's tensors
    else:
        return _fitted(training, history, best, flops_per_image)
    raise UserError(_out_of_memory(training, recipe, on, message))


def _plan(images: int, recipe: Recipe, options: FitOptions) -> Plan:
    return Plan(
        steps_an_epoch=steps_an_epoch(images, recipe),
        images_an_epoch=images,
        epochs=recipe.epochs,
        seconds=60 * recipe.max_minutes if recipe.max_minutes else None,
        images=options.get("images_budget"),
        validate_every=options.get("validate_every", 1),
    )


def _logs(options: FitOptions) -> list[Curves | ExperimentLog]:
    curves, log = options.get("curves"), options.get("log")
    return [*([Curves(curves)] if curves else []), *([log] if log else [])]


def _check_network(net: nn.Module, recipe: Recipe, on: Hardware) -> None:
    if min(recipe.progressive_resizing) < 1 and not getattr(net, "takes_any_size", True):
        raise UserError(
            f"params.yaml: recipe.progressive_resizing: got {recipe.progressive_resizing}, "
            "expected [1.0] with an mlp or vit, which take images of one size"
        )
    if isinstance(net, Vit):
        net.checkpoints_activations = on.activation_checkpointing
    elif on.activation_checkpointing:
        raise UserError("params.yaml: train.activation_checkpointing: got true, expected false unless with a vit")


def _trainer(
    recipe: Recipe, on: Hardware, training: Training, callbacks: Sequence[Callback], options: FitOptions
) -> pl.Trainer:
    # deterministic algorithms fill new tensors by default, which takes time; nothing here reads an unwritten tensor
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    every = [training.clock, *callbacks]
    if options.get("progress", True):
        every.append(ProgressDisplay(training, options.get("doing", "training")))
    checkpoint = options.get("checkpoint")
    if checkpoint:
        every.append(ModelCheckpoint(checkpoint, _CHECKPOINT, every_n_epochs=1, enable_version_counter=False))
    hardware = trainer_options(on, recipe.precision)
    return pl.Trainer(
        **hardware | {"plugins": [*hardware.get("plugins", []), VerifiedCheckpoints()]},
        max_epochs=recipe.epochs,
        gradient_clip_val=recipe.gradient_clip or None,
        callbacks=every,
        logger=False,
        enable_checkpointing=checkpoint is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        deterministic=True,
    )


def _run(trainer: pl.Trainer, training: Training, data: Data, on: Hardware, options: FitOptions) -> None:
    teacher, checkpoint = options.get("teacher"), options.get("checkpoint")
    if teacher:
        teacher.net.eval().to(trainer.strategy.root_device)
    if on.compile:
        training.net.compile()
    last = checkpoint / f"{_CHECKPOINT}.ckpt" if checkpoint else None
    resume = last if last and is_intact(last) else None
    with per_image_gradients(training.net) if options.get("private") else nullcontext(), warnings.catch_warnings():
        # Lightning's advice on data loaders, which does not apply to ours, and its own use of deprecated torch calls
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        try:
            trainer.fit(training, datamodule=data, ckpt_path=resume, weights_only=True)
        except SIGTERMException:  # it has no status, so DVC would take it for success
            raise SystemExit(_TERMINATED) from None
    if trainer.interrupted:
        raise KeyboardInterrupt


def _out_of_memory(training: Training, recipe: Recipe, on: Hardware, message: str) -> str:
    """The cure, found by running forward and backward on smaller batches."""
    training.zero_grad(set_to_none=True)
    training.to(training.trainer.strategy.root_device)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    failed = -(-recipe.batch_size // on.accumulate_grad_batches)
    fits = largest_batch(training.try_batch, failed)
    if not fits:
        return f"out of memory at any batch size; fix: a smaller train.width ({message[:200]})"
    parts = -(-recipe.batch_size // fits)
    return (
        f"params.yaml: train.accumulate_grad_batches: got {on.accumulate_grad_batches}, and {failed} images at a time "
        f"do not fit into memory, but {fits} do; expected {parts}, which keeps recipe.batch_size {recipe.batch_size}"
    )


def _fitted(training: Training, history: History, best: BestWeights, flops_per_image: int) -> Fitted:
    weights = best.weights or training.trained.state_dict()
    net, rows, steps = training.net, history.rows, training.global_step
    net.cpu().load_state_dict({name: value.cpu() for name, value in weights.items()})
    net.eval()
    kept = rows[best.epoch - 1]
    images_seen = round(training.plan.images_an_epoch * steps / training.plan.steps_an_epoch)
    return Fitted(
        history=rows,
        epochs=len(rows),
        steps=steps,
        images_seen=images_seen,
        train_loss=kept["train/loss"],
        val_nll=kept["val/nll"],
        val_accuracy=kept["val/accuracy"],
        seconds=history.seconds,
        timed_images=training.images_seen,
        flops_per_image=flops_per_image,
        flops=flops_per_image * images_seen,
    )
