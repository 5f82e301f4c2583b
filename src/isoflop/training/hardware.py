"""On what a training runs: accelerator, processes and precision, in Lightning's terms."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch

from isoflop.runtime.errors import UserError
from isoflop.training.cpu import computes_in_bf16
from isoflop.training.recipe import Train


@dataclass(frozen=True)
class Hardware:
    """Where to train. The global batch and the learning rate are what the recipe says, whatever stands here."""

    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    accumulate_grad_batches: int = 1  # parts of a batch whose gradients are added up, to need less memory
    compile: bool = False
    activation_checkpointing: bool = False


def hardware(train: Train) -> Hardware:
    """What the section ``train`` says of the hardware."""
    return Hardware(**{field.name: getattr(train, field.name) for field in fields(Hardware)})


def trainer_options(on: Hardware, precision: str) -> dict[str, Any]:
    """The arguments of ``Trainer`` for this hardware, and a precision by the recipe's name.

    Raises:
        UserError: there is no such accelerator here, or too few devices.
    """
    gpus = torch.cuda.device_count()
    if on.accelerator == "gpu" and not gpus:
        raise UserError("params.yaml: train.accelerator: found 'gpu', and there is none here; expected 'auto' or 'cpu'")
    gpu = on_gpu(on)
    if gpu and isinstance(on.devices, int) and on.devices > gpus:
        raise UserError(f"params.yaml: train.devices: found {on.devices}, expected at most the {gpus} GPUs of a node")
    # left to itself, Lightning takes one process on CPUs, whatever they are asked for
    several = on.nodes > 1 or (on.devices != 1 and not (on.devices == "auto" and not gpu))
    strategy = "ddp" if on.strategy == "auto" and several else on.strategy
    return {
        "accelerator": on.accelerator,
        "devices": on.devices,
        "num_nodes": on.nodes,
        "strategy": strategy,
        "precision": lightning_precision(precision, "cuda" if gpu else "cpu"),
        "accumulate_grad_batches": on.accumulate_grad_batches,
    }


def on_gpu(on: Hardware) -> bool:
    """Whether a training on this hardware runs on a GPU."""
    return on.accelerator != "cpu" and torch.cuda.is_available()


def lightning_precision(precision: str, device: str) -> Any:
    """Lightning's name for ``recipe.precision``; ``auto`` is bf16 where the hardware computes with it, else fp32."""
    if precision == "auto":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else computes_in_bf16()
        precision = "bf16" if has_bf16 else "fp32"
    return {"bf16": "bf16-mixed", "fp32": "32-true"}[precision]
