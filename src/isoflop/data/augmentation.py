"""Augmented views of a training split: apply the albumentations policy of params.yaml once, before any training."""

from __future__ import annotations

import difflib
import inspect
import os
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from isoflop.data.arrays import Images, Split, write_views
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import PARAMS_FILE, RandomSeed, Section
from isoflop.runtime.progress import progress

if TYPE_CHECKING:
    from albumentations import BaseCompose, BasicTransform

_CHUNK = 256  # images that share a random generator; constant, so that the bytes do not depend on the worker count
_POOL_WORTH_S = 10.0  # with less work left, starting processes (each imports albumentations) costs more than it saves
_KEY = f"{PARAMS_FILE}: augment.policy"


class Augment(Section):
    """Section ``augment``. Each item of ``policy`` is the ``name`` of an albumentations transform and its arguments."""

    views: int = Field(ge=0, le=1000)  # augmented copies of each training image; trainings draw from them; 0: none
    seed: RandomSeed  # random seed of the transforms
    policy: list[dict[str, Any]] = Field(max_length=100)  # albumentations transforms, applied in this order

    @model_validator(mode="after")
    def _views_need_a_policy(self) -> Augment:
        if self.views and not self.policy:
            raise ValueError(f"policy: got an empty list with views {self.views}, expected a transform or views 0")
        return self

    def cross_check(self, params: Mapping[str, Any], file: Path) -> list[str]:
        """Raise UserError if albumentations cannot build the policy, see ``check_policy``."""
        check_policy(self.policy)
        return []


def check_policy(policy: list[dict[str, Any]]) -> None:
    """Build every transform of ``policy``.

    Raises:
        UserError: a transform or argument is unknown (the message names the closest match), or a value is invalid.
    """
    _build_all(policy)


def write_augmented(
    train: Split, folder: Path, views: int, policy: list[dict[str, Any]], seed: int, workers: int | None = None
) -> None:
    """Write ``views`` augmented views of every image of ``train`` to ``folder``, as uint8 [K, N, H, W, C].

    The bytes do not depend on ``workers``. None starts in this process and moves to all cores if enough work is left.

    Raises:
        UserError: the policy is invalid, or a transform cannot be applied to these images, has no effect on them, or
            changes their shape or type.
    """
    transforms = _build_all(policy, always=True)
    if views and len(train):
        _try_out(transforms, np.asarray(train.images[0]))
    array = write_views(folder, (views, *train.images.shape))
    if not array.size:
        return
    assert isinstance(array, np.memmap) and isinstance(train.images, np.memmap)
    chunks = [(view, start) for view in range(views) for start in range(0, len(train), _CHUNK)]
    job = _Job(str(train.images.filename), str(array.filename), int(array.offset), policy, seed)
    del array
    with progress("augmenting", "images", views * len(train)) as task:
        for done, _ in enumerate(_run(job, chunks, workers), 1):
            task.update(views * len(train) * done / len(chunks))


@dataclass(frozen=True)
class _Job:
    """What a worker process needs to compute any chunk of views."""

    source: str
    target: str
    target_offset: int  # bytes before the first pixel
    policy: list[dict[str, Any]]
    seed: int


