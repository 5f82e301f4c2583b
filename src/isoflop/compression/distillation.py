"""Distillation: train a narrower network of the same family on the base's outputs as well as on the labels."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pydantic import Field

from isoflop.compression.method import Job, Variant, best, scores_by_name
from isoflop.models.architecture import Architecture, check_heads
from isoflop.models.model_files import Model
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import RandomSeed, Section

if TYPE_CHECKING:
    from torch import nn

    from isoflop.training.losses import Teacher


class Distill(Section):
    """Section ``distill``."""

    width_ratio: float = Field(gt=0, lt=1)  # width of the student as a share of the base's
    temperature: float = Field(gt=0, le=100)  # divides the logits of teacher and student
    alpha: float = Field(ge=0, le=1)  # weight of the teacher's outputs; the labels have 1 - alpha
    features: float = Field(ge=0, le=1e6)  # weight of the loss on similarities between images; 0: logits only
    epochs: int = Field(ge=1, le=100_000)  # replaces recipe.epochs
    seed: RandomSeed  # seed of weights and batches


def distill(job: Job[Distill]) -> Variant:
    """Train a control, without a teacher, and a distilled student from the same start; return the better one.

    A teacher that is no more accurate than the control on the validation split has nothing to teach: then only the
    control is trained. A weak teacher makes a student worse: if the distilled student is no better than the control,
    the control is kept.

    Raises:
        UserError: the student would be no smaller than its teacher, or the heads of a vit do not divide its embedding.
    """
    from isoflop.models.costs import count_macs, count_parameters
    from isoflop.models.initialization import initialized
    from isoflop.training.losses import Teacher

    params, teacher = job.params, job.base
    recipe = job.recipe.model_copy(update={"epochs": params.epochs})
    student = _student(teacher, params.width_ratio)
    nets: dict[str, nn.Module] = {}
    trainings = {}

    def train(name: str, by: Teacher | None) -> None:
        nets[name] = initialized(student, job.images, params.seed)
        trainings[name] = job.fit(nets[name], recipe, seed=params.seed, width=student.width, teacher=by,
                                  doing=f"training the {name} student")  # fmt: skip

    teacher_accuracy = job.val_accuracy(teacher.net)
    train("control", None)
    if teacher_accuracy > trainings["control"].val_accuracy:
        train("distilled", Teacher(teacher.net, params.temperature, params.alpha, params.features))
    kept = best(trainings)
    facts = {
        "parameters": count_parameters(nets[kept]),
        "macs": count_macs(nets[kept], student),
        "teacher_val_accuracy": round(teacher_accuracy, 6),
        **scores_by_name(trainings),
        "kept": kept,
    }
    return Variant(Model(nets[kept], student, job.data.train.input_spec), trainings[kept], facts)


def _student(teacher: Model, width_ratio: float) -> Architecture:
    from isoflop.models.costs import count_parameters
    from isoflop.models.families import build

    wide = teacher.architecture
    student = replace(wide, width=max(1, round(width_ratio * wide.width)))
    check_heads(student, f"{width_ratio} of width {wide.width}")
    parameters, of_teacher = count_parameters(build(student)), count_parameters(teacher.net)
    if parameters >= of_teacher:
        raise UserError(
            f"params.yaml: distill.width_ratio: got {width_ratio}, a student of width {student.width} (teacher: "
            f"{wide.width}) with {parameters:,} parameters, expected fewer than the teacher's {of_teacher:,}; "
            "fix: lower width_ratio"
        )
    return student
