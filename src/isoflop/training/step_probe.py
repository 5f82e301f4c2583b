"""Time a few training steps of the real networks on synthetic images, to estimate a study before it runs.

``python -m isoflop.training.step_probe`` reads a ``Question`` as JSON from stdin and prints seconds per image and peak
memory per width. It runs in a process of its own, because peak memory would include what the caller holds.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from isoflop.runtime.errors import UserError
from isoflop.runtime.memory import peak_mb

if TYPE_CHECKING:
    from isoflop.data.loading import TrainingImages

_WARMUP, _TIMED = 2, 3  # steps


@dataclass(frozen=True)
class Question:
    """``model`` and ``recipe`` are sections of params.yaml; images are squares of ``image_size`` pixels."""

    model: dict[str, Any]
    recipe: dict[str, Any]
    image_size: int
    channels: int
    classes: int
    widths: Sequence[int]


@dataclass(frozen=True)
class Speed:
    """Training speed at one width, with the peak memory of the process in MB."""

    seconds_per_image: float
    flops_per_image: float  # of forward and backward
    memory_mb: float


def measured_speeds(question: Question) -> dict[int, Speed]:
    """Train for a few steps at each width, in a process of its own.

    Raises:
        UserError: a network cannot be trained here, for example because memory runs out.
    """
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(asdict(question)),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"the process ended with status {done.returncode}"]
        raise UserError(f"could not time training steps: {lines[-1][:300]}")
    return {int(width): Speed(**facts) for width, facts in json.loads(done.stdout.splitlines()[-1]).items()}


def _answer(question: Question) -> dict[int, Speed]:
    from isoflop.models.architecture import ModelParams, architecture
    from isoflop.models.initialization import initialized
    from isoflop.training.fitting import fit
    from isoflop.training.recipe import Recipe

    recipe = Recipe.model_validate(question.recipe | {"epochs": 1, "max_minutes": None})
    found = {}
    for width in question.widths:
        peak_mb(forget=True)
        for steps in (_WARMUP, _TIMED):
            images = _synthetic(question, steps * recipe.batch_size)
            net = initialized(architecture(ModelParams.model_validate(question.model), width, images.split), images, 0)
            fitted = fit(net, images, images.split, recipe, width=width, seed=0, validate_every=1, progress=False)
        seconds = fitted.seconds / max(1, fitted.timed_images)
        found[width] = Speed(seconds, fitted.flops_per_image, round(peak_mb(), 1))
    return found


def _synthetic(question: Question, count: int) -> TrainingImages:
    import numpy as np

    from isoflop.data.arrays import InputSpec, Split
    from isoflop.data.loading import all_images

    shape = count, question.image_size, question.image_size, question.channels
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    names, ends = [str(index) for index in range(question.classes)], [0.5] * question.channels
    split = Split(pixels, np.arange(count) % question.classes, InputSpec(names, ends, ends, "crop"))
    return all_images(split, pixels[None][:0])


if __name__ == "__main__":
    try:
        answers = _answer(Question(**json.load(sys.stdin)))
    except UserError as error:
        sys.exit(str(error))
    print(json.dumps({width: asdict(speed) for width, speed in answers.items()}))
