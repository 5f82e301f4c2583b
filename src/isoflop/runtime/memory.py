"""Peak memory of this process."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path


def peak_mb(forget: bool = False) -> float:
    """Return the peak memory of this process in MB; ``forget`` first resets the peak to the current memory.

    On Linux, ``ru_maxrss`` is inherited from the parent process, so the peak is read from /proc.
    """
    status, references = Path("/proc/self/status"), Path("/proc/self/clear_refs")
    if status.exists():
        if forget:
            with contextlib.suppress(OSError):
                references.write_text("5")
        (line,) = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return float(line.split()[1]) * 1024 / 1e6
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kibibytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
