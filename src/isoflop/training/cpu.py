"""The CPU of this machine, as Linux reports it."""

from __future__ import annotations

import platform
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


def processor() -> tuple[str, frozenset[str]]:
    """Return the CPU's model and its instruction sets; the latter are empty if the OS does not report them."""
    try:
        lines = _CPUINFO.read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    facts = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags") or facts.get("Features") or ""  # x86, ARM
    return facts.get("model name") or platform.machine(), frozenset(flags.split())


def computes_in_bf16() -> bool:
    """Return whether the CPU multiplies in bfloat16, rather than only storing it."""
    return not processor()[1].isdisjoint({"avx512_bf16", "amx_bf16", "bf16"})
