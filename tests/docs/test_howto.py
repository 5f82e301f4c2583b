"""The how-tos do what they say: their code is taken off the page and run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from isoflop.inference.prediction import Prediction, open_model, predict
from tests.conftest import copy_project, run_command
from tests.pages import DOCS, blocks, run_block


def test_a_family_is_added_as_the_page_says(tmp_path: Path) -> None:
    """It trains, and is pruned, exported and quantized."""
    page = (DOCS / "howto" / "model-family.md").read_text()
    project = copy_project(tmp_path / "isoflop")
    (file,) = re.findall(r"A new file `([^`]+)`:", page)
    (module,) = blocks(page, "python")
    (project / file).write_text(module)
    for change in blocks(page, "diff"):
        subprocess.run(["git", "apply", "-"], cwd=project, input=change, text=True, check=True)
    (block,) = blocks(page, "console")
    run_block(block, project, PYTHONPATH=str(project / "src"))
    assert file in (project / "dvc.yaml").read_text(), "not a dependency of what trains it"
    run_command("dvc", "repro", "quantize@pruned", cwd=project)
    assert (project / "onnx" / "pruned-int8.onnx").is_file()


def test_the_model_is_served_as_the_page_says(smoke: Path, tmp_path: Path) -> None:
    (script,) = blocks((DOCS / "howto" / "serve.md").read_text(), "python")
    (tmp_path / "serve.py").write_text(script)
    picture, model = tmp_path / "digit.png", smoke / "ship" / "model.onnx"
    Image.fromarray(np.load(smoke / "data" / "prepared" / "test" / "images.npy")[0, ..., 0]).save(picture)
    said = run_command(sys.executable, "serve.py", str(model), str(picture), cwd=tmp_path).stdout.split()
    (predicted,) = predict(open_model(model), [picture])
    assert isinstance(predicted, Prediction)
    ((name, probability),) = predicted.top
    assert said[0] == name
    assert abs(float(said[1]) - probability) < 1e-5
