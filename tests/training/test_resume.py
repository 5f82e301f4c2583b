"""A variant's training that is killed between two epochs resumes and ends with the same bytes."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from isoflop.compression.method import make_variant
from isoflop.compression.qat import Qat, qat
from isoflop.compression.sparsity import Sparsify, sparsify
from isoflop.data.arrays import TrainingData
from isoflop.data.loading import all_images
from isoflop.models.model_files import Model
from isoflop.runtime.stage_code import checkout
from isoflop.training import resume
from isoflop.training.lightning_module import Training
from tests.conftest import ROOT
from tests.networks import digits_architecture, digits_split, fresh_net, no_views, recipe


@pytest.mark.parametrize("stage", ["qat", "sparsify"])
@pytest.mark.parametrize("family", ["resnet", "vit"])
def test_a_killed_fine_tuning_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, family: str) -> None:
    monkeypatch.chdir(tmp_path)
    train, val = digits_split(tmp_path / "train", 0, 600), digits_split(tmp_path / "val", 600, 800)
    begun: list[int] = []  # epochs
    killed_in: int | None = None
    starts = Training.on_train_epoch_start

    def counted(training: Training) -> None:
        if training.current_epoch == killed_in:
            raise ConnectionAbortedError
        begun.append(training.current_epoch)
        starts(training)

    def run(name: str) -> bytes:
        base = Model(fresh_net(family), digits_architecture(family), train.input_spec)
        out = {"folder": tmp_path / name, "metrics": tmp_path / f"{name}.json"}
        if stage == "qat":
            params = Qat(epochs=3, learning_rate=0.003, seed=0)
            make_variant(qat, base, recipe(), params, TrainingData(train, no_views(train), val), **out)
        else:
            sparse = Sparsify(pattern="magnitude", ratio=0.5, epochs=3, learning_rate=0.003, seed=0)
            make_variant(sparsify, base, recipe(), sparse, TrainingData(train, no_views(train), val), **out)
        return (tmp_path / name / "weights.safetensors").read_bytes() + (tmp_path / f"{name}.json").read_bytes()

    monkeypatch.setattr(Training, "on_train_epoch_start", counted)
    whole = run("whole")
    assert begun == [0, 1, 2]
    killed_in = 1
    with pytest.raises(ConnectionAbortedError):
        run("killed")
    assert not (tmp_path / "killed").exists()
    killed_in = None
    begun.clear()
    assert run("again") == whole
    assert begun == [1, 2]
    assert not list(tmp_path.glob(".isoflop/resume/*"))


@pytest.mark.parametrize(
    ("running", "deciding", "other"),
    [
        ("stages.qat", "src/isoflop/compression/qat.py", "src/isoflop/report/page.py"),
        ("stages.qat", "stages/qat.py", "stages/train.py"),
        (None, "src/isoflop/training/losses.py", "src/isoflop/compression/qat.py"),
    ],
)
def test_only_an_edit_of_the_code_that_runs_discards_a_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, running: str | None, deciding: str, other: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("src", "stages"):
        shutil.copytree(ROOT / folder, folder)
    monkeypatch.setattr(resume, "installed", lambda: checkout(tmp_path))
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", running and SimpleNamespace(name=running))
    train = digits_split(tmp_path / "train", 0, 60)

    def folder_after(edited: str | None) -> Path:
        if edited:
            (tmp_path / edited).write_text((tmp_path / edited).read_text() + "\n# edited\n")
        with resume.resumable(all_images(train, no_views(train)), "test") as folder:
            return folder

    first = folder_after(None)
    assert folder_after(other) == first
    assert folder_after(deciding) != first
