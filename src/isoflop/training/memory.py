"""Memory of a training: kept instead of asked for anew each step, and what to do where there is too little."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

from isoflop.runtime.errors import is_out_of_memory

_NEVER_MAP, _NEVER_TRIM, _ONE_ARENA = (-4, 0), (-1, 2**31 - 1), (-8, 1)  # of glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where the C library is glibc.

    By default glibc hands each large tensor back to the system and takes fresh pages for the next one, which the kernel
    has to clear: a tenth of a training step.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for setting in (_NEVER_MAP, _NEVER_TRIM, _ONE_ARENA):
        if mallopt:
            mallopt(*setting)


def largest_batch(step: Callable[[int], None], failed: int) -> int:
    """The largest of ``failed`` / 2, / 4, ... that ``step`` has memory for, with a fourth to spare; 0 if none."""
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
