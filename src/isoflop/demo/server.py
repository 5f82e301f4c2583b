"""``isoflop demo``: serve the demo folder on the loopback interface only."""

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
    """Check that ``folder`` holds a demo.

    Raises:
        UserError: it does not.
    """
    if not (folder / "index.html").is_file():
        raise UserError(
            f"{folder / 'index.html'}: not found; fix: set demo.enabled to true in params.yaml and run `dvc repro demo`"
        )


def open_server(folder: Path, port: int) -> ThreadingHTTPServer:
    """Return a listening server for ``folder``; port 0 picks a free one.

    Raises:
        UserError: ``folder`` holds no demo, or the port is in use or not permitted.
    """
    check_demo(folder)
    try:
        return _Server((_HOST, port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise UserError(f"--port: got {port}, expected a port that is free and permitted ({error.strerror})") from None


def address(server: ThreadingHTTPServer) -> str:
    return f"http://{_HOST}:{server.server_address[1]}/"


def serve(folder: Path, port: int, *, browser: bool) -> None:
    """Serve ``folder`` until interrupted; with ``browser``, open it in the default browser.

    Raises:
        UserError: see ``open_server``.
    """
    with open_server(folder, port) as server:
        print(f"{folder}: {address(server)} (press Ctrl+C to stop)", flush=True)
        if browser and not webbrowser.open(address(server)):
            print("could not open a browser; open the address by hand", flush=True)
        server.serve_forever()


class _Server(ThreadingHTTPServer):
    def handle_error(self, request, client_address):  # type: ignore[no-untyped-def]
        if not isinstance(sys.exception(), ConnectionError):  # the browser closed the connection
            super().handle_error(request, client_address)


class _Handler(SimpleHTTPRequestHandler):
    # not from the system's MIME tables: some map .js to text/plain, which browsers refuse to run
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
        # DNS rebinding: a foreign page whose name resolves to this machine must not read the test images
        try:
            if urlsplit(f"//{self.headers.get('Host', '')}").hostname in (_HOST, "localhost"):
                return super().send_head()
            self.send_error(HTTPStatus.FORBIDDEN, "this server only answers requests for 127.0.0.1")
        except ValueError:  # malformed host, or a zero byte in the path
            self.send_error(HTTPStatus.BAD_REQUEST)
        return None

    def list_directory(self, path):  # type: ignore[no-untyped-def]
        self.send_error(HTTPStatus.NOT_FOUND)

    def end_headers(self) -> None:
        self.send_header("Cache-Control", "no-store")  # the next `dvc repro` can change the model
        self.send_header("X-Content-Type-Options", "nosniff")
        # cross-origin isolation gives the page a finer clock, which it measures latency with
        self.send_header("Cross-Origin-Opener-Policy", "same-origin")
        self.send_header("Cross-Origin-Embedder-Policy", "require-corp")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        pass
