"""Where a training that may be killed keeps its checkpoint: an ignored folder, named by all that it depends on."""

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

_FOLDER = Path(".isoflop") / "resume"


@contextmanager
def resumable(images: TrainingImages, *facts: Any) -> Iterator[Path]:
    """A checkpoint folder keyed by the data, this package's code and ``facts``; removed when the training is through.

    What was killed is taken up only by the same training: an edit of a parameter, an image or the code starts anew.
    """
    folder = _FOLDER / _key(images, facts)
    if (folder / "last.ckpt").exists() and is_first_process():
        print(f"taking up the training that was cut off ({folder / 'last.ckpt'})", flush=True)
    yield folder
    if is_first_process():
        shutil.rmtree(folder, ignore_errors=True)


def _key(images: TrainingImages, facts: tuple[Any, ...]) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in (images.split.images, images.split.labels, images.views, images.indices):
        digest.update(np.ascontiguousarray(part).data if part.size else b"")
    for file in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(file.read_bytes())
    digest.update(json.dumps(facts, default=str).encode())
    return digest.hexdigest()
