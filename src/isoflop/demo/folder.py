"""Write the demo folder: the page, the model with its metadata, test images, and ONNX Runtime Web."""

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
_RUNTIME = "onnxruntime-web"  # subfolder of the demo


class Demo(Section):
    """Section ``demo``. The page shows ``samples`` test images to click on, spread evenly over the classes."""

    enabled: bool  # false: no page, and no download of ONNX Runtime Web from the npm registry
    samples: int = Field(ge=0, le=1000)  # test images on the page


def write_demo(model: Path, test: Split, runtime: Path, samples: int, folder: Path) -> None:
    """Write the new folder ``folder``. The same inputs give the same bytes.

    Args:
        runtime: folder with the files of ONNX Runtime Web.
        samples: number of test images on the page.

    Raises:
        UserError: the model is not readable or does not match ``test``, or ``runtime`` lacks a file.
    """
    classifier = open_classifier(model)
    _check(classifier, test, model)
    missing = [name for name in FILES if not (runtime / name).is_file()]
    if missing:
        raise UserError(f"{runtime}: {', '.join(missing)} not found; fix: run `dvc repro onnxruntime_web`")
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
    """Return at most ``count`` indices: the first image of each class, then the second of each class, ..."""
    by_class = [np.flatnonzero(labels == label).tolist() for label in range(num_classes)]
    in_turn = [index for turn in zip_longest(*by_class) for index in turn if index is not None]
    return in_turn[:count]


def _write_sample(test: Split, index: int, folder: Path) -> dict[str, object]:
    """Write the test image as PNG, with exactly the pixels that the model was tested on."""
    file = folder / "samples" / f"{index:05}.png"
    file.parent.mkdir(exist_ok=True)
    pixels_HWC = np.array(test.images[index])
    Image.fromarray(pixels_HWC[:, :, 0] if test.channels == 1 else pixels_HWC).save(file)
    return {"file": file.relative_to(folder).as_posix(), "index": index, "label": int(test.labels[index])}


def _check(classifier: OnnxClassifier, test: Split, model: Path) -> None:
    found = (classifier.image_size, classifier.channels, classifier.classes)
    if found != (test.image_size, test.channels, test.input_spec.classes):
        raise UserError(
            f"{model}: got {found[0]} pixels, {found[1]} channels and {len(found[2])} classes, expected those of the "
            f"test split: {test.image_size}, {test.channels} and {test.num_classes}, with the same class names"
        )
