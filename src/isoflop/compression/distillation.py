"""Distillation: a narrower network of the base's family that learns from the base's outputs as well as the labels."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from isoflop.data.arrays import TrainingData
from isoflop.models.architecture import Architecture, check_heads
from isoflop.models.model_files import Model, digest, save_model
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.training.privacy import check_not_private
from isoflop.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn


class Distill(Section):
    """Section ``distill``."""

    width_ratio: float = Field(gt=0, lt=1)  # the student's width as a share of the base's
    temperature: float = Field(gt=0, le=100)  # both networks' logits are divided by it
    alpha: float = Field(ge=0, le=1)  # weight of the teacher's outputs; the rest is on the labels
    features: float = Field(ge=0, le=1e6)  # weight on which images the teacher finds alike; 0: outputs alone
    epochs: int = Field(ge=1)  # in place of recipe.epochs
    seed: int = Field(ge=0)  # of weights and batches


def distill(base: Model, recipe: Recipe, params: Distill, data: TrainingData, *, folder: Path, metrics: Path) -> None:
    """Train the student twice from the same start, untaught and taught, and write the one that ended better.

    The untaught one is the control. Where it is as good as the teacher on the validation split nothing is to be learnt
    of that, so no one is taught; and where the taught one ends no better, the control is kept: a weak teacher makes a
    student worse.

    Raises:
        UserError: the student would be no smaller than its teacher, or the heads of a vit do not divide its embedding.
    """
    from isoflop.data.loading import all_images
    from isoflop.evaluation.scores import predict_logits
    from isoflop.models.costs import count_macs, count_parameters
    from isoflop.models.initialization import initialized
    from isoflop.training.base_training import fitted_facts
    from isoflop.training.fitting import Fitted, fit
    from isoflop.training.losses import Teacher
    from isoflop.training.resume import resumable

    check_not_private(base.privacy, "distill")
    recipe = recipe.model_copy(update={"epochs": params.epochs})
    student = _student(base, params.width_ratio)
    images = all_images(data.train, data.views)

    def trained(name: str, teacher: Teacher | None) -> tuple[nn.Module, Fitted]:
        net = initialized(student, images, params.seed)
        start = (name, asdict(student), recipe.model_dump(), params.model_dump(), digest(base.net))
        checkpoint = trainings.enter_context(resumable(images, "distill", *start))  # kept until both are through
        return net, fit(net, images, data.val, recipe, width=student.width, seed=params.seed, teacher=teacher,
                        checkpoint=checkpoint, doing=f"training the student: {name}")  # fmt: skip

    teacher_accuracy = float((predict_logits(base.net, data.val).argmax(1) == data.val.labels).mean())
    with ExitStack() as trainings:
        found = {"control": trained("control", None)}
        if teacher_accuracy > found["control"][1].val_accuracy:
            teacher = Teacher(base.net, params.temperature, params.alpha, params.features)
            found["distilled"] = trained("distilled", teacher)
    kept = max(found, key=lambda name: (found[name][1].val_accuracy, -found[name][1].val_nll))  # the first of equals
    net, fitted = found[kept]
    facts: dict[str, object] = {
        "parameters": count_parameters(net),
        "macs": count_macs(net, student),
        "teacher_val_accuracy": round(teacher_accuracy, 6),
    }
    for name, (_, training) in found.items():
        facts |= {f"{name}_{key}": fitted_facts(training)[key] for key in ("val_nll", "val_accuracy")}
    facts |= {"kept": kept, **fitted_facts(fitted)}
    facts["training_flops"] = sum(training.flops for _, training in found.values())
    save_model(Model(net, student, data.train.input_spec), folder)
    write_json(metrics, facts)


def _student(teacher: Model, width_ratio: float) -> Architecture:
    from isoflop.models.costs import count_parameters
    from isoflop.models.families import build

    wide = teacher.architecture
    student = replace(wide, width=max(1, round(width_ratio * wide.width)))
    check_heads(student, f"{width_ratio} of width {wide.width}")
    sizes = [count_parameters(net) for net in (build(student), teacher.net)]
    if sizes[0] >= sizes[1]:
        raise UserError(
            f"params.yaml: distill.width_ratio: found {width_ratio}, which makes width {student.width} of width "
            f"{wide.width}, {sizes[0]:,} parameters where the teacher has {sizes[1]:,}; expected a smaller student"
        )
    return student
