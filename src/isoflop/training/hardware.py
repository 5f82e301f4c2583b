"""What a training runs on, in Lightning's terms: accelerator, processes, precision and memory."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment

from isoflop.runtime.errors import UserError, is_out_of_memory
from isoflop.training.cpu import computes_in_bf16
from isoflop.training.recipe import Train

_NEVER_MAP, _NEVER_TRIM, _ONE_ARENA = (-4, 0), (-1, 2**31 - 1), (-8, 1)  # options of mallopt, from glibc's malloc.h


@dataclass(frozen=True)
class Hardware:
    """Where to train. Neither the global batch size nor the learning rate depends on it."""

    accelerator: str = "auto"
    devices: int | str = 1
    nodes: int = 1
    strategy: str = "auto"
    accumulate_grad_batches: int = 1  # parts that a batch is split into, to need less memory
    compile: bool = False
    activation_checkpointing: bool = False


def hardware(train: Train) -> Hardware:
    """Return the hardware options of the section ``train``."""
    return Hardware(**{field.name: getattr(train, field.name) for field in fields(Hardware)})


def trainer_options(on: Hardware, precision: str) -> dict[str, Any]:
    """Return the arguments of Lightning's ``Trainer`` for this hardware and ``recipe.precision``.

    Raises:
        UserError: the machine has no GPU although one was asked for, or too few of them.
    """
    gpus = torch.cuda.device_count()
    if on.accelerator == "gpu" and not gpus:
        raise UserError(
            "params.yaml: train.accelerator: got 'gpu', expected 'auto' or 'cpu' on this machine, which has no GPU"
        )
    gpu = on_gpu(on)
    if gpu and isinstance(on.devices, int) and on.devices > gpus:
        raise UserError(
            f"params.yaml: train.devices: got {on.devices}, expected at most {gpus}, the number of GPUs of this machine"
        )
    # on CPUs, Lightning's own "auto" starts one process, however many devices are asked for
    several = on.nodes > 1 or (on.devices != 1 and not (on.devices == "auto" and not gpu))
    strategy = "ddp" if on.strategy == "auto" and several else on.strategy
    return {
        **({"plugins": [LightningEnvironment()]} if not _started_by_others(several) else {}),
        "accelerator": on.accelerator,
        "devices": on.devices,
        "num_nodes": on.nodes,
        "strategy": strategy,
        "precision": lightning_precision(precision, "cuda" if gpu else "cpu"),
        "accumulate_grad_batches": on.accumulate_grad_batches,
    }


def _started_by_others(several: bool) -> bool:
    """Return whether a launcher may have started the processes of a training, and Lightning is to look for it.

    A batch job of Slurm has the variables of several tasks, but only ``srun`` starts them.
    """
    starters = {"SLURM_STEP_ID", "SLURM_STEPID", "TORCHELASTIC_RUN_ID"} & os.environ.keys()
    return several and bool(starters or "SLURM_NTASKS" not in os.environ)


def on_gpu(on: Hardware) -> bool:
    """Return whether a training on this hardware runs on a GPU."""
    return on.accelerator != "cpu" and torch.cuda.is_available()


def lightning_precision(precision: str, device: str) -> Any:
    """Return Lightning's name for ``recipe.precision``; ``auto`` is bf16 if the device computes in it, else fp32.

    Args:
        device: ``cuda`` or ``cpu``.
    """
    if precision == "auto":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device == "cuda" else computes_in_bf16()
        precision = "bf16" if has_bf16 else "fp32"
    return {"bf16": "bf16-mixed", "fp32": "32-true"}[precision]


def keep_freed_memory() -> None:
    """Let this process reuse the memory that it frees, if the C library is glibc.

    By default glibc returns each large tensor to the OS and asks for new pages for the next one, which the kernel has
    to clear: a tenth of a training step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for setting in (_NEVER_MAP, _NEVER_TRIM, _ONE_ARENA):
        if mallopt:
            mallopt(*setting)


def largest_batch(step: Callable[[int], None], failed: int) -> int:
    """Return the largest of ``failed`` / 2, / 4, ... that ``step`` has memory for, with 25 % to spare; 0 if none."""
    size = failed // 2
    while size >= 2:
        gc.collect()
        try:
            step(size + size // 4)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        else:
            return size
        size //= 2
    return 0
