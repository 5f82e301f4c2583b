"""Write the demo folder: the page, the model with its metadata, test images, and ONNX Runtime Web."""

from __future__ import annotations

import hashlib
import shutil
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image
from pydantic import Field

from isoflop.data.arrays import Images, Labels, Split
from isoflop.demo.onnxruntime_web import FILES, SCRIPT, VERSION, WASM
from isoflop.inference.onnx_files import OnnxClassifier, open_classifier, read_graph
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section

if TYPE_CHECKING:
    from onnx import ModelProto

PAGE, SUMS = "index.html", "SHA256SUMS"
_RUNTIME = "onnxruntime-web"  # subfolder of the demo
_LOOKED_AT = 200  # test images that show whether the data are drawings
_THIN = 0.75  # share of the ink that is near the background


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
        "precision": precision(read_graph(model)),
        "drawings": are_drawings(test.images[:_LOOKED_AT]),
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


def precision(graph: ModelProto) -> str:
    """Return INT8, FP16 or FP32: the type of the weights that a model computes with."""
    types = {weight.data_type for weight in graph.graph.initializer}
    int8, float16 = 3, 10  # of TensorProto.DataType
    quantized = any("QuantizeLinear" in node.op_type or "Integer" in node.op_type for node in graph.graph.node)
    return "INT8" if quantized or int8 in types else "FP16" if float16 in types else "FP32"


def are_drawings(images_NHWC: Images) -> bool:
    """Return whether the images are strokes on an empty background: gray, mostly background, and thin.

    Only for them does the page offer a pad to draw on.
    """
    from scipy.ndimage import binary_dilation

    if images_NHWC.shape[3] != 1 or not len(images_NHWC):
        return False
    gray_NHW = images_NHWC[..., 0].astype(int)
    background = float(np.median(gray_NHW))
    if 0.1 * 255 < background < 0.9 * 255:
        return False
    ink_NHW = np.abs(gray_NHW - background) > 0.25 * 255
    reach = max(1, ink_NHW.shape[1] // 8)  # half the width of a thick stroke
    around = np.ones((1, 2 * reach + 1, 2 * reach + 1), bool)
    near_NHW = binary_dilation(~ink_NHW, around)
    return bool(near_NHW[ink_NHW].mean() > _THIN) if ink_NHW.any() else False


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
