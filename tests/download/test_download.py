"""The stages download and prepare as commands: their outputs, and failures, which print one line and leave no files."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isoflop.runtime.stage_code import checkout, code_text
from tests.conftest import ROOT, run_command
from tests.file_server import closed_port


def run_download(folder: Path, check: bool = True, **data: str) -> subprocess.CompletedProcess[str]:
    values = {"source": "images", "path": "data/images", "url": "null", "sha256": "null"} | data
    lines = "".join(f"  {name}: {value}\n" for name, value in values.items())
    (folder / "params.yaml").write_text(f"data:\n{lines}")
    (folder / "code.yaml").write_text(code_text(checkout(ROOT)))
    return run_command(
        sys.executable, "-m", "stages.download", "--raw", "data/raw", cwd=folder, check=check,
        PYTHONPATH=str(ROOT), NO_PROXY="127.0.0.1", ISOFLOP_MIRROR="",
    )  # fmt: skip


def photos(folder: Path, count: int = 12) -> None:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        for number in range(count):
            file = folder / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)).save(file)


OUTPUTS = ("train", "val", "test", "dropped", "names", "dropped-picture", "metrics")


def prepared(folder: Path, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run the stage ``prepare`` on ``data/raw``, with what the stage ``weights`` writes for no pretrained weights."""
    (folder / "weights.json").write_text('{"source": "none"}')
    options = [word for name in OUTPUTS for word in (f"--{name}", f"out/{name}")]
    command = [sys.executable, "-m", "stages.prepare", "--raw", "data/raw", "--pretrained", "weights.json", *options]
    return run_command(*command, cwd=folder, check=check, PYTHONPATH=str(ROOT))


def test_a_folder_of_photos_is_downloaded_and_prepared(tmp_path: Path) -> None:
    photos(tmp_path / "data/images")
    (tmp_path / "data/images/README.md").write_text("Put your own images here")
    (tmp_path / "data/images/cat/broken.jpg").write_bytes(b"no picture")
    done = run_download(tmp_path)
    assert done.stderr == ""
    text = (ROOT / "params.yaml").read_text()
    (tmp_path / "params.yaml").write_text(text.replace("min_images_per_class: 10", "min_images_per_class: 5"))
    prepared(tmp_path)
    facts = json.loads((tmp_path / "out/metrics").read_text())
    assert facts["classes"] == ["cat", "dog"]
    assert facts["images"]["source"] == 25 and facts["dropped"]["undecodable"] == 1
    assert "cat/broken.jpg,undecodable" in (tmp_path / "out/dropped").read_text()


def test_one_class_is_for_prepare_to_refuse(tmp_path: Path) -> None:
    photos(tmp_path / "data/images/only")
    (tmp_path / "data/images/only/dog").rename(tmp_path / "elsewhere")
    run_download(tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    done = prepared(tmp_path, check=False)
    assert done.returncode == 1
    assert done.stderr == "error: prepare: data: got 1 classes (cat), expected at least two\n"


def hostile(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cat/1.png", b"fine")
        archive.writestr("../../evil.png", b"evil")


def test_failures_are_one_line_and_leave_the_old_output(tmp_path: Path) -> None:
    photos(tmp_path / "data/images")
    run_download(tmp_path)
    before = {path.name: path.read_bytes() for path in (tmp_path / "data/raw").iterdir()}
    hostile(tmp_path / "evil.zip")
    cases = {
        "got no/such, which does not exist, expected a folder, zip or tar": {"path": "no/such"},
        "got a path that leads out of the archive": {"path": "evil.zip"},
        "could not be downloaded: Connection refused": {"url": f"{closed_port()}/a.zip", "sha256": f"'{'0' * 64}'"},
        "expected 'digits', 'cifar10'": {"source": "imagenet"},
        "data.sha256: got None (null), expected the SHA-256": {"url": "http://127.0.0.1/a.zip"},
    }
    for message, data in cases.items():
        done = run_download(tmp_path, check=False, **data)
        assert done.returncode == 1 and message in done.stderr
        assert done.stderr.startswith("error: download: ") and done.stderr.count("\n") == 1
        after = {path.name: path.read_bytes() for path in (tmp_path / "data/raw").iterdir()}
        assert after == before and len(list((tmp_path / "data").iterdir())) == 2
    assert not list(tmp_path.rglob("evil.png"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 256 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    try:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a small tmpfs takes root")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_line_and_leaves_nothing(small_disk: Path, tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("cat/1.png", bytes(500_000))
    (tmp_path / "big.zip").write_bytes(stream.getvalue())
    done = run_download(small_disk, check=False, path=str(tmp_path / "big.zip"))
    assert done.returncode == 1
    assert done.stderr == "error: download: data/raw: the disk is full; fix: free some space and rerun the command\n"
    assert list((small_disk / "data").iterdir()) == []
