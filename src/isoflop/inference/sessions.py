"""Measure an ONNX file's load time and peak memory, and audit its operators.

``python -m isoflop.inference.sessions FILE BATCH`` prints load time and memory of one file as JSON. Each file is
measured in a separate process, because peak memory would include models that were opened before.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.inference.audit import audit
from isoflop.inference.onnx_files import INPUT, open_classifier
from isoflop.runtime.errors import UserError
from isoflop.runtime.memory import peak_mb

_LOADS = 3


def sessions(files: Sequence[Path], batch: int) -> dict[str, dict[str, Any]]:
    """Measure and audit the ONNX files.

    Returns:
        A block for each file, named by its stem: ``load_ms`` (fastest of 3), ``peak_memory_mb`` (in addition to the
        imports, for batches of 1 and ``batch`` images on one thread), and the fields of its ``audit.Audit``.

    Raises:
        UserError: a file was not exported by isoflop, or cannot be run.
    """
    return {file.stem: _measured_alone(file, batch) | asdict(audit(file)) for file in files}


def _measured_alone(file: Path, batch: int) -> dict[str, float]:
    command = [sys.executable, "-P", "-m", "isoflop.inference.sessions", str(file), str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["no error message"]
        raise UserError(f"{file}: could not be measured in a separate process ({lines[-1][:200]})")
    return dict(json.loads(done.stdout))


def _measure(file: Path, batch: int) -> dict[str, float]:
    import onnxruntime  # noqa: F401 - before the first measurement, which must include the memory of the import

    before = peak_mb(forget=True)
    classifier = open_classifier(file)
    for count in (1, classifier.batch or batch):
        shape = (count, classifier.image_size, classifier.image_size, classifier.channels)
        classifier.session.run(None, {INPUT: np.zeros(shape, np.uint8)})
    peak = peak_mb() - before
    loads = []
    for _ in range(_LOADS):
        began = time.perf_counter()
        open_classifier(file)
        loads.append(time.perf_counter() - began)
    return {"load_ms": round(1e3 * min(loads), 2), "peak_memory_mb": round(peak, 1)}


if __name__ == "__main__":
    print(json.dumps(_measure(Path(sys.argv[1]), int(sys.argv[2]))))
