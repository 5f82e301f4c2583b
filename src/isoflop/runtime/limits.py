"""Limits of a child process that runs a model of a stranger."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path

_LEAST_BYTES = 4 << 30  # ONNX Runtime reserves address space that it never uses
_SHARE = 0.8  # of the machine's memory
_PR_SET_PDEATHSIG = 1  # of prctl(2)


def confine() -> None:
    """Limit the memory of this process, make it the first to be ended if memory runs out, and end it with its parent.

    What the system does not support is left out.
    """
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        limit = max(_LEAST_BYTES, int(_SHARE * os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")))
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        soft = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            Path("/proc/self/oom_score_adj").write_text("1000")
        with contextlib.suppress(OSError, AttributeError):
            import ctypes

            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
