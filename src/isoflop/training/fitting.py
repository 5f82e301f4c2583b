"""Training a network with Lightning: ``fit``, which every stage that trains calls."""

from __future__ import annotations

import logging
import math
import warnings
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from torch import nn

from isoflop.data.arrays import Split
from isoflop.data.loading import TrainingImages
from isoflop.models.costs import count_macs, count_training_flops
from isoflop.models.vit import Vit
from isoflop.runtime.errors import UserError, is_out_of_memory
from isoflop.runtime.experiment_loggers import ExperimentLog
from isoflop.runtime.progress import progress as shown
from isoflop.training.batches import TrainingBatches
from isoflop.training.curve_files import Curves
from isoflop.training.hardware import Hardware, trainer_options
from isoflop.training.lightning_data import Data
from isoflop.training.lightning_module import Plan, Row, Training
from isoflop.training.losses import Teacher
from isoflop.training.memory import keep_freed_memory, largest_batch
from isoflop.training.privacy import Mechanism, per_image_gradients
from isoflop.training.recipe import Recipe


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
    flops: int  # of the whole training, the teacher's included (2 a multiply-accumulate)


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
    images_budget: int | None = None,
    patience: int | None = None,
    validate_every: int = 1,
    curves: Path | None = None,
    log: ExperimentLog | None = None,
    checkpoint: Path | None = None,
    private: Mechanism | None = None,
    progress: bool = True,
    doing: str = "training",
) -> Fitted:
    """Train ``net`` in place; it ends on the CPU in evaluation mode.

    Args:
        width: of the network, as its architecture has it; learning rates scale with it.
        images_budget: the schedule ends with so many images, if that is before the last epoch; for one process.
        patience: stop after so many epochs without a better validation NLL, and keep the best epoch's weights.
        validate_every: epochs from one validation to the next; the last epoch always ends with one.
        curves: folder that DVCLive writes, an epoch a row.
        log: told the same rows; the caller closes it.
        checkpoint: folder for the checkpoint of a training that may be killed. If it holds one, the training goes on
            from there, and ends with the bytes of an undisturbed one. The caller removes the folder.
        private: train with differential privacy (Poisson batches, clipped gradients, noise), in 32 bits.
        progress: show how far it is, as ``doing``.

    Raises:
        DivergedError: the loss is not finite.
        UserError: the batch is larger than the data or smaller than its parts, there is no such hardware, memory runs
            out, or the network takes images of one size alone.
    """
    on = on or Hardware()
    _check_network(net, recipe, on)
    keep_freed_memory()
    flops_an_image = _flops_an_image(net, val, recipe, teacher)
    steps = TrainingBatches(images, recipe, seed, device=torch.device("cpu")).steps
    seconds = 60 * recipe.max_minutes if recipe.max_minutes else None
    plan = Plan(steps, recipe.epochs, seconds, validate_every, patience, images_budget)
    training = Training(net, width, len(images.split), val, recipe, plan, teacher, private)
    training.images_an_epoch = len(images)
    training.told = [*([Curves(curves)] if curves else []), *([log] if log else [])]
    training.best = {"nll": math.inf, "weights": None, "epoch": 0} if patience else None
    trainer = _trainer(recipe, on, checkpoint)
    if teacher:
        teacher.net.eval().to(trainer.strategy.root_device)
    if on.compile:
        net.compile()
    torch.manual_seed(seed)
    data = Data(images, recipe, seed, on.accumulate_grad_batches, training.losses, poisson=private is not None)
    try:
        with (
            per_image_gradients(net) if private else nullcontext(),
            shown(doing, "images") if progress else nullcontext() as training.task,
        ):
            _run(trainer, training, data, checkpoint)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        said = str(error)  # and not the error: its frames hold the step's tensors
    else:
        return _fitted(training, len(images), flops_an_image)
    raise UserError(_out_of_memory(training, recipe, on, said))


