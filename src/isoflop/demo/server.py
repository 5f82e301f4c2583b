"""``isoflop demo``: the folder of the demo, served on the loopback interface and nowhere else."""

from __future__ import annotations

import sys
import webbrowser
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from isoflop.runtime.errors import UserError

_HOST = "127.0.0.1"


def check_demo(folder: Path) -> None:
    """
    Raises:
        UserError: ``folder`` holds no demo.
    """
    if not (folder / "index.html").is_file():
        raise UserError(
            f"{folder / 'index.html'}: not found; `dvc repro demo` makes it where params.yaml has demo.enabled: true"
        )


def open_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server of ``folder`` that listens; port 0 is any free one.

    Raises:
        UserError: ``folder`` holds no demo, or the port is taken or not allowed.
    """
    check_demo(folder)
    try:
        return _Server((_HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise UserError(f"--port: found {port}, expected one to listen on ({error.strerror})") from None


def address(server: ThreadingHTTPServer) -> str:
    return f"http://{_HOST}:{server.server_address[1]}/"


def serve(folder: Path, port: int, *, browser: bool) -> None:
    """Serve ``folder`` until interrupted, and open it in the browser.

    Raises:
        UserError: as ``open_server``.
    """
    with open_server(folder, port) as server:
        print(f"{folder}: {address(server)} (Ctrl+C ends it)", flush=True)
        if browser and not webbrowser.open(address(server)):
            print("no browser could be opened here; open the address yourself", flush=True)
        server.serve_forever()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):  # type: ignore[no-untyped-def]
        if not isinstance(sys.exception(), ConnectionError):  # a browser that hears no more of it is no error
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    # those of Python come from files of the system, some of which call JavaScript text, which browsers refuse to run
    extensions_map = {  # noqa: RUF012 (as the base class has it)
        "": "application/octet-stream",
        ".css": "text/css; charset=utf-8",
        ".html": "text/html; charset=utf-8",
        ".js": "text/javascript; charset=utf-8",
        ".json": "application/json",
        ".mjs": "text/javascript; charset=utf-8",
        ".png": "image/png",
        ".wasm": "application/wasm",
    }

    def send_head(self):  # type: ignore[no-untyped-def]
        # a page elsewhere whose name is made to lead here (DNS rebinding) must not read the test images
        try:
            if urlsplit(f"//{self.headers.get('Host', '')}").hostname in (_HOST, "localhost"):
                return super().send_head()
            self.send_error(HTTPStatus.FORBIDDEN, "this server is for 127.0.0.1")
        except ValueError:  # of a host that is none, and of a path that is none: with a zero byte
            self.send_error(HTTPStatus.BAD_REQUEST)
        return None

    def list_directory(self, path):  # type: ignore[no-untyped-def]
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")  # the next `dvc repro` may have made another model
        self.send_header("X-Content-Type-Options", "nosniff")
        # isolated from other pages the browser's clock is finer, which the time per image is read from
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass
