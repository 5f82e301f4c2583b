"""How a network is trained: the sections ``recipe`` and ``train``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from isoflop.runtime.params import Section, untracked

Scale = Annotated[float, Field(gt=0, le=1)]


def _ends_at_full_size(scales: list[float]) -> list[float]:
    """Scales of the image's side, each for an equal share of the training."""
    if scales[-1] != 1:
        raise ValueError("1.0 as the last one: a network that ends at another size than it is used at is worse")
    return scales


class Recipe(Section):
    """Section ``recipe``: loss, optimizer, schedule and what is drawn anew for each batch."""

    loss: Literal["cross_entropy", "mse"]  # mse: of the logits to one-hot labels
    label_smoothing: float = Field(ge=0, lt=1)  # share spread evenly over the classes; with cross_entropy alone
    optimizer: Literal["sgd", "momentum", "adam", "adamw", "muon"]  # sgd: without momentum
    learning_rate: float = Field(gt=0)  # at width 16; at other widths each layer's follows
    momentum: float = Field(ge=0, lt=1)  # of momentum and muon; the first beta of adam and adamw
    weight_decay: float = Field(ge=0)  # of matrices and filters, not of biases and norms
    schedule: Literal["constant", "linear", "cosine"]  # after the warm-up: constant, or down to 0 by a line or a cosine
    warmup_fraction: float = Field(ge=0, lt=1)  # of all steps; linear, from a tenth of the rate
    epochs: int = Field(ge=1)  # of the base; the study and variants have numbers of their own
    max_minutes: float | None = Field(gt=0)  # the schedule ends within these, if that is before the last epoch
    batch_size: int = Field(ge=2)  # images a step, over all devices
    ema_decay: float = Field(ge=0, lt=1)  # of the weights' moving average, a step; 0: no averaging of the weights
    gradient_clip: float = Field(ge=0)  # norm; 0: no clipping
    flip: Literal["none", "random", "alternating"]  # left to right: never, half of the time, or every other epoch
    shift: int = Field(ge=0, le=256)  # pixels, at most
    cutout: int = Field(ge=0, le=256)  # pixels, side of the square; 0: none
    infobatch: float = Field(ge=0, lt=1)  # share of the images with a small loss that a pass leaves out
    progressive_resizing: Annotated[
        list[Scale], Field(min_length=1), AfterValidator(_ends_at_full_size)
    ]  # shares of the side, each for as many epochs; ends with 1.0
    precision: Literal["auto", "fp32", "bf16"]  # auto: bf16 where the hardware computes in it, else fp32

    @model_validator(mode="after")
    def _mse_has_no_smoothing(self) -> Recipe:
        if self.loss == "mse" and self.label_smoothing:
            raise ValueError(f"label_smoothing 0 with loss mse, found {self.label_smoothing}")
        return self


class Privacy(Section):
    """Section ``train.privacy``."""

    epsilon: float | None = Field(gt=0, le=100)  # to be spent by the last epoch; null: no privacy
    delta: float = Field(gt=0, lt=1)  # below one over the number of images
    clip_norm: float = Field(gt=0)  # to which an image's gradient over all layers is clipped


class Train(Section):
    """Section ``train``: the size, and on what it is trained."""

    width: int = Field(ge=1, le=65536)  # scales every hidden layer
    seed: int = Field(ge=0)  # of weights, batches and draws
    accelerator: Literal["auto", "cpu", "gpu"]  # auto: a GPU if there is one
    devices: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(union_mode="left_to_right")  # a node; auto: all
    nodes: int = Field(ge=1)  # machines
    strategy: Literal["auto", "ddp"]  # auto: ddp where there are several processes
    accumulate_grad_batches: int = Field(ge=1)  # parts that a batch is computed in, to need less memory
    compile: bool  # by torch.compile
    activation_checkpointing: bool  # of a vit: less memory, a third more computing
    validate_every: int = Field(ge=1)  # epochs; the last one always ends with a validation
    patience: int | None = Field(ge=1)  # epochs without a better validation NLL before stopping; null: never
    privacy: Privacy
    logger: Literal["tensorboard", "mlflow", "wandb"] | None = untracked()  # to .isoflop/logs; null: none
