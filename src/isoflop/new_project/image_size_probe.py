"""Choose the image size by measurement: short trainings at a few sizes, validation accuracy against latency.

``probe.json`` in the project keeps what was measured; ``isoflop init`` and ``isoflop probe`` write it.
"""

from __future__ import annotations

import contextlib
import io
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from isoflop.data.cleaning import Prepare
from isoflop.data.readers import RawDataset, RawImage, read_raw
from isoflop.download.pretrained import NONE
from isoflop.download.sources import Data, download
from isoflop.models.architecture import ModelParams, architecture
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.training.recipe import Recipe

if TYPE_CHECKING:
    from isoflop.data.arrays import Split

PROBE = "probe.json"
WIDTH = 8  # of the networks: they are compared with each other, not used
_STEPS = 300  # of a training
_VAL_FRACTION = 0.4  # of the images outside of the test split: more than in the pipeline, as the sizes are close
_MOST_IMAGES = 1500
_LARGER = (0.5, 1.0, 1.5, 2.0)  # candidates, as multiples of a size
_REPEATS, _WARMUP = 50, 5  # of the latency


@dataclass(frozen=True)
class Size:
    """One image size: accuracy and NLL on the validation images, and the latency of the float network, batch 1."""

    image_size: int
    val_accuracy: float
    val_nll: float
    latency_ms: float
    seconds: float  # of preparation and training
    losses: npt.NDArray[np.float64] = field(repr=False, default_factory=lambda: np.zeros(0))  # NLL of each image

    @property
    def facts(self) -> dict[str, float]:
        return {name: round(value, 6) for name, value in asdict(self).items() if name != "losses"}


def candidate_sizes(size: int, shorter_side: int, step: int) -> list[int]:
    """Return the sizes to probe around ``size``: multiples of ``step``, at most the median shorter side."""
    sizes = {max(step, round(factor * size / step) * step) for factor in _LARGER}
    return sorted(one for one in sizes | {size} if one <= max(size, shorter_side))


def probe_image_sizes(params: Mapping[str, Any], sizes: Sequence[int], seconds: float) -> list[Size]:
    """Train a small network at each of ``sizes``, on at most 1,500 images; return the results by ascending size.

    ``prepare.image_size`` comes first, then larger sizes. A size that would exceed the time is left out: its time is
    predicted from that of the size before.

    Args:
        params: content of params.yaml; ``data.path`` is relative to the working directory.
        seconds: time for all sizes.

    Raises:
        UserError: the images cannot be read, or the network does not suit a size.
    """
    if (source := params["model"]["pretrained"]) != NONE:
        raise UserError(
            f"params.yaml: model.pretrained: got {source}, expected none: the probe trains from random weights, and a "
            "checkpoint has an image size of its own"
        )
    began, found = time.monotonic(), list[Size]()
    with tempfile.TemporaryDirectory(prefix="isoflop-probe-") as scratch, contextlib.redirect_stdout(io.StringIO()):
        raw = Path("data") / "raw"
        if not raw.is_dir():
            raw = Path(scratch) / "raw"
            download(Data.model_validate(params["data"]), raw)
        images = _sampled(read_raw(raw))
        now = params["prepare"]["image_size"]
        for size in sorted(sizes, key=lambda size: (size != now, size < now, size)):
            expected = found[0].seconds * (size / found[0].image_size) ** 2 if found else 0.0
            if not found or time.monotonic() - began + expected <= seconds:
                found.append(_probe(images, params, size, Path(scratch) / str(size)))
    return sorted(found, key=lambda one: one.image_size)


def chosen_size(found: Sequence[Size]) -> Size:
    """Return the smallest size whose validation NLL is within one standard error of the lowest.

    The standard error is that of the paired difference over the validation images (the one-standard-error rule of
    Breiman et al. 1984).
    """
    best = min(found, key=lambda one: one.val_nll)
    return next(one for one in found if one is best or _is_as_good(one, best))


def write_probe(found: Sequence[Size], chosen: Size, file: Path) -> None:
    """Write probe.json: the sizes with their measurements, the choice and its conditions."""
    conditions = {"width": WIDTH, "steps": _STEPS, "val_images": len(chosen.losses)}
    write_json(file, {"chosen": chosen.image_size, **conditions, "sizes": [one.facts for one in found]})