class _Worker:
    """Computes chunks: view ``view`` of the images ``start`` to ``start + _CHUNK``."""

    def __init__(self, job: _Job) -> None:
        import albumentations

        self._job = job
        self._images: Images = np.load(job.source, mmap_mode="r", allow_pickle=False)
        self._pipeline = albumentations.Compose(_build_all(job.policy))

    def make(self, view: int, start: int) -> None:
        seeds = np.random.SeedSequence([self._job.seed, view, start])
        self._pipeline.set_random_seed(int(seeds.generate_state(1, np.uint64)[0]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # _try_out has already reported them, once instead of per image
            chunk = np.stack([_apply(self._pipeline, image) for image in self._images[start : start + _CHUNK]])
        # write() instead of a memory map: on a full disk it raises an error, a memory map kills the process
        with open(self._job.target, "r+b") as target:
            target.seek(self._job.target_offset + (view * len(self._images) + start) * self._images[0].nbytes)
            target.write(chunk.tobytes())


def _run(job: _Job, chunks: list[tuple[int, int]], workers: int | None) -> Iterator[None]:
    done = 0
    if workers is None or workers == 1:
        worker = _Worker(job)
        began = time.monotonic()
        for chunk in chunks:
            worker.make(*chunk)
            yield
            done += 1
            left_s = (time.monotonic() - began) / done * (len(chunks) - done)
            if workers is None and left_s > _POOL_WORTH_S:
                break
    if done < len(chunks):
        # spawn, not fork: OpenCV and the progress bar run threads
        with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, (job,)) as pool:
            yield from pool.map(_run_in_worker, chunks[done:])


_worker: _Worker | None = None  # set in processes of the pool only


def _start_worker(job: _Job) -> None:
    global _worker
    _worker = _Worker(job)


def _run_in_worker(chunk: tuple[int, int]) -> None:
    assert _worker is not None
    _worker.make(*chunk)


def _apply(transform: BasicTransform | BaseCompose, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    result = _call(transform, image, _KEY)
    if not isinstance(result, np.ndarray) or result.shape != image.shape or result.dtype != np.uint8:
        raise UserError(f"{_KEY}: {_changed(image, result)}")
    return result


def _call(transform: BasicTransform | BaseCompose, image: npt.NDArray[np.uint8], where: str) -> Any:
    try:
        return transform(image=image)["image"]
    except Exception as error:  # whatever a transform raises, the policy is the cause
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{where}: cannot be applied to images {list(image.shape)}: {reason}") from None


def _changed(image: npt.NDArray[np.uint8], result: Any) -> str:
    actual = f"{getattr(result, 'dtype', type(result).__name__)}{list(getattr(result, 'shape', []))}"
    return f"got {actual} from an image {image.dtype}{list(image.shape)}, expected the same shape and type"


def _try_out(transforms: list[BasicTransform | BaseCompose], image: npt.NDArray[np.uint8]) -> None:
    """Apply each transform (probability 1) to one image; shapes may change in between if the last restores them."""
    result: Any = image
    problem = ""  # of the last transform that changes the shape or type
    for index, transform in enumerate(transforms):
        name = f"{_KEY}.{index} ({type(transform).__name__})"
        before = result
        transform.set_random_seed(0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = _call(transform, np.ascontiguousarray(before), name)
        if caught:
            raise UserError(f"{name}: has no effect on images {list(image.shape)}: {caught[0].message}")
        if getattr(result, "shape", None) != before.shape or getattr(result, "dtype", None) != before.dtype:
            problem = f"{name}: {_changed(image, result)}"
        if not isinstance(result, np.ndarray):
            break
    if not isinstance(result, np.ndarray) or result.shape != image.shape or result.dtype != image.dtype:
        raise UserError(problem)


def _build_all(policy: list[dict[str, Any]], *, always: bool = False) -> list[BasicTransform | BaseCompose]:
    return [_build(item, f"{_KEY}.{index}", always) for index, item in enumerate(policy)]


def _build(item: Any, where: str, always: bool) -> BasicTransform | BaseCompose:
    """Build the transform of one policy item; ``always`` sets every probability in it to 1."""
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise UserError(f"{where}: got {item!r}, expected a mapping with the name of a transform and its arguments")
    kinds = _transforms()
    name = item["name"]
    if name not in kinds:
        raise UserError(f"{where}.name: unknown transform {name!r}; {_nearest(name, list(kinds))}")
    known = list(inspect.signature(kinds[name]).parameters)
    arguments = {}
    for argument, value in item.items():
        if argument == "name":
            continue
        if argument not in known:
            raise UserError(f"{where}.{argument}: unknown argument of {name}; {_nearest(argument, known)}")
        if argument == "transforms" and isinstance(value, list):
            value = [_build(child, f"{where}.transforms.{index}", always) for index, child in enumerate(value)]
        arguments[argument] = _python_value(value)
    if always:
        arguments["p"] = 1.0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # recommends other transforms; arguments are checked above
            return kinds[name](**arguments)
    except Exception as error:  # ValueError from its schema; TypeError, AttributeError, … from unusual values
        raise UserError(f"{where}: invalid arguments for {name}: {_reason(error)}") from None


def _transforms() -> dict[str, type[BasicTransform | BaseCompose]]:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # or the import checks for updates over the network
    import albumentations
    import cv2

    cv2.setNumThreads(0)  # the parallelism is in processes; threads in each would compete for the same cores
    base = (albumentations.BasicTransform, albumentations.BaseCompose)
    abstract = ("BasicTransform", "BaseCompose", "DualTransform", "ImageOnlyTransform", "Transform3D", "Lambda")
    found = {}
    for name, kind in vars(albumentations).items():
        if inspect.isclass(kind) and issubclass(kind, base) and name not in abstract and "Compose" not in name:
            found[name] = kind
    return dict(sorted(found.items()))


def _python_value(value: Any) -> Any:
    """Convert YAML lists to tuples and names of OpenCV constants (INTER_AREA, BORDER_REFLECT_101) to their values."""
    if isinstance(value, list):
        return tuple(_python_value(item) for item in value)
    if isinstance(value, dict):
        return {key: _python_value(item) for key, item in value.items()}
    if isinstance(value, str) and value.startswith(("INTER_", "BORDER_")):
        import cv2

        return getattr(cv2, value, value)  # an unknown name is passed on, and the transform rejects it
    return value


def _nearest(name: str, known: list[str]) -> str:
    by_lower = {candidate.lower(): candidate for candidate in known}
    nearest = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"did you mean {by_lower[nearest[0]]!r}?" if nearest else f"expected one of {', '.join(known)}"


def _reason(error: Exception) -> str:
    # albumentations wraps pydantic's report in a ValueError: a line with the count, then pairs of location and problem
    lines = [line.strip() for line in str(error).splitlines() if "For further information" not in line]
    if len(lines) > 2 and "validation error" in lines[0]:
        return "; ".join(f"{where}: {problem}" for where, problem in zip(lines[1::2], lines[2::2], strict=False))
    return " ".join(lines) or type(error).__name__
