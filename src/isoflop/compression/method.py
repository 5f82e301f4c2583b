"""The skeleton of a compression stage, shared by distill, prune, sparsify and qat.

A compression method turns a trained model into a variant. To add the method NAME, write

1. a module in this package, like ``qat.py``, with a ``Section`` for its keys in params.yaml and a function
   ``NAME(job: Job[ItsSection]) -> Variant``, which trains with ``job.fit`` and returns the network;
2. ``stages/NAME.py``, like ``stages/qat.py``, and its entry in dvc.yaml;
3. a field in ``compression.variants.Variants``, and in each preset the section NAME and ``variants.NAME``.

``make_variant`` does the rest: it refuses private models, resumes after a kill, and writes the model folder and the
metrics file.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

from isoflop.data.arrays import TrainingData
from isoflop.models.model_files import Model, digest, save_model
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.training.privacy import check_not_private
from isoflop.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from isoflop.data.loading import TrainingImages
    from isoflop.training.fitting import Fitted
    from isoflop.training.losses import Teacher

ParamsT = TypeVar("ParamsT", bound=Section)


@dataclass(frozen=True)
class Variant:
    """What a method returns."""

    model: Model
    fitted: Fitted  # the training that produced the model
    facts: Mapping[str, object]  # the method's own entries of the metrics file


@dataclass(frozen=True)
class Job(Generic[ParamsT]):
    """One run of a method: its inputs, and the training that all methods share."""

    stage: str
    base: Model  # the model to start from; the method leaves it unchanged
    recipe: Recipe
    params: ParamsT
    data: TrainingData
    images: TrainingImages  # of ``data.train`` and its augmented views
    checkpoints: ExitStack  # removes the checkpoints once the variant is saved
    trainings: list[Fitted] = field(default_factory=list)  # every call of ``fit``, in order

    def fit(
        self,
        net: nn.Module,
        recipe: Recipe,
        *,
        seed: int,
        doing: str,
        width: int | None = None,
        teacher: Teacher | None = None,
        rate_key: str | None = None,
    ) -> Fitted:
        """Train ``net`` in place; after a kill, resume from its checkpoint.

        Args:
            doing: text of the progress bar; distinct for each training of a job.
            width: width of the network; None: that of ``base``.
            rate_key: the parameter of this stage that sets the learning rate, if it is not the recipe's; the error of
                a diverged training names it.

        Raises:
            DivergedError: the loss is not finite.
        """
        from isoflop.training.finetuning import naming_the_rate
        from isoflop.training.fitting import fit
        from isoflop.training.resume import resumable

        key = self.stage, doing, digest(self.base.net), digest(net), recipe.model_dump(), self.params.model_dump()
        checkpoint = self.checkpoints.enter_context(resumable(self.images, *key))
        names_rate = (
            naming_the_rate(f"{self.stage}.{rate_key}", getattr(self.params, rate_key)) if rate_key else nullcontext()
        )
        with names_rate:
            fitted = fit(net, self.images, self.data.val, recipe, width=width or self.base.architecture.width,
                         seed=seed, teacher=teacher, checkpoint=checkpoint, doing=doing)  # fmt: skip
        self.trainings.append(fitted)
        return fitted

    def val_accuracy(self, net: nn.Module) -> float:
        """Accuracy of ``net`` on the validation split."""
        from isoflop.evaluation.scores import accuracy, predict_logits

        return accuracy(predict_logits(net, self.data.val), self.data.val.labels)


def make_variant(
    method: Callable[[Job[ParamsT]], Variant],
    base: Model,
    recipe: Recipe,
    params: ParamsT,
    data: TrainingData,
    *,
    folder: Path,
    metrics: Path,
) -> None:
    """Run ``method``, a function with the name of its stage, and write the model folder and the metrics file.

    Checkpoints of all trainings are kept until the variant is saved, so that a killed stage repeats none of them.

    Raises:
        UserError: ``base`` is a private model, or what ``method`` raises.
    """
    from isoflop.data.loading import all_images
    from isoflop.training.base_training import fitted_facts

    stage = method.__name__
    check_not_private(base.privacy, stage)
    with ExitStack() as checkpoints:
        job = Job(stage, base, recipe, params, data, all_images(data.train, data.views), checkpoints)
        variant = method(job)
        save_model(variant.model, folder)
        facts = {**variant.facts, **fitted_facts(variant.fitted)}
        facts["training_flops"] = sum(training.flops for training in job.trainings)
        write_json(metrics, facts)


def best(trainings: Mapping[str, Fitted]) -> str:
    """Name of the training with the highest validation accuracy, then the lowest NLL; the first of equals."""
    return max(trainings, key=lambda name: (trainings[name].val_accuracy, -trainings[name].val_nll))


def scores_by_name(trainings: Mapping[str, Fitted]) -> dict[str, float]:
    """``NAME_val_nll`` and ``NAME_val_accuracy`` of each training, for the metrics file of a method with a control."""
    return {
        f"{name}_val_{score}": round(getattr(fitted, f"val_{score}"), 6)
        for name, fitted in trainings.items()
        for score in ("nll", "accuracy")
    }