def _flops_an_image(net: nn.Module, val: Split, recipe: Recipe, teacher: Teacher | None) -> int:
    taught = 2 * count_macs(teacher.net, val) if teacher else 0
    return taught + count_training_flops(net, val, recipe.progressive_resizing)


def _check_network(net: nn.Module, recipe: Recipe, on: Hardware) -> None:
    if min(recipe.progressive_resizing) < 1 and not getattr(net, "takes_any_size", True):
        raise UserError(
            f"params.yaml: recipe.progressive_resizing: found {recipe.progressive_resizing}, "
            "expected [1.0] with an mlp or vit, which take images of one size"
        )
    if isinstance(net, Vit):
        net.checkpoints_activations = on.activation_checkpointing
    elif on.activation_checkpointing:
        raise UserError("params.yaml: train.activation_checkpointing: found true, expected false but with a vit")


def _out_of_memory(training: Training, recipe: Recipe, on: Hardware, said: str) -> str:
    """What to do about it: found by trying a forward and backward pass of smaller batches."""
    training.zero_grad(set_to_none=True)
    training.to(training.trainer.strategy.root_device)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    failed = -(-recipe.batch_size // on.accumulate_grad_batches)
    fits = largest_batch(training.try_batch, failed)
    if not fits:
        return f"out of memory, whatever the batch; a smaller train.width needs less ({said[:200]})"
    parts = -(-recipe.batch_size // fits)
    return (
        f"params.yaml: train.accumulate_grad_batches: found {on.accumulate_grad_batches}, and memory ran out "
        f"with {failed} images at a time; {fits} fit, so expected {parts}, which keeps recipe.batch_size "
        f"{recipe.batch_size} as it is"
    )


def _run(trainer: pl.Trainer, training: Training, data: Data, checkpoint: Path | None) -> None:
    resume = checkpoint / "last.ckpt" if checkpoint and (checkpoint / "last.ckpt").exists() else None
    with warnings.catch_warnings():
        # Lightning's hints on data loaders, which ours are not, and its own use of what torch deprecates
        warnings.filterwarnings("ignore", module="pytorch_lightning")
        trainer.fit(training, datamodule=data, ckpt_path=resume, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    for rows in training.told if trainer.is_global_zero else ():
        rows.write(training.history)  # also where the checkpoint was of the last epoch
        if isinstance(rows, Curves):
            rows.end()


def _fitted(training: Training, images: int, flops_an_image: int) -> Fitted:
    weights = training.best["weights"] if training.best else training.trained.state_dict()
    net = training.net
    net.cpu().load_state_dict({name: value.cpu() for name, value in weights.items()})
    net.eval()
    history, steps = training.history, training.global_step
    kept = min(history, key=lambda row: row.get("val/nll", math.inf)) if training.best else history[-1]
    seen = round(images * steps / training.plan.steps_an_epoch)
    return Fitted(
        history=history,
        epochs=len(history),
        steps=steps,
        images_seen=seen,
        train_loss=kept["train/loss"],
        val_nll=kept["val/nll"],
        val_accuracy=kept["val/accuracy"],
        seconds=training.seconds,
        timed_images=training.timed_images,
        flops=flops_an_image * seen,
    )


def _trainer(recipe: Recipe, on: Hardware, checkpoint: Path | None) -> pl.Trainer:
    # deterministic algorithms fill memory before it is used; nothing here reads it before it is written
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    logging.getLogger("pytorch_lightning").setLevel(logging.WARNING)
    callbacks: list[Callback] = []
    if checkpoint:
        callbacks.append(ModelCheckpoint(checkpoint, "last", every_n_epochs=1, enable_version_counter=False))
    return pl.Trainer(
        **trainer_options(on, recipe.precision),
        max_epochs=recipe.epochs,
        gradient_clip_val=recipe.gradient_clip or None,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=checkpoint is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        deterministic=True,
    )
