"""The code in the model card and in serve.md answers as `isoflop predict` does, whatever the shape of a picture."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from isoflop.inference.prediction import Prediction, open_model, predict
from isoflop.shipping.model_card import model_card
from tests.conftest import run_command
from tests.exports import write_model
from tests.pages import DOCS, blocks

CLASSES = ["top left", "top right", "bottom left", "bottom right"]
ORIENTATION = 0x0112  # the EXIF tag


def pictures(folder: Path) -> list[Path]:
    """A landscape, a portrait, a landscape that EXIF turns to a portrait, and a square, each brightest elsewhere."""
    folder.mkdir()
    ramp = np.linspace(0, 1, 60)
    landscape = np.stack(
        [np.outer(ramp[:40], ramp), np.outer(ramp[:40][::-1], ramp**2), np.outer(ramp[:40] ** 2, ramp)], -1
    )
    upright = Image.fromarray((255 * landscape).astype(np.uint8))
    turned = Image.Exif()
    turned[ORIENTATION] = 6
    for name, image, exif in (
        ("landscape.jpg", upright, None),
        ("portrait.jpg", upright.transpose(Image.Transpose.ROTATE_90), None),
        ("rotated.jpg", upright.transpose(Image.Transpose.FLIP_LEFT_RIGHT), turned),
        ("square.png", upright.crop((10, 0, 50, 40)), None),
    ):
        image.save(folder / name, exif=exif or Image.Exif())
    return sorted(folder.iterdir())


def card(model: Path, channels: int) -> str:
    scores: dict[str, Any] = {"accuracy": 0.9, "nll": 0.1, "parameters": 1, "macs": 1, "bytes": 1, "gzip_bytes": 1,
                              "agreement": 1.0, "balanced_accuracy": 0.9, "macro_f1": 0.9, "lowest_recall": 0.8,
                              "lowest_recall_class": CLASSES[0]}  # fmt: skip
    conditions = {"onnxruntime": "1", "cpu": "Some CPU", "cores": 1, "flags": "avx2", "load_average": 0.1}
    counts = {"source": 10, "train": 6, "val": 2, "test": 2}
    data = {"classes": CLASSES, "num_classes": 4, "channels": channels, "image_size": 2, "resize": "crop",
            "images": counts, "dropped": {"total": 0}}  # fmt: skip
    return model_card(
        "base", "the only one", {"base": scores}, {"base": {}, "conditions": conditions}, data, "images", model
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("resize", ["crop", "pad", "stretch"])
def test_the_snippets_answer_as_predict_does(tmp_path: Path, resize: str, channels: int) -> None:
    model = write_model(tmp_path / "model.onnx", CLASSES, channels, resize)
    (snippet,) = re.findall(r"```python\n(.*?)```", card(model, channels), re.DOTALL)
    (page,) = blocks((DOCS / "howto" / "serve.md").read_text(), "python")
    # of each script one process for all pictures, as starting one takes a second
    loop = "import sys, runpy\nfor picture in sys.argv[2:]:\n    sys.argv[1:] = {}\n    runpy.run_path({!r})\n"
    snippet = snippet.replace('"picture.png"', "__import__('sys').argv[1]")
    scripts = {"card.py": (snippet, "[picture]"), "page.py": (page, "['model.onnx', picture]")}
    files = pictures(tmp_path / "pictures")
    expected = [one.top[0] for one in predict(open_model(model), files) if isinstance(one, Prediction)]
    assert len(expected) == 4 and len({name for name, _ in expected}) > 1
    for name, (script, arguments) in scripts.items():
        (tmp_path / name).write_text(script)
        (tmp_path / f"all-{name}").write_text(loop.format(arguments, name))
        lines = run_command(sys.executable, f"all-{name}", "-", *map(str, files), cwd=tmp_path).stdout.splitlines()
        answers = [(line.rpartition(" ")[0], float(line.rpartition(" ")[2])) for line in lines]
        assert [best for best, _ in answers] == [best for best, _ in expected]
        assert [number for _, number in answers] == pytest.approx([number for _, number in expected], abs=1e-6)
