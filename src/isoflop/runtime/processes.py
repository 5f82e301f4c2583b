"""The rank of this process among those that train one network together."""

from __future__ import annotations

import os

RANKS = ("LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID")  # of Lightning, torchrun and Slurm
_LAUNCHED = (  # the other variables by which Lightning recognizes a launcher and its rank
    "RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "SLURM_NTASKS", "SLURM_NTASKS_PER_NODE", "SLURM_LOCALID",
    "SLURM_NODEID", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "TORCHELASTIC_RUN_ID",
)  # fmt: skip


def process_name() -> str:
    """Return a name unique among the processes of this training; empty for the first, which writes the outputs."""
    ranks = {name: os.environ.get(name, "0") for name in RANKS}
    return "-".join(f"{name.lower()}{rank}" for name, rank in ranks.items() if rank != "0")


def is_first_process() -> bool:
    """Return whether this process writes the outputs."""
    return process_name() == ""


def work_alone() -> None:
    """Forget the launcher that started this process, which does not share its work with others.

    A batch job of Slurm sets the variables of several tasks also without ``srun``, and a step of independent tasks
    gives each a rank. To be called before Lightning is imported, which reads them then.
    """
    for name in (*RANKS, *_LAUNCHED):
        os.environ.pop(name, None)
