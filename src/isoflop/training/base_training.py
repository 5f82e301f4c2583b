"""Training the base model: what the stage ``train`` does."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

from isoflop.data.arrays import TrainingData
from isoflop.data.loading import all_images
from isoflop.models.architecture import ModelParams, architecture
from isoflop.models.costs import count_macs, count_parameters, count_training_flops
from isoflop.models.initialization import initialized
from isoflop.models.model_files import Model, save_model
from isoflop.runtime.experiment_loggers import ExperimentLog
from isoflop.runtime.files import write_json
from isoflop.runtime.processes import is_first_process
from isoflop.training.batches import steps_an_epoch
from isoflop.training.fitting import Fitted, fit
from isoflop.training.hardware import hardware
from isoflop.training.privacy import check_private, mechanism
from isoflop.training.recipe import Recipe, Train
from isoflop.training.resume import resumable
from isoflop.training.throughput import throughput


def train_base(
    model: ModelParams,
    recipe: Recipe,
    train: Train,
    data: TrainingData,
    *,
    folder: Path,
    curves: Path,
    metrics: Path,
    speed: Path,
) -> None:
    """Train ``model`` at ``train.width``; write its folder, its curves, what came out and how fast it was."""
    images = all_images(data.train, data.views)
    built = architecture(model, train.width, data.train)
    private = mechanism(train.privacy, len(images), steps_an_epoch(len(images), recipe), recipe.epochs)
    if private:
        check_private(built.family, recipe, hardware(train))
        recipe = recipe.model_copy(update={"precision": "fp32"})
    net = initialized(built, images, train.seed)
    asked = {"model": model.model_dump(), "recipe": recipe.model_dump(), "train": train.model_dump()}
    log = ExperimentLog(train.logger, "base", asked) if train.logger and is_first_process() else None
    with (
        resumable(
            images, "base", asdict(built), recipe.model_dump(), train.model_dump(exclude={"logger"})
        ) as checkpoint,
        log or nullcontext(),
    ):
        fitted = fit(
            net,
            images,
            data.val,
            recipe,
            width=built.width,
            seed=train.seed,
            on=hardware(train),
            patience=train.patience,
            validate_every=train.validate_every,
            curves=curves,
            log=log,
            doing=f"training width {train.width}",
            checkpoint=checkpoint,
            private=private,
        )
        spent = private.facts(fitted.steps) if private else None
        save_model(Model(net, built, data.train.input_spec, spent), folder)
        facts: dict[str, Any] = {"parameters": count_parameters(net), "macs": count_macs(net, built)}
        facts |= fitted_facts(fitted) | ({"privacy": spent} if spent else {})
        write_json(metrics, facts)
        measured = throughput(
            fitted, count_training_flops(net, built, recipe.progressive_resizing), recipe, hardware(train)
        )
        write_json(speed, measured)


def fitted_facts(fitted: Fitted) -> dict[str, float]:
    """What a metrics file says of a training."""
    return {
        "epochs": fitted.epochs,
        "steps": fitted.steps,
        "images_seen": fitted.images_seen,
        "training_flops": fitted.flops,
        "train_loss": round(fitted.train_loss, 6),
        "val_nll": round(fitted.val_nll, 6),
        "val_accuracy": round(fitted.val_accuracy, 6),
    }
