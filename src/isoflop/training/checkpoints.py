"""Checkpoints that a kill cannot cut short, and in which damage is noticed.

Lightning moves a finished file from the folder for temporary files, which is a copy where that is another file system.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning_fabric.plugins import TorchCheckpointIO

from isoflop.runtime.files import file_sha256, sync, write_atomically


class VerifiedCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint next to its place, and its SHA-256 to ``NAME.sha256``, before the file is renamed."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        file = Path(path)
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_name(f".{file.name}.partial{os.getpid()}")
        try:
            torch.save(checkpoint, partial)
            sync(partial)
            # both: a kill may come before the rename
            known = [_sums(file).read_text().split("\n")[0]] if _sums(file).is_file() else []
            write_atomically(_sums(file), "\n".join([file_sha256(partial), *known]))
            os.replace(partial, file)
            sync(file.parent)
        finally:
            partial.unlink(missing_ok=True)


def is_intact(file: Path) -> bool:
    """Return whether a checkpoint is there as it was written."""
    try:
        return file_sha256(file) in _sums(file).read_text().split("\n")
    except (OSError, UnicodeDecodeError):
        return False


def _sums(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")
