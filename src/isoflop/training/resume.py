"""Where a training run keeps its checkpoint: a folder that git ignores, named by a digest of the inputs."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.data.loading import TrainingImages
from isoflop.runtime.processes import is_first_process
from isoflop.runtime.stage_code import code_digest, import_closure, installed, is_runtime, running_stage
from isoflop.training.checkpoints import is_intact

_FOLDER = Path(".isoflop") / "resume"


@contextmanager
def resumable(images: TrainingImages, *facts: Any) -> Iterator[Path]:
    """Yield a checkpoint folder named by the images, the running stage's code and ``facts``; remove it at the end.

    A killed training is resumed only by the same training: after an edit of a parameter, an image or the stage's code
    it starts again.
    """
    folder = _FOLDER / _key(images, facts)
    last = folder / "last.ckpt"
    if last.exists() and is_first_process():
        if is_intact(last):
            print(f"resuming the interrupted training from {last}", flush=True)
        else:
            print(f"{last}: cut short or damaged; the training starts again", flush=True)
    yield folder
    if is_first_process():
        shutil.rmtree(folder, ignore_errors=True)


def _key(images: TrainingImages, facts: tuple[Any, ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (images.split.images, images.split.labels, images.views, images.indices):
        digest.update(np.ascontiguousarray(part).data if part.size else b"")
    digest.update(_code().encode())
    digest.update(json.dumps(facts, default=str).encode())
    return digest.hexdigest()


def _code() -> str:
    """Digest of the code that the running stage imports; outside of a stage, of the code that ``fit`` imports."""
    stage, code = running_stage(), installed()
    if stage in code.stage_names():
        return code_digest(stage, code)
    digest = hashlib.sha256()
    for name, file in sorted(import_closure(code.package / "training" / "fitting.py", code).items()):
        if not is_runtime(name):
            digest.update(file.read_bytes())
    return digest.hexdigest()
