"""`isoflop serve` over real sockets: the answers of `isoflop predict`, batches, limits and health."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from isoflop.cli import main as cli
from isoflop.inference import http_service
from isoflop.inference.http_service import Limits, open_service
from isoflop.inference.onnx_files import OnnxClassifier
from isoflop.inference.prediction import open_model, scores_of
from tests.conftest import ROOT, run_command
from tests.exports import write_model
from tests.pictures import QUARTERS


def picture(brightest: int) -> bytes:
    pixels = np.zeros((2, 2), np.uint8)
    pixels.ravel()[brightest] = 255
    content = io.BytesIO()
    Image.fromarray(pixels).resize((40, 40), Image.Resampling.NEAREST).save(content, "PNG")
    return content.getvalue()


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> OnnxClassifier:
    return open_model(write_model(tmp_path_factory.mktemp("served") / "model.onnx", QUARTERS))


@pytest.fixture(scope="module")
def server(classifier: OnnxClassifier) -> Iterator[ThreadingHTTPServer]:
    with open_service(classifier, "127.0.0.1", 0, Limits(body_bytes=100_000, images=5)) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield opened
        opened.shutdown()


def ask(
    server: ThreadingHTTPServer, method: str, path: str, body: bytes | None = None, **headers: str
) -> tuple[int, dict[str, Any]]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=60)
    connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
    response = connection.getresponse()
    found = json.loads(response.read())
    connection.close()
    return response.status, found


def form(*parts: tuple[str, bytes]) -> tuple[bytes, str]:
    body = b"".join(
        b'--edge\r\nContent-Disposition: form-data; name="image"; filename="'
        + name.encode()
        + b'"\r\n\r\n'
        + content
        + b"\r\n"
        for name, content in parts
    )
    return body + b"--edge--\r\n", "multipart/form-data; boundary=edge"


def test_health_describes_the_model(server: ThreadingHTTPServer) -> None:
    status, found = ask(server, "GET", "/health")
    assert status == 200 and found["status"] == "ok" and found["classes"] == QUARTERS


def test_it_answers_as_predict_does(
    server: ThreadingHTTPServer, classifier: OnnxClassifier, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (30, 50, 3), np.uint8)
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[0x0112] = 6  # rotated by a quarter
    image.save(tmp_path / "photo.jpg", exif=exif)
    assert cli.main(["predict", str(classifier.file), str(tmp_path / "photo.jpg"), "--json", "--top", "4"]) == 0
    expected = json.loads(capsys.readouterr().out)["predictions"][0]["top"]
    status, found = ask(server, "POST", "/predict?top=4", (tmp_path / "photo.jpg").read_bytes())
    assert status == 200 and found["predictions"] == [{"image": "image", "top": expected}]


def test_a_form_of_several_images_names_them_and_those_that_fail(server: ThreadingHTTPServer) -> None:
    body, kind = form(("a.png", picture(0)), ("broken.png", b"none"), ("c.png", picture(3)))
    status, found = ask(server, "POST", "/predict", body, Content_Type=kind)
    assert status == 200
    assert [(one["image"], one["top"][0]["class"]) for one in found["predictions"]] == [
        ("a.png", "top left"), ("c.png", "bottom right"),
    ]  # fmt: skip
    assert [one["image"] for one in found["failed"]] == ["broken.png"]


def test_requests_at_the_same_time_are_answered_and_share_batches(
    server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    real = scores_of
    go = threading.Event()

    def counted(classifier: OnnxClassifier, pixels_BHWC: Any) -> Any:
        sizes.append(len(pixels_BHWC))
        go.wait(20)
        return real(classifier, pixels_BHWC)

    monkeypatch.setattr("isoflop.inference.batching.scores_of", counted)
    with ThreadPoolExecutor(12) as pool:
        waiting = [pool.submit(ask, server, "POST", "/predict", picture(number % 4)) for number in range(12)]
        threading.Timer(1.0, go.set).start()
        answers = [one.result() for one in waiting]
    assert [found["predictions"][0]["top"][0]["class"] for _, found in answers] == [QUARTERS[n % 4] for n in range(12)]
    assert sum(sizes) == 12 and len(sizes) < 12


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "said"),
    [
        ("GET", "/", None, {}, 404, "expected GET /health or POST /predict"),
        ("POST", "/else", b"x", {}, 404, "expected GET /health"),
        ("POST", "/predict", b"no image", {}, 422, "not a readable image"),
        ("POST", "/predict", b"", {}, 400, "got 0 images"),
        ("POST", "/predict?top=x", b"x", {}, 400, "top: got 'x'"),
        ("POST", "/predict?top=-1", b"x", {}, 400, "top: got '-1'"),
        ("POST", f"/predict?top=00000001{'9' * 5000}", b"x", {}, 400, "top: got '00000001"),
        ("POST", "/predict", b"x" * 100_001, {}, 413, "got 100001 bytes, expected at most 100000"),
        ("POST", "/predict", None, {"Content_Length": "9" * 30}, 413, "expected at most 100000"),
        ("POST", "/predict", None, {"Content_Length": "-1"}, 411, "expected a Content-Length"),
        ("POST", "/predict", b"x", {"Host": "evil.example"}, 403, "only answers requests for 127.0.0.1"),
        ("GET", "/health", None, {"Host": "evil.example"}, 403, "only answers requests for 127.0.0.1"),
        ("POST", "/predict", *form(*[("a.png", picture(0))] * 6)[:1], {"Content_Type": form()[1]}, 413, "got 6 images"),
        ("POST", "/predict", b"--edge", {"Content_Type": form()[1]}, 400, "got 0 images"),
    ],
)
def test_limits_and_mistakes_are_answered_in_json(
    server: ThreadingHTTPServer,
    method: str,
    path: str,
    body: bytes | None,
    headers: dict[str, str],
    status: int,
    said: str,
) -> None:
    found_status, found = ask(server, method, path, body, **headers)
    assert found_status == status and said in json.dumps(found)
    assert ask(server, "GET", "/health")[0] == 200


def test_bytes_after_a_request_are_not_a_second_request(server: ThreadingHTTPServer) -> None:
    """A proxy that reads the headers in another way would give its answer to somebody else."""
    for framing in (b"Content-Length: 9\r\n", b"Content-Length : 40\r\n", b"X: a\rContent-Length: 1\r\n", b""):
        with socket.create_connection(server.server_address[:2], timeout=60) as client:  # type: ignore[arg-type]
            client.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n" + framing + b"\r\n")
            with contextlib.suppress(ConnectionError):
                client.sendall(b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx")
            answers = b""
            with contextlib.suppress(ConnectionError):
                while more := client.recv(65536):
                    answers += more
        assert answers.count(b"HTTP/1.1 ") <= 1


def test_a_slow_client_loses_its_connection(server: ThreadingHTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_service, "_REQUEST_S", 0.2)
    with socket.create_connection(server.server_address[:2], timeout=60) as client:  # type: ignore[arg-type]
        with contextlib.suppress(ConnectionError):
            for character in b"GET /health HTTP/1.1\r\nX: " + bytes(b"a" * 100):
                client.sendall(bytes([character]))
                time.sleep(0.01)
        with contextlib.suppress(ConnectionError):
            assert client.recv(100) == b""


@pytest.mark.parametrize(
    "head", [b"Content-Disposition: form-data; filename=" + b"(" * 5000, b"Content-Type: " + b"(" * 5000]
)
def test_a_form_that_the_parser_cannot_read_is_answered(server: ThreadingHTTPServer, head: bytes) -> None:
    form = b"--b\r\n" + head + b"\r\n\r\nx\r\n--b--\r\n"
    status, told = ask(server, "POST", "/predict", form, Content_Type="multipart/form-data; boundary=b")
    assert status == 400 and "malformed" in told["error"]


def test_a_full_queue_and_a_dead_model_are_refused(classifier: OnnxClassifier) -> None:
    with open_service(classifier, "127.0.0.1", 0, Limits(100_000, 5, waiting=1)) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        body, kind = form(*[("a.png", picture(0))] * 5)
        statuses = {ask(opened, "POST", "/predict", body, Content_Type=kind)[0] for _ in range(3)}
        assert 503 in statuses
        opened.shutdown()
    dead = open_model(classifier.file)
    dead.session.close()
    with open_service(dead, "127.0.0.1", 0, Limits(100_000, 5)) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        assert ask(opened, "POST", "/predict", picture(0))[0] == 500
        status, found = ask(opened, "GET", "/health")
        assert status == 503 and found["status"] == "failed"
        opened.shutdown()


@pytest.mark.parametrize("ends_by", [signal.SIGINT, signal.SIGTERM])
def test_the_command_serves_until_it_is_stopped_and_imports_no_torch(
    classifier: OnnxClassifier, ends_by: signal.Signals
) -> None:
    """The container of docker/serve.Dockerfile has only the packages that are imported here."""
    heavy = "torch scipy sklearn dvc pytorch_lightning albumentations requests matplotlib"
    watch = f"import sys, atexit\nheavy = {heavy.split()}\n"
    watch += "atexit.register(lambda: print([name for name in heavy if name in sys.modules]))\n"
    watch += "from isoflop.cli.main import main\n"
    watch += f"sys.exit(main(['serve', {str(classifier.file)!r}, '--port', '0']))"
    process = subprocess.Popen([sys.executable, "-c", watch], stdout=subprocess.PIPE, text=True,
                               preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    assert process.stdout
    line = process.stdout.readline()
    port = int(line.partition("http://127.0.0.1:")[2].partition("/")[0])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/predict", picture(2))
    assert json.loads(connection.getresponse().read())["predictions"][0]["top"][0]["class"] == "bottom left"
    connection.close()
    process.send_signal(ends_by)
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130 and rest.strip() == "[]"


def test_a_port_in_use_is_one_line(classifier: OnnxClassifier, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["serve", str(classifier.file), "--port", str(port)]) == 1
    assert f"--port: got 127.0.0.1:{port}, expected an address that is free" in capsys.readouterr().err


def docker_works() -> bool:
    return (
        shutil.which("docker") is not None and subprocess.run(["docker", "info"], capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not docker_works(), reason="there is no docker")
def test_the_dockerfile_builds_a_container_that_answers(classifier: OnnxClassifier, tmp_path: Path) -> None:
    for name in ("src", "stages", "presets", "docker"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("requirements.lock", "pyproject.toml", "README.md", "LICENSE", "dvc.yaml", ".gitignore", ".dvcignore"):
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / ".dvc" / "plots", tmp_path / ".dvc" / "plots")
    (tmp_path / "ship").mkdir()
    shutil.copy(classifier.file, tmp_path / "ship" / "model.onnx")
    run_command("docker", "build", "-f", "docker/serve.Dockerfile", "-t", "isoflop-serve-test", ".", cwd=tmp_path)
    (tmp_path / "x.png").write_bytes(picture(1))
    started = ("docker", "run", "-d", "--rm", "-p", "127.0.0.1::8000", "isoflop-serve-test")
    name = run_command(*started, cwd=tmp_path).stdout.strip()
    try:
        port = run_command("docker", "port", name, "8000", cwd=tmp_path).stdout.strip().rpartition(":")[2]
        url = f"http://127.0.0.1:{port}/predict"
        line = ("curl", "-s", "--retry", "20", "--retry-all-errors", "--data-binary", "@x.png", url)
        assert "top right" in run_command(*line, cwd=tmp_path).stdout
    finally:
        run_command("docker", "stop", name, cwd=tmp_path, check=False)
