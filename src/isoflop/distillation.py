"""Distillation: a narrower network of the base's family that learns from the base's outputs as well as the labels."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

from pydantic import Field

from isoflop.architecture import Architecture, check_heads
from isoflop.arrays import Images, Split
from isoflop.errors import UserError
from isoflop.model_files import Model, save_model
from isoflop.params import Section
from isoflop.recipe import Recipe


class Distill(Section):
    """Section ``distill``."""

    width_ratio: float = Field(gt=0, lt=1)  # the student's width as a share of the base's
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
        UserError: no network is narrower than the base, or the heads of a vit do not divide the student's embedding.
    """
    from isoflop.base_training import fitted_facts
    from isoflop.costs import count_macs, count_parameters
    from isoflop.initialization import initialized
    from isoflop.loading import all_images
    from isoflop.losses import Teacher
    from isoflop.resume import resumable
    from isoflop.training import fit

    recipe = recipe.model_copy(update={"epochs": params.epochs})
    student = _student(base.architecture, params.width_ratio)
    images = all_images(data, views)
    facts: dict[str, object] = {}
    for name, alpha in (("control", 0.0), ("", params.alpha)):
        net = initialized(student, images, params.seed)
        teacher = Teacher(base.net, params.temperature, alpha) if alpha else None
        start = (name, asdict(student), recipe.model_dump(), params.model_dump(), _digest(base))
        with resumable(images, "distill", *start) as checkpoint:
            fitted = fit(
                net,
                images,
                val,
                recipe,
                width=student.width,
                seed=params.seed,
                teacher=teacher,
                checkpoint=checkpoint,
            )
        if name:
            facts |= {f"control_{key}": fitted_facts(fitted)[key] for key in ("val_nll", "val_accuracy")}
        else:
            facts |= {"parameters": count_parameters(net), "macs": count_macs(net, student), **fitted_facts(fitted)}
    save_model(Model(net, student, data.meaning), folder)
    metrics.write_text(json.dumps(facts, indent=1) + "\n")


def _student(base: Architecture, width_ratio: float) -> Architecture:
    width = max(1, round(width_ratio * base.width))
    if width >= base.width:
        raise UserError(
            f"params.yaml: distill.width_ratio: found {width_ratio}, which makes width {width} of the base's "
            f"{base.width}; expected a narrower student, so a smaller ratio or a larger train.width"
        )
    student = replace(base, width=width)
    check_heads(student, f"{width_ratio} of train.width {base.width}")
    return student


def _digest(model: Model) -> str:
    import hashlib

    digest = hashlib.blake2b(digest_size=16)
    for value in model.net.state_dict().values():
        digest.update(value.numpy().tobytes())
    return digest.hexdigest()
