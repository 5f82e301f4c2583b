"""The demo folder and the server of `isoflop demo`; test_demo_browser.py tests the page in a browser."""

from __future__ import annotations

import http.client
import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from pathlib import Path
from urllib.request import Request, urlopen

import numpy as np
import pytest
from PIL import Image

from isoflop.cli import main as cli
from isoflop.data.arrays import read_split
from isoflop.demo.folder import choose_samples, write_demo
from isoflop.demo.onnxruntime_web import FILES
from isoflop.demo.server import address, open_server
from isoflop.runtime.errors import UserError
from tests.conftest import ROOT, run_command


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """Placeholder files with the names of the real runtime; nothing here runs them."""
    folder = tmp_path / "runtime"
    folder.mkdir()
    for name in (*FILES, "LICENSE"):
        (folder / name).write_text(name)
    return folder


@pytest.fixture
def demo(smoke: Path, tmp_path: Path, runtime: Path) -> Path:
    write_demo(smoke / "ship/model.onnx", read_split(smoke / "data/prepared/test"), runtime, 12, tmp_path / "demo")
    return tmp_path / "demo"


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with open_server(folder, 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield address(server)
        server.shutdown()


def get(url: str) -> HTTPResponse:
    response: HTTPResponse = urlopen(Request(url), timeout=10)
    return response


def test_the_folder_holds_the_model_and_the_exact_test_pixels(smoke: Path, demo: Path) -> None:
    test = read_split(smoke / "data/prepared/test")
    facts = json.loads((demo / "demo.json").read_text())
    assert (demo / "model.onnx").read_bytes() == (smoke / "ship/model.onnx").read_bytes()
    assert facts["classes"] == test.input_spec.classes and facts["image_size"] == 8 and facts["channels"] == 1
    assert len(facts["samples"]) == 12 and len({sample["label"] for sample in facts["samples"]}) == 10
    for sample in facts["samples"]:
        assert np.array_equal(np.array(Image.open(demo / sample["file"])), test.images[sample["index"]][:, :, 0])
        assert sample["label"] == test.labels[sample["index"]]
    run_command("sha256sum", "-c", "--strict", "SHA256SUMS", cwd=demo)
    assert (demo / facts["runtime"]["script"]).is_file() and (demo / facts["runtime"]["wasm"]).is_file()


def test_the_same_inputs_give_the_same_bytes(smoke: Path, demo: Path, tmp_path: Path, runtime: Path) -> None:
    write_demo(smoke / "ship/model.onnx", read_split(smoke / "data/prepared/test"), runtime, 12, tmp_path / "again")
    files = {file.relative_to(demo) for file in demo.rglob("*") if file.is_file()}
    assert files == {file.relative_to(tmp_path / "again") for file in (tmp_path / "again").rglob("*") if file.is_file()}
    assert all((demo / file).read_bytes() == (tmp_path / "again" / file).read_bytes() for file in files)


def test_the_page_names_no_other_host() -> None:
    for file in (ROOT / "src/isoflop/demo").iterdir():
        if file.suffix in (".html", ".css", ".js"):
            assert not re.search(r"\w+://\w", file.read_text()), f"{file.name}: an address"


@pytest.mark.parametrize(("count", "chosen"), [(0, []), (4, [0, 1, 4, 2]), (9, [0, 1, 4, 2, 3, 5])])
def test_samples_are_spread_over_the_classes(count: int, chosen: list[int]) -> None:
    assert choose_samples(np.array([0, 1, 0, 1, 2, 1]), 3, count) == chosen


def test_a_mismatched_model_and_an_incomplete_runtime_are_refused(smoke: Path, tmp_path: Path, runtime: Path) -> None:
    test = read_split(smoke / "data/prepared/test")
    test.input_spec.classes[0] = "another"
    with pytest.raises(UserError, match=r"model\.onnx: got 8 pixels.*expected those of the test split"):
        write_demo(smoke / "ship/model.onnx", test, runtime, 12, tmp_path / "demo")
    (runtime / FILES[1]).unlink()
    with pytest.raises(UserError, match=f"runtime: {FILES[1]} not found; fix: run `dvc repro onnxruntime_web`"):
        write_demo(smoke / "ship/model.onnx", read_split(smoke / "data/prepared/test"), runtime, 12, tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


def test_a_disabled_demo_leaves_empty_folders(smoke: Path) -> None:
    for folder in ("vendor/onnxruntime-web", "ship/demo"):
        assert (smoke / folder).is_dir() and not any((smoke / folder).iterdir())


def test_content_types(demo: Path) -> None:
    types = {
        "": "text/html; charset=utf-8",
        "demo.js": "text/javascript; charset=utf-8",
        "demo.css": "text/css; charset=utf-8",
        "demo.json": "application/json",
        f"onnxruntime-web/{FILES[0]}": "text/javascript; charset=utf-8",
        f"onnxruntime-web/{FILES[1]}": "application/wasm",
        "model.onnx": "application/octet-stream",
    }
    with served(demo) as url:
        assert url.startswith("http://127.0.0.1:")
        for name, kind in types.items():
            with get(url + name) as response:
                assert response.headers["Content-Type"] == kind and response.headers["Cache-Control"] == "no-store"
                assert response.read() == (demo / (name or "index.html")).read_bytes()


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/samples/", "127.0.0.1", 404),  # no directory listings
        ("/../runtime/LICENSE", "127.0.0.1", 404),
        ("/%2e%2e/runtime/LICENSE", "127.0.0.1", 404),
        ("/", "localhost", 200),
        ("/", "evil.example", 403),
        ("/", "[", 400),
        ("/%00", "127.0.0.1", 400),
    ],
)
def test_the_server_serves_the_folder_to_this_machine_only(demo: Path, path: str, host: str, status: int) -> None:
    with served(demo) as url:
        port = url.rstrip("/").rpartition(":")[2]
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=10)
        connection.request("GET", path, headers={"Host": f"{host}:{port}"})
        assert connection.getresponse().status == status
        connection.close()


def test_the_command_serves_until_it_is_interrupted(demo: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "isoflop.cli.main", "demo", str(demo), "--no-browser"]
    with subprocess.Popen(
        command,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job ignores SIGINT
    ) as running:
        try:
            assert running.stdout is not None
            printed = running.stdout.readline()
            url = printed.split()[1]
            with get(url) as response:
                assert b"<title>isoflop" in response.read()
            port = url.rstrip("/").rpartition(":")[2]
            again = run_command(*command, "--port", port, cwd=tmp_path, check=False)
            assert again.returncode == 1 and again.stderr.startswith(
                f"error: --port: got {port}, expected a port that is free and permitted"
            )
            assert again.stderr.count("\n") == 1
            running.send_signal(signal.SIGINT)
            assert running.wait(10) == 130
        finally:
            running.kill()  # leaving the block would wait for it


def test_without_a_demo_the_error_names_the_fix(
    smoke: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(smoke)  # its preset disables the demo
    assert cli.main(["demo", "--no-browser"]) == 1
    printed = capsys.readouterr().err
    assert (
        "error: ship/demo/index.html: not found; fix: set demo.enabled to true in params.yaml and run `dvc repro demo`"
        in printed
    )
    assert printed.count("\n") == 1
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo"]) == 1
    assert "got no dvc.yaml here" in capsys.readouterr().err
    assert cli.main(["demo", "--port", "70000"]) == 2
    assert "got '70000', expected a port from 0 to 65535" in capsys.readouterr().err