def probe_lines(found: Sequence[Size], chosen: Size) -> list[str]:
    """Return the measurements as aligned lines, the chosen size marked."""
    lines = [f"{'pixels':>6} {'accuracy':>9} {'NLL':>7} {'latency':>10}"]
    for one in found:
        mark = "  chosen" if one is chosen else ""
        latency = f"{one.latency_ms:.3g} ms"
        lines.append(f"{one.image_size:6} {100 * one.val_accuracy:7.1f} % {one.val_nll:7.3f} {latency:>10}{mark}")
    conditions = f"{len(chosen.losses)} validation images; width {WIDTH}, {_STEPS} steps, one seed; float, batch 1"
    return [*lines, f"({conditions})"]


def _is_as_good(one: Size, best: Size) -> bool:
    if len(one.losses) != len(best.losses):  # cleaning dropped other images
        return False
    differences = one.losses - best.losses
    return bool(differences.mean() <= differences.std(ddof=1) / np.sqrt(len(differences)))


@dataclass(frozen=True)
class _Sample(RawDataset):
    """Every k-th image of a raw data set."""

    every: int = 1

    def __iter__(self) -> Iterator[RawImage]:
        return islice(super().__iter__(), 0, None, self.every)

    def __len__(self) -> int:
        return -(-super().__len__() // self.every)


def _sampled(raw: RawDataset) -> RawDataset:
    return _Sample(raw.folder, raw.manifest, -(-len(raw) // _MOST_IMAGES))


def _probe(images: RawDataset, params: Mapping[str, Any], size: int, folder: Path) -> Size:
    from isoflop.data.arrays import read_split
    from isoflop.data.loading import all_images
    from isoflop.data.preparation import prepare
    from isoflop.inference.onnx_export import torch_logits
    from isoflop.models.initialization import initialized
    from isoflop.models.model_files import Model
    from isoflop.training.batches import steps_an_epoch
    from isoflop.training.fitting import fit

    began = time.monotonic()
    how = Prepare.model_validate(params["prepare"]).model_copy(
        update={"image_size": size, "val_fraction": _VAL_FRACTION}
    )
    folders = {name: folder / name for name in ("train", "val", "test")}
    names, dropped, picture = (folder / name for name in ("names.csv", "dropped.csv", "dropped.svg"))
    prepare(images, how, folders, names, dropped, picture)
    train, val = read_split(folders["train"]), read_split(folders["val"])
    model = ModelParams.model_validate(params["model"])
    built = architecture(model, min(WIDTH, params["train"]["width"]), train)
    everything = all_images(train, np.zeros((0, *train.images.shape), np.uint8))
    recipe = Recipe.model_validate(params["recipe"])
    recipe = recipe.model_copy(update={"batch_size": min(recipe.batch_size, len(everything)), "max_minutes": None})
    epochs = -(-_STEPS // steps_an_epoch(len(everything), recipe))
    net = initialized(built, everything, 0)
    fit(net, everything, val, recipe.model_copy(update={"epochs": epochs}), width=built.width, seed=0,
        validate_every=epochs, doing=f"probe of {size} pixels")  # fmt: skip
    seconds = time.monotonic() - began
    trained = Model(net, built, train.input_spec)
    logits_NK = torch_logits(trained, val.images).astype(np.float64)
    losses = np.logaddexp.reduce(logits_NK, axis=1) - logits_NK[np.arange(len(val)), val.labels]
    accuracy = float((logits_NK.argmax(1) == val.labels).mean())
    return Size(size, accuracy, float(losses.mean()), _latency_ms(trained, val), seconds, losses)


def _latency_ms(model: Any, val: Split) -> float:
    """The median latency of one image on one thread, in ms."""
    from isoflop.inference.benchmarking import time_in_turns
    from isoflop.inference.onnx_export import export
    from isoflop.inference.onnx_files import INPUT, open_session

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "probe.onnx"
        export(model, "probe", file, 20)
        session = open_session(str(file), threads=1)
    (times,) = time_in_turns([session], {INPUT: np.array(val.images[:1])}, _REPEATS, _WARMUP)
    return float(np.median(times))
