"""Training the base model: the work of the stage ``train``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isoflop.data.arrays import TrainingData
from isoflop.data.loading import TrainingImages, all_images, subset
from isoflop.models.architecture import Architecture, ModelParams, architecture
from isoflop.models.costs import count_macs, count_parameters
from isoflop.models.initialization import initialized
from isoflop.models.model_files import Model, save_model
from isoflop.models.pretrained import Checkpoint, check_takes, load_weights
from isoflop.runtime.errors import UserError
from isoflop.runtime.experiment_loggers import ExperimentLog
from isoflop.runtime.files import write_json
from isoflop.runtime.processes import is_first_process
from isoflop.training.batches import steps_an_epoch
from isoflop.training.fitting import Fitted, fit
from isoflop.training.hardware import hardware
from isoflop.training.privacy import Mechanism, check_private, mechanism
from isoflop.training.recipe import Recipe, Train
from isoflop.training.resume import resumable
from isoflop.training.throughput import throughput
from isoflop.training.transfer import tuning


def train_base(
    model: ModelParams,
    recipe: Recipe,
    train: Train,
    data: TrainingData,
    *,
    start: tuple[Checkpoint, Path] | None = None,
    folder: Path,
    curves: Path,
    metrics: Path,
    speed: Path,
) -> None:
    """Train ``model`` at ``train.width``; write the model's folder, its curves, its metrics and its throughput.

    Args:
        start: a checkpoint and the folder of its weights, from which the training starts; None: random weights.

    Raises:
        UserError: the network does not suit the images, the hardware or the privacy asked for, or the loss diverged.
    """
    images, on = all_images(data.train, data.views), hardware(train)
    images = _part(images, train, recipe.batch_size)
    built = architecture(model, train.width, data.train, start[0].config if start else None)
    private = _private(built, images, recipe, train)
    net = initialized(built, images, train.seed)
    if start:
        check_takes(net, built)
        load_weights(net, start[1], built)
    provenance = start[0].provenance if start else None
    how = tuning(train, recipe.batch_size) if start else None
    used = recipe.model_copy(update={"precision": "fp32"}) if private else recipe
    key = "base", asdict(built), used.model_dump(), train.model_dump(exclude={"logger"}), provenance
    log = _log(model, used, train)
    with resumable(images, *key) as checkpoint, log or nullcontext():
        fitted = fit(net, images, data.val, used, width=built.width, seed=train.seed, on=on, private=private,
                     patience=train.patience, validate_every=train.validate_every, curves=curves, log=log, tuning=how,
                     checkpoint=checkpoint, doing=f"training width {train.width}")  # fmt: skip
        spent = private.facts(fitted.steps) if private else None
        save_model(Model(net, built, data.train.input_spec, spent, provenance), folder)
        facts: dict[str, Any] = {"parameters": count_parameters(net), "macs": count_macs(net, built)}
        facts |= fitted_facts(fitted) | ({"privacy": spent} if spent else {})
        write_json(metrics, facts)
        write_json(speed, throughput(fitted, used, on))


def _part(images: TrainingImages, train: Train, batch_size: int) -> TrainingImages:
    """The fraction of the images that the base trains on, drawn as the sweep draws its fractions.

    Raises:
        UserError: they are fewer than a batch.
    """
    if train.fraction == 1:
        return images
    part = subset(images, train.fraction, train.seed)
    if len(part) < batch_size:
        raise UserError(
            f"params.yaml: train.fraction: got {train.fraction}, which is {len(part)} training images, "
            f"expected at least one batch of {batch_size} (recipe.batch_size)"
        )
    return part


def _private(built: Architecture, images: TrainingImages, recipe: Recipe, train: Train) -> Mechanism | None:
    private = mechanism(train.privacy, len(images), steps_an_epoch(len(images), recipe), recipe.epochs)
    if private:
        check_private(built.family, recipe, hardware(train))
    return private


def _log(model: ModelParams, recipe: Recipe, train: Train) -> ExperimentLog | None:
    if not train.logger or not is_first_process():
        return None
    params = {"model": model.model_dump(), "recipe": recipe.model_dump(), "train": train.model_dump()}
    return ExperimentLog(train.logger, "base", params)


def fitted_facts(fitted: Fitted) -> dict[str, float]:
    """Return the keys that the metrics file of every training stage has."""
    return {
        "epochs": fitted.epochs,
        "steps": fitted.steps,
        "images_seen": fitted.images_seen,
        "training_flops": fitted.flops,
        "train_loss": round(fitted.train_loss, 6),
        "val_nll": round(fitted.val_nll, 6),
        "val_accuracy": round(fitted.val_accuracy, 6),
    }
