"""How a network is trained: the schemas of the sections ``recipe`` and ``train``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationInfo, field_validator

from isoflop.runtime.params import RandomSeed, Section, untracked

Scale = Annotated[float, Field(gt=0, le=1)]


def _ends_at_full_size(scales: list[float]) -> list[float]:
    """The last scale is 1, so that training ends at the image size that the network is used at."""
    if scales[-1] != 1:
        raise ValueError("a list that ends with 1.0, the size that the network is used at")
    return scales


class Recipe(Section):
    """Section ``recipe``: loss, optimizer, schedule and the random changes of each batch."""

    loss: Literal["cross_entropy", "mse"]  # mse: of the logits to one-hot labels
    label_smoothing: float = Field(ge=0, lt=1)  # probability spread evenly over the classes; 0 with mse
    class_weights: Literal["none", "balanced", "effective"]  # of the loss; balanced: 1 / images of the class
    logit_adjustment: float = Field(ge=0, le=4)  # in training, times log(share of the class) is added; 0: none
    optimizer: Literal["sgd", "momentum", "adam", "adamw", "muon"]  # sgd: without momentum
    learning_rate: float = Field(gt=0, le=1e30)  # at width 16; at other widths it is scaled by layer
    momentum: float = Field(ge=0, lt=1)  # of momentum and muon; beta 1 of adam and adamw
    weight_decay: float = Field(ge=0, le=1000)  # of matrices and filters, not of biases and norms
    schedule: Literal["constant", "linear", "cosine"]  # after the warm-up: constant, or decay to 0
    warmup_fraction: float = Field(ge=0, lt=1)  # of all steps; linear warm-up from 0.1 times the learning rate
    epochs: int = Field(ge=1, le=100_000)  # of the base model; the scaling study and the variants have their own
    max_minutes: float | None = Field(
        gt=0, le=1_000_000
    )  # time limit; the schedule ends there at the latest; null: none
    batch_size: int = Field(ge=2, le=1_000_000)  # images per step, over all devices
    ema_decay: float = Field(ge=0, lt=1)  # per step, of the exponential moving average of the weights; 0: no average
    gradient_clip: float = Field(ge=0, le=1e9)  # maximum norm of the gradient; 0: no clipping
    flip: Literal["none", "random", "alternating"]  # random: with probability 0.5; alternating: every other epoch
    shift: int = Field(ge=0, le=256)  # maximum random shift, pixels
    cutout: int = Field(ge=0, le=256)  # side of the square, pixels; 0: none
    infobatch: float = Field(ge=0, lt=1)  # InfoBatch: share of the images with a low loss that a pass leaves out
    progressive_resizing: Annotated[
        list[Scale], Field(min_length=1, max_length=100), AfterValidator(_ends_at_full_size)
    ]  # fractions of the image side, each for an equal share of the training; ends with 1.0
    precision: Literal["auto", "fp32", "bf16"]  # auto: bf16 if the hardware computes in it, else fp32

    @field_validator("logit_adjustment", "label_smoothing")
    @classmethod
    def _none_with_mse(cls, smoothing: float, others: ValidationInfo) -> float:
        if smoothing and others.data.get("loss") == "mse":
            raise ValueError("0 with recipe.loss mse")
        return smoothing


class Privacy(Section):
    """Section ``train.privacy``: differential privacy (DP-SGD)."""

    epsilon: float | None = Field(gt=0, le=100)  # privacy budget, spent by the last epoch; null: no privacy
    delta: float = Field(gt=0, lt=1)  # less than 1 / number of training images
    clip_norm: float = Field(gt=0, le=1e9)  # maximum norm of the gradient of one image


class Finetuning(Section):
    """``train.finetuning``: how a network with the weights of ``model.pretrained`` is trained; it does not apply to
    others.

    The head is trained alone first, because a random head would distort the features of the other layers (Kumar et al.
    2022, "Fine-Tuning can Distort Pretrained Features and Underperform Out-of-Distribution").
    """

    head_fraction: float = Field(ge=0, lt=1)  # of the training, in which only the head is trained
    first_layer_rate: float = Field(gt=0, le=1)  # learning rate of the first layer over the last; geometric in between
    freeze_norms: Literal["auto", "always", "never"]  # keep the batch norms' statistics; auto: with batches below 64


class Train(Section):
    """Section ``train``: the width, and the hardware to train on."""

    width: int = Field(ge=1, le=65536)  # of the network; every hidden layer scales with it
    fraction: float = Field(gt=0, le=1)  # of the training images that the base trains on, the same of each class
    seed: RandomSeed  # of initial weights, batches and dropout
    accelerator: Literal["auto", "cpu", "gpu"]  # auto: a GPU if there is one
    devices: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        union_mode="left_to_right"
    )  # per node; auto: all
    nodes: int = Field(ge=1, le=4096)  # machines
    strategy: Literal["auto", "ddp"]  # auto: ddp if there are several processes
    accumulate_grad_batches: int = Field(
        ge=1, le=1_000_000
    )  # gradient accumulation: parts per batch; more parts need less memory
    compile: bool  # use torch.compile
    activation_checkpointing: bool  # vit only: less memory, a third more compute
    validate_every: int = Field(ge=1, le=100_000)  # epochs; the last epoch is always validated
    patience: int | None = Field(
        ge=1, le=100_000
    )  # early stopping: epochs without a better validation NLL; null: never
    privacy: Privacy
    finetuning: Finetuning
    logger: Literal["tensorboard", "mlflow", "wandb"] | None = untracked()  # writes to .isoflop/logs; null: none

    @property
    def is_shared(self) -> bool:
        return self.devices != 1 or self.nodes > 1
