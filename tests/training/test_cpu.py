"""The CPU's model and instruction sets are read from /proc/cpuinfo."""

from __future__ import annotations

from pathlib import Path

import pytest

from isoflop.training import cpu


@pytest.mark.parametrize(
    ("text", "bf16"),
    [
        ("model name\t: EPYC\nflags\t\t: avx2 avx512f avx512_bf16\n", True),
        ("model name\t: EPYC\nflags\t\t: avx2 avx512f\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd i8mm bf16\n", True),
        ("processor\t: 0\nFeatures\t: fp asimd\n", False),
        (None, False),
    ],
)
def test_bf16_on_x86_on_arm_and_where_nobody_tells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, bf16: bool
) -> None:
    monkeypatch.setattr(cpu, "_CPUINFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert cpu.computes_in_bf16() == bf16
    assert cpu.processor()[0]
