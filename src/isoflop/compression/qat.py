"""QAT (quantization-aware training), the stage: fine-tune a model with fake quantization in its layers."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from pydantic import Field

from isoflop.compression.method import Job, Variant
from isoflop.runtime.params import RandomSeed, Section


class Qat(Section):
    """Section ``qat``. The optimizer is AdamW, whatever the recipe says: batch norms are frozen, and Muon, which
    rescales every filter to one norm at each step, would move the filters away from them."""

    epochs: int = Field(ge=1, le=100_000)  # of fine-tuning with fake quantization
    learning_rate: float = Field(gt=0, le=1)  # of AdamW
    seed: RandomSeed  # seed of the batches


def qat(job: Job[Qat]) -> Variant:
    """Fine-tune the model with fake quantization in all layers but the head.

    Batch norms keep their running statistics: the exported graph has them as constants.
    """
    from isoflop.compression.fake_quantization import fake_quantized
    from isoflop.training.finetuning import finetuning

    params, net = job.params, deepcopy(job.base.net)
    tuning = finetuning(job.recipe, params.learning_rate, params.epochs)
    with fake_quantized(net):
        fitted = job.fit(net, tuning, seed=params.seed, doing="fine-tuning", rate_key="learning_rate")
    return Variant(replace(job.base, net=net), fitted, {})
