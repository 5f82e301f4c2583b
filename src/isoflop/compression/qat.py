"""Quantization-aware training: a network trained further with the rounding that its 8-bit graph will do."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from pydantic import Field

from isoflop.data.arrays import TrainingData
from isoflop.models.model_files import Model, digest, save_model
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.training.privacy import check_not_private
from isoflop.training.recipe import Recipe


class Qat(Section):
    """Section ``qat``. The optimizer is AdamW, whatever the recipe's: batch norms stay as they are, and Muon's filters,
    which are brought to one size each step, would not fit them."""

    epochs: int = Field(ge=1)  # of training under the rounding
    learning_rate: float = Field(gt=0, le=1)  # of AdamW
    seed: int = Field(ge=0)  # of the batches


def train_quantized(
    base: Model, recipe: Recipe, params: Qat, data: TrainingData, *, folder: Path, metrics: Path
) -> None:
    """Train ``base`` further under the rounding of its layers but the head, and write it.

    The statistics of its batch norms stay as they are: they are constants of the graph that it is to become.
    """
    from isoflop.compression.fake_quantization import rounding
    from isoflop.data.loading import all_images
    from isoflop.training.base_training import fitted_facts
    from isoflop.training.finetuning import finetuning, said_of
    from isoflop.training.fitting import fit
    from isoflop.training.resume import resumable

    check_not_private(base.privacy, "qat")
    net, images = deepcopy(base.net), all_images(data.train, data.views)
    tuning = finetuning(recipe, params.learning_rate, params.epochs)
    start = digest(base.net), recipe.model_dump(), params.model_dump()
    named = said_of("qat.learning_rate", params.learning_rate)
    with rounding(net), named, resumable(images, "qat", *start) as checkpoint:
        fitted = fit(net, images, data.val, tuning, width=base.architecture.width,
                     seed=params.seed, checkpoint=checkpoint, doing="training further")  # fmt: skip
    base.net.load_state_dict(net.state_dict())  # whose order is another after the rounding
    save_model(base, folder)
    write_json(metrics, fitted_facts(fitted))
