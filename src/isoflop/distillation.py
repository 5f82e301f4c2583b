"""Distillation: a narrower network of the base's family that learns from the base's outputs as well as the labels."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import Field

from isoflop.arrays import Images, Split
from isoflop.errors import UserError
from isoflop.model_files import Model, save_model
from isoflop.params import Section
from isoflop.recipe import Recipe


class Distill(Section):
    """Section ``distill``."""

    width: int = Field(ge=1, le=65536)  # of the student
    temperature: float = Field(gt=0, le=100)
    alpha: float = Field(ge=0, le=1)  # weight of the teacher; the rest is on the labels
    epochs: int = Field(ge=1)
    seed: int = Field(ge=0)


def distill(
    base: Model, recipe: Recipe, params: Distill, data: Split, views: Images, val: Split, *, folder: Path, metrics: Path
) -> None:
    """Train the student twice from the same start, taught and untaught, and write the taught one.

    The untaught one is the control: a weak teacher makes a student worse, and without it nobody would see that.

    Raises:
        UserError: the student is not narrower than the base.
    """
    import torch

    from isoflop.base_training import fitted_facts
    from isoflop.costs import count_macs, count_parameters
    from isoflop.loading import all_images
    from isoflop.models import build
    from isoflop.resume import resumable
    from isoflop.training import Teacher, fit

    if params.width >= base.architecture.width:
        raise UserError(
            f"params.yaml: distill.width: found {params.width}, expected less than the base's width, "
            f"{base.architecture.width} (train.width)"
        )
    recipe = recipe.model_copy(update={"epochs": params.epochs})
    student = replace(base.architecture, width=params.width)
    images = all_images(data, views)
    facts: dict[str, object] = {}
    for name, alpha in (("control", 0.0), ("", params.alpha)):
        torch.manual_seed(params.seed)
        net = build(student)
        teacher = Teacher(base.net, params.temperature, alpha) if alpha else None
        start = (name, asdict(student), recipe.model_dump(), params.model_dump(), _digest(base))
        with resumable(images, "distill", *start) as checkpoint:
            fitted = fit(net, images, val, recipe, seed=params.seed, teacher=teacher, checkpoint=checkpoint)
        if name:
            facts |= {f"control_{key}": fitted_facts(fitted)[key] for key in ("val_nll", "val_accuracy")}
        else:
            facts |= {"parameters": count_parameters(net), "macs": count_macs(net, student), **fitted_facts(fitted)}
    save_model(Model(net, student, data.meaning), folder)
    metrics.write_text(json.dumps(facts, indent=1) + "\n")


def _digest(model: Model) -> str:
    import hashlib

    digest = hashlib.blake2b(digest_size=16)
    for value in model.net.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
