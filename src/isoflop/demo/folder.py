"""The folder of the demo: the page, the model and what it says of itself, images of the test split, the runtime."""

from __future__ import annotations

import hashlib
import shutil
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image
from pydantic import Field

from isoflop.data.arrays import Labels, Split
from isoflop.demo.onnxruntime_web import FILES, SCRIPT, VERSION, WASM
from isoflop.inference.onnx_files import OnnxClassifier, open_classifier
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section

PAGE, SUMS = "index.html", "SHA256SUMS"
_RUNTIME = "onnxruntime-web"  # folder of the demo


class Demo(Section):
    """Section ``demo``. ``samples`` images of the test split are on the page to click on, evenly of all classes."""

    enabled: bool  # false: neither the page nor its runtime, which comes from npm's registry
    samples: int = Field(ge=0, le=1000)  # images of the test split on the page


def write_demo(model: Path, test: Split, runtime: Path, samples: int, folder: Path) -> None:
    """Write the new folder ``folder``; the same inputs give the same bytes.

    Raises:
        UserError: the model is not readable or was trained on other images than those of ``test``, or ``runtime``
            lacks a file of ONNX Runtime.
    """
    classifier = open_classifier(model)
    _check(classifier, test, model)
    lacking = [name for name in FILES if not (runtime / name).is_file()]
    if lacking:
        raise UserError(f"{runtime}: found no {', '.join(lacking)}; `dvc repro onnxruntime_web` brings it")
    folder.mkdir(parents=True)
    for file in sorted(Path(__file__).parent.iterdir()):
        if file.suffix in (".html", ".css", ".js"):
            shutil.copyfile(file, folder / file.name)
    shutil.copyfile(model, folder / "model.onnx")
    shutil.copytree(runtime, folder / _RUNTIME)
    shown = [_write_sample(test, index, folder) for index in choose_samples(test.labels, test.num_classes, samples)]
    facts = {
        "variant": classifier.variant,
        "classes": classifier.classes,
        "resize": classifier.resize,
        "image_size": classifier.image_size,
        "channels": classifier.channels,
        "batch": classifier.batch,
        "bytes": model.stat().st_size,
        "runtime": {"version": VERSION, "script": f"./{_RUNTIME}/{SCRIPT}", "wasm": f"./{_RUNTIME}/{WASM}"},
        "samples": shown,
    }
    write_json(folder / "demo.json", facts)
    listed = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    sums = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {name}\n" for name, file in sorted(listed.items())]
    (folder / SUMS).write_text("".join(sums))


def choose_samples(labels: Labels, num_classes: int, count: int) -> list[int]:
    """``count`` indices (all, if there are fewer), the first of every class, then the second of every class, ..."""
    by_class = [np.flatnonzero(labels == label).tolist() for label in range(num_classes)]
    in_turn = [index for turn in zip_longest(*by_class) for index in turn if index is not None]
    return in_turn[:count]


def _write_sample(test: Split, index: int, folder: Path) -> dict[str, object]:
    """A PNG of the very pixels that the network was tested with."""
    file = folder / "samples" / f"{index:05}.png"
    file.parent.mkdir(exist_ok=True)
    pixels_HWC = np.array(test.images[index])
    Image.fromarray(pixels_HWC[:, :, 0] if test.channels == 1 else pixels_HWC).save(file)
    return {"file": file.relative_to(folder).as_posix(), "index": index, "label": int(test.labels[index])}


def _check(classifier: OnnxClassifier, test: Split, model: Path) -> None:
    found = (classifier.image_size, classifier.channels, classifier.classes)
    if found != (test.image_size, test.channels, test.input_spec.classes):
        raise UserError(
            f"{model}: found a model of {found[0]} pixels, {found[1]} channels and {len(found[2])} classes, expected "
            f"one of the test split: {test.image_size}, {test.channels}, {test.num_classes} and their names"
        )
