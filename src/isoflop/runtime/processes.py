"""The rank of this process among those that train one network together."""

from __future__ import annotations

import os

RANKS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")  # of Lightning, torchrun and Slurm


def process_name() -> str:
    """Return a name unique among the processes of this training; empty for the first, which writes the outputs."""
    ranks = {name: os.environ.get(name, "0") for name in RANKS}
    return "-".join(f"{name.lower()}{rank}" for name, rank in ranks.items() if rank != "0")


def is_first_process() -> bool:
    """Return whether this process writes the outputs."""
    return process_name() == ""
