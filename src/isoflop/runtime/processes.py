"""Which of the processes that train one network together this one is."""

from __future__ import annotations

import os

_RANKS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")  # of Lightning, torchrun and Slurm


def process_name() -> str:
    """A name that no other process of this training has; empty for the first, which is the one that writes."""
    ranks = {name: os.environ.get(name, "0") for name in _RANKS}
    return "-".join(f"{name.lower()}{rank}" for name, rank in ranks.items() if rank != "0")


def is_first_process() -> bool:
    """Whether this is the process that writes."""
    return process_name() == ""
