"""The how-tos work: their code is extracted from the page and run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from isoflop.inference.prediction import Prediction, open_model, predict
from isoflop.runtime.stage_code import checkout, code_of_stage
from tests.conftest import commit, copy_project, run_command
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
    assert file in code_of_stage("train", checkout(project)), "an edit of it would not train again"
    run_command("dvc", "repro", "quantize@pruned", cwd=project)
    assert (project / "onnx" / "pruned-int8.onnx").is_file()


def test_a_compression_method_is_added_as_the_page_says(tmp_path: Path) -> None:
    """Its stage runs and writes what the page shows."""
    page = (DOCS / "howto" / "add-a-compression-method.md").read_text()
    project = copy_project(tmp_path / "isoflop")
    *modules, field = blocks(page, "python")
    files = re.findall(r"A new file `([^`]+)`:", page)
    for file, module in zip(files, modules, strict=True):
        (project / file).write_text(module)
    stage, added = blocks(page, "yaml")
    insert(project / "dvc.yaml", r"^artifacts:", stage + "\n")
    insert(project / "src" / "isoflop" / "compression" / "variants.py", r"^    candidates: ", field)
    values, params = yaml.safe_load(added), yaml.safe_load((project / "params.yaml").read_text())
    variants = params["variants"] | values.pop("variants")
    (project / "params.yaml").write_text(yaml.safe_dump(params | values | {"variants": variants}, sort_keys=False))
    commit(project, "a method")
    (block,) = blocks(page, "console")
    run_block(block, project, PYTHONPATH=str(project / "src"))


def insert(file: Path, before: str, text: str) -> None:
    """Insert ``text`` before the first line that matches ``before``."""
    content = file.read_text()
    found = re.search(before, content, flags=re.MULTILINE)
    assert found, f"{file.name}: no {before}"
    file.write_text(content[: found.start()] + text + content[found.start() :])


def test_the_model_is_served_as_the_page_says(smoke: Path, tmp_path: Path) -> None:
    (script,) = blocks((DOCS / "howto" / "serve.md").read_text(), "python")
    (tmp_path / "serve.py").write_text(script)
    picture, model = tmp_path / "digit.png", smoke / "ship" / "model.onnx"
    Image.fromarray(np.load(smoke / "data" / "prepared" / "test" / "images.npy")[0, ..., 0]).save(picture)
    printed = run_command(sys.executable, "serve.py", str(model), str(picture), cwd=tmp_path).stdout.split()
    (predicted,) = predict(open_model(model), [picture])
    assert isinstance(predicted, Prediction)
    ((name, probability),) = predicted.top
    assert printed[0] == name
    assert abs(float(printed[1]) - probability) < 1e-5
