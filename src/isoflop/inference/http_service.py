"""``isoflop serve``: classify images over HTTP, with the preprocessing of the training, in batches, within limits.

``GET /health`` and ``POST /predict?top=K``; the body is an image, or a form (multipart/form-data) of several. Images of
requests that arrive together run in one batch. Everything answers in JSON.
"""

from __future__ import annotations

import email.parser
import email.policy
import io
import json
import socket
import sys
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from isoflop.data.images import decode, fit_to_square
from isoflop.inference.batching import Batches, BusyError
from isoflop.inference.onnx_files import OnnxClassifier
from isoflop.inference.prediction import Failure, outcome
from isoflop.runtime.errors import UserError

_LOCAL = ("127.0.0.1", "localhost")
_READ_S = 10.0  # that a client may take to send something
_REQUEST_S = 60.0  # that it may take to send all of a request
_CONNECTIONS = 32  # at the same time


@dataclass(frozen=True)
class Limits:
    """Largest request: bytes of its body, and images; ``waiting`` images may be queued before requests are refused."""

    body_bytes: int
    images: int
    waiting: int = 512


def open_service(classifier: OnnxClassifier, host: str, port: int, limits: Limits) -> ThreadingHTTPServer:
    """Return a listening server; port 0 picks a free one.

    Raises:
        UserError: the address is in use, not permitted or unknown.
    """
    batches = Batches(classifier, limits.waiting)

    class Handler(_Handler):
        served, allowed, host_name = batches, limits, host

    try:
        return _Server((host, port), Handler)
    except OSError as error:
        raise UserError(
            f"--port: got {host}:{port}, expected an address that is free and permitted ({error.strerror})"
        ) from None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._slots = threading.Semaphore(_CONNECTIONS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._slots.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        try:
            request.sendall(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n")
        except OSError:  # the client has gone
            return
        finally:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._slots.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | socket.timeout):  # the client closed or stalled
            super().handle_error(request, client_address)


class _Timed(io.RawIOBase):
    """Reads until a point in time: a client that sends a byte now and then must not keep its connection."""

    def __init__(self, raw: io.RawIOBase, until: float) -> None:
        self._raw, self._until = raw, until

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        if time.monotonic() > self._until:
            raise TimeoutError
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Handler(BaseHTTPRequestHandler):
    """Answers one request and closes the connection: bytes after it are never taken for another one, as they could be
    if a proxy in front read the headers in another way."""

    served: Batches
    allowed: Limits
    host_name: str
    protocol_version = "HTTP/1.1"
    timeout = _READ_S
    server_version, sys_version = "isoflop", ""

    def setup(self) -> None:
        super().setup()
        self.rfile = io.BufferedReader(_Timed(self.rfile.detach(), time.monotonic() + _REQUEST_S))

    def parse_request(self) -> bool:
        is_valid = super().parse_request()
        self.close_connection = True
        return is_valid

    def do_GET(self) -> None:
        if not self._is_meant():
            return
        if urlsplit(self.path).path != "/health":
            self._refuse(HTTPStatus.NOT_FOUND, "expected GET /health or POST /predict")
            return
        classifier, failure = self.served.classifier, self.served.failure
        facts = {
            "status": "failed" if failure else "ok",
            "model": classifier.file.name,
            "variant": classifier.variant,
            "classes": classifier.classes,
            "image_size": classifier.image_size,
            "channels": classifier.channels,
            **({"error": failure} if failure else {}),
        }
        self._answer(HTTPStatus.SERVICE_UNAVAILABLE if failure else HTTPStatus.OK, facts)

    def do_POST(self) -> None:
        if not self._is_meant():
            return
        address = urlsplit(self.path)
        top = parse_qs(address.query).get("top", ["1"])[-1]
        if address.path != "/predict":
            self._refuse(HTTPStatus.NOT_FOUND, "expected GET /health or POST /predict")
        elif not (top.isascii() and top.isdigit() and len(top) < 7 and 1 <= int(top) <= 100_000):
            self._refuse(HTTPStatus.BAD_REQUEST, f"top: got {top[:80]!r}, expected an integer of 1 or more")
        elif (body := self._body()) is not None:
            try:
                images = _images(self.headers.get("Content-Type", ""), body)
            except Exception:  # the parser of e-mails has many
                self._refuse(HTTPStatus.BAD_REQUEST, "the form is malformed")
                return
            if not 1 <= len(images) <= self.allowed.images:
                status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if images else HTTPStatus.BAD_REQUEST
                self._refuse(status, f"got {len(images)} images, expected 1 to {self.allowed.images}")
            else:
                self._predict(images, int(top))

    def _predict(self, images: list[tuple[str, bytes]], top: int) -> None:
        classifier = self.served.classifier
        failed, names, pixels = [], [], []
        for name, content in images:
            try:
                picture = decode(content, name)
            except UserError as error:
                failed.append({"image": name, "error": str(error).removeprefix(f"{name}: ")})
                continue
            names.append(name)
            pixels.append(fit_to_square(picture, classifier.image_size, classifier.channels, classifier.resize))
        try:
            found = [future.result() for future in self.served.probabilities(pixels)]
        except BusyError:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE, "too many images are waiting; try again", {"Retry-After": "1"})
            return
        except Exception as error:  # of the model
            self._refuse(HTTPStatus.INTERNAL_SERVER_ERROR, str(error))
            return
        predictions = []
        for name, probabilities_K in zip(names, found, strict=True):
            one = outcome(Path(name), probabilities_K, None, classifier, top)
            if isinstance(one, Failure):
                failed.append({"image": name, "error": one.error})
            else:
                best = [{"class": label, "probability": round(value, 6)} for label, value in one.top]
                predictions.append({"image": name, "top": best})
        status = HTTPStatus.OK if predictions else HTTPStatus.UNPROCESSABLE_ENTITY
        self._answer(status, {"predictions": predictions, "failed": failed})

    def _is_meant(self) -> bool:
        """Return whether a request to a loopback server names it: after DNS rebinding, a foreign page would not."""
        try:
            asked = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        except ValueError:
            asked = None
        if self.host_name not in _LOCAL or asked in _LOCAL:
            return True
        self._refuse(HTTPStatus.FORBIDDEN, f"this server only answers requests for {_LOCAL[0]}")
        return False

    def _body(self) -> bytes | None:
        """Return the body, or None after an answer that refuses it."""
        length = self.headers.get("Content-Length", "")
        most = self.allowed.body_bytes
        if not (length.isascii() and length.isdigit()):
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "expected a Content-Length")
        elif len(length) > 15 or int(length) > most:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"got {length[:20]} bytes, expected at most {most}")
        elif len(body := self.rfile.read(int(length))) == int(length):
            return body
        else:
            self._refuse(HTTPStatus.BAD_REQUEST, "got fewer bytes than Content-Length")
        return None

    def _refuse(self, status: HTTPStatus, why: str, headers: dict[str, str] | None = None) -> None:
        self._answer(status, {"error": why}, headers)

    def _answer(self, status: HTTPStatus, facts: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        content = json.dumps(facts).encode() + b"\n"
        self.send_response(status)
        fixed = {"Content-Type": "application/json", "Content-Length": str(len(content)), "Cache-Control": "no-store",
                 "X-Content-Type-Options": "nosniff", "Connection": "close"}  # fmt: skip
        for name, value in (fixed | (headers or {})).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


def _images(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """Return the name and the content of each image in a body."""
    if not content_type.lower().startswith("multipart/form-data"):
        return [("image", body)] if body else []
    head = f"Content-Type: {content_type}\r\nMIME-Version: 1.0\r\n\r\n".encode("latin-1", "replace")
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    found = []
    for index, part in enumerate(message.iter_parts() if message.is_multipart() else ()):
        content = part.get_payload(decode=True)
        if isinstance(content, bytes) and content:
            found.append((part.get_filename() or f"image {index}", content))
    return found
