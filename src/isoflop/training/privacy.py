"""Differentially private training: DP-SGD (Abadi et al. 2016, "Deep Learning with Differential Privacy") by Opacus.

Each image's gradient is clipped to a maximum norm, and noise is added to their sum. This bounds what the weights reveal
about any one training image: (ε, δ), for one image added or removed. Batches are drawn by Poisson sampling, as the
accountant assumes. Noise and batches are drawn from the OS's entropy, not from ``train.seed``: anyone who knew the
seed could subtract the noise. So no two private training runs give the same bytes.
"""

from __future__ import annotations

import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from isoflop.runtime.errors import UserError

if TYPE_CHECKING:
    from torch import nn
    from torch.optim import Optimizer

    from isoflop.training.hardware import Hardware
    from isoflop.training.recipe import Privacy, Recipe


@dataclass(frozen=True)
class Mechanism:
    """The subsampled Gaussian mechanism of each step."""

    noise_multiplier: float  # standard deviation of the noise, as a multiple of clip_norm
    clip_norm: float
    sample_rate: float  # probability that an image is in a step's batch
    delta: float
    images: int

    def epsilon(self, steps: int) -> float:
        """Return the epsilon spent after ``steps`` steps, by the PRV accountant (Gopi, Lee and Wutschitz 2021)."""
        from opacus.accountants import PRVAccountant

        accountant = PRVAccountant()
        accountant.history = [(self.noise_multiplier, self.sample_rate, steps)]
        with _quiet():
            return float(accountant.get_epsilon(delta=self.delta))

    def facts(self, steps: int) -> dict[str, float]:
        """Return the entries of the metrics file and of the model."""
        return {
            "epsilon": round(self.epsilon(steps), 4),
            "delta": self.delta,
            "noise_multiplier": self.noise_multiplier,
            "clip_norm": self.clip_norm,
            "sample_rate": self.sample_rate,
            "steps": steps,
        }


def mechanism(privacy: Privacy, images: int, steps_an_epoch: int, epochs: int) -> Mechanism | None:
    """Return the mechanism with the least noise that keeps ``epochs`` within ``privacy.epsilon``; None if that is null.

    Raises:
        UserError: Opacus is not installed, delta is too large for the number of images, or no noise is enough.
    """
    if privacy.epsilon is None:
        return None
    if privacy.delta * images >= 1:
        raise UserError(
            f"params.yaml: train.privacy.delta: got {privacy.delta}, expected less than 1 / {images}, the number of "
            "training images: at a larger delta, publishing one of them would count as private"
        )
    try:
        from opacus.accountants.utils import get_noise_multiplier
    except ImportError:
        raise UserError("train.privacy: Opacus is not installed; fix: `pip install 'isoflop[privacy]'`") from None
    rate = 1 / steps_an_epoch
    try:
        with _quiet():
            noise = get_noise_multiplier(
                target_epsilon=privacy.epsilon,
                target_delta=privacy.delta,
                sample_rate=rate,
                steps=epochs * steps_an_epoch,
                accountant="prv",
            )
    except ValueError as error:
        raise UserError(f"params.yaml: train.privacy.epsilon: got {privacy.epsilon}; Opacus: {error}") from None
    return Mechanism(float(noise), privacy.clip_norm, rate, privacy.delta, images)


def check_private(family: str, recipe: Recipe, on: Hardware) -> None:
    """Refuse what mixes the gradients of images, or reads the images outside the mechanism.

    Raises:
        UserError: a parameter does not suit private training; the message names it.
    """
    expected: list[tuple[str, object, bool, str]] = [
        ("model.family", family, family in ("mlp", "vit"), "mlp or vit, as batch norms mix the images of a batch"),
        ("recipe.infobatch", recipe.infobatch, not recipe.infobatch, "0.0, as image losses are not private"),
        ("recipe.class_weights", recipe.class_weights, recipe.class_weights == "none", "none, as they are not private"),
        (
            "recipe.logit_adjustment",
            recipe.logit_adjustment,
            not recipe.logit_adjustment,
            "0.0, as class sizes are not private",
        ),
        ("recipe.gradient_clip", recipe.gradient_clip, not recipe.gradient_clip, "0.0, as each image's is clipped"),
        ("recipe.precision", recipe.precision, recipe.precision != "bf16", "auto or fp32"),
        ("train.devices", on.devices, on.devices == 1 and on.nodes == 1, "1, and 1 node"),
        ("train.accumulate_grad_batches", on.accumulate_grad_batches, on.accumulate_grad_batches == 1, "1"),
        ("train.compile", on.compile, not on.compile, "false"),
        ("train.activation_checkpointing", on.activation_checkpointing, not on.activation_checkpointing, "false"),
    ]
    for key, found, fits, wanted in expected:
        if not fits:
            raise UserError(f"params.yaml: {key}: got {found}, expected {wanted} (train.privacy.epsilon is set)")


def check_not_private(privacy: dict[str, float] | None, stage: str) -> None:
    """Refuse to train a variant of a private model on the same images without privacy.

    Args:
        privacy: of the model, see ``Mechanism.facts``.

    Raises:
        UserError: the model is private.
    """
    if privacy:
        raise UserError(
            f"params.yaml: variants.{stage}: got a variant of a private model (epsilon {privacy['epsilon']}), "
            "expected none, as it would be trained on the same images without privacy"
        )


def private_optimizer(optimizer: Optimizer, how: Mechanism) -> Optimizer:
    """Return ``optimizer`` with DP-SGD steps: clipped gradients and noise. The loss is a sum over images."""
    import torch
    from opacus.optimizers import DPOptimizer

    device = optimizer.param_groups[0]["params"][0].device
    private: Optimizer = DPOptimizer(
        optimizer,
        noise_multiplier=how.noise_multiplier,
        max_grad_norm=how.clip_norm,
        expected_batch_size=how.images * how.sample_rate,
        generator=torch.Generator(device).manual_seed(secrets.randbits(63)),
    )
    return private


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence warnings that do not apply: the PRV accountant starts from an RDP bound, whose warning on how to tighten
    it does not matter here, and the input images need no gradient."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Optimal order")
        warnings.filterwarnings("ignore", category=RuntimeWarning)  # overflows while that bound is computed
        warnings.filterwarnings("ignore", message="Full backward hook is firing")
        yield


@contextmanager
def per_image_gradients(net: nn.Module) -> Iterator[None]:
    """Inside the block, backward passes of a loss that is a sum over images keep each image's gradient."""
    from opacus.grad_sample.grad_sample_module import GradSampleHooks

    hooks = GradSampleHooks(net, loss_reduction="sum")
    try:
        with _quiet():
            yield
    finally:
        hooks.cleanup()
