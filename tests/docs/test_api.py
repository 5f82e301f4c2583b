"""docs/api.md: its examples run in a finished project, and it documents exactly the public names."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
from PIL import Image

import isoflop
from tests.conftest import run_command
from tests.pages import DOCS, blocks

PAGE = DOCS / "api.md"


def test_the_examples_run(smoke: Path, tmp_path: Path) -> None:
    for folder in ("ship", "data/prepared/test", "scaling"):
        shutil.copytree(smoke / folder, tmp_path / folder)
    image_HW = np.load(smoke / "data" / "prepared" / "test" / "images.npy")[0, :, :, 0]
    Image.fromarray(image_HW).save(tmp_path / "digit.png")
    script = "\n".join(blocks(PAGE.read_text(), "python"))
    shown = run_command(sys.executable, "-c", script, cwd=tmp_path).stdout
    assert "missing.png: not found" in shown and "digit.png: " in shown
    accuracy = float(shown.partition("top-1 accuracy: ")[2].partition("%")[0])
    assert accuracy > 50
    assert "95 % prediction interval (" in shown and "compute-optimal for 1e10 FLOPs: " in shown


def test_every_public_name_is_there_and_documented() -> None:
    page = PAGE.read_text()
    for name in isoflop.__all__:
        assert callable(getattr(isoflop, name)), name
        assert f"`{name}" in page or f"isoflop.{name}" in page, name


def test_importing_isoflop_imports_nothing_heavy() -> None:
    code = "import sys, isoflop; print([name for name in ('numpy', 'torch', 'onnxruntime') if name in sys.modules])"
    assert run_command(sys.executable, "-c", code, cwd=DOCS).stdout.strip() == "[]"
