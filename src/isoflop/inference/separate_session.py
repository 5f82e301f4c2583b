"""An ONNX Runtime session in a child process with limits, for models of strangers.

A graph may loop for ever or ask for any amount of memory, inside of ONNX Runtime, where Python handles no interrupt.
The caller waits for the child, so it can always be interrupted, and a child that dies is one line.

``python -m isoflop.inference.separate_session`` is the child. It exchanges lines of JSON, and arrays in NumPy's format,
over its stdin and stdout; nothing is unpickled.
"""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from types import SimpleNamespace
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from isoflop.inference.onnx_files import open_session, reason
from isoflop.runtime.limits import confine

_MOST_S = 300.0  # to open a model, or to run a batch
Arrays = list[npt.NDArray[Any]]


class ModelError(Exception):
    """The model cannot be opened or run; the message is one line."""


class SeparateSession:
    """Has what ``OnnxClassifier`` needs of an ``onnxruntime.InferenceSession``.

    Raises:
        ModelError: ONNX Runtime refuses the model, or the child ended or took longer than the limit.
    """

    def __init__(self, content: bytes, threads: int, limit_s: float = _MOST_S) -> None:
        self._limit_s = limit_s
        self._child = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self._end = weakref.finalize(self, _kill, self._child)
        told, _ = self._ask({"bytes": len(content), "threads": threads}, content=content)
        self._inputs = [SimpleNamespace(**item) for item in told["inputs"]]
        self._outputs = [SimpleNamespace(**item) for item in told["outputs"]]
        self._metadata: dict[str, str] = told["metadata"]

    def get_inputs(self) -> list[SimpleNamespace]:
        return self._inputs

    def get_outputs(self) -> list[SimpleNamespace]:
        return self._outputs

    def get_modelmeta(self) -> SimpleNamespace:
        return SimpleNamespace(custom_metadata_map=self._metadata)

    def run(self, names: Sequence[str] | None, feed: dict[str, npt.NDArray[Any]]) -> Arrays:
        wanted = list(names) if names else [item.name for item in self._outputs]
        return self._ask({"outputs": wanted, "inputs": list(feed)}, arrays=list(feed.values()))[1]

    def close(self) -> None:
        """End the child."""
        self._end()

    def _ask(
        self, question: dict[str, Any], *, content: bytes = b"", arrays: Arrays | None = None
    ) -> tuple[Any, Arrays]:
        assert self._child.stdin and self._child.stdout
        timer = threading.Timer(self._limit_s, self._child.kill)
        timer.daemon = True
        timer.start()
        try:
            _send(self._child.stdin, question, arrays or [], content)
            answer, found = _receive(self._child.stdout)
        except (OSError, EOFError, ValueError):
            raise ModelError(self._why_it_ended(not timer.is_alive())) from None
        finally:
            timer.cancel()
        if "error" in answer:
            raise ModelError(str(answer["error"]))
        return answer, found

    def _why_it_ended(self, timed_out: bool) -> str:
        self._end()
        if timed_out:
            return f"it did not finish within {self._limit_s:.0f} s"
        return f"its process ended with status {self._child.wait()}, probably for lack of memory"


def _kill(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):  # what was still buffered for the child
            if pipe:
                pipe.close()


def _send(stream: IO[bytes], facts: dict[str, Any], arrays: Arrays, content: bytes = b"") -> None:
    packed = [io.BytesIO() for _ in arrays]
    for target, array in zip(packed, arrays, strict=True):
        np.save(target, array, allow_pickle=False)
    sizes = [target.tell() for target in packed]
    stream.write(json.dumps(facts | {"arrays": sizes}).encode() + b"\n" + content)
    for target in packed:
        stream.write(target.getbuffer())
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], Arrays]:
    line = stream.readline()
    if not line:
        raise EOFError
    facts = json.loads(line)
    return facts, [np.load(io.BytesIO(stream.read(size)), allow_pickle=False) for size in facts["arrays"]]


def _serve(source: IO[bytes], target: IO[bytes]) -> None:
    facts = json.loads(source.readline())
    try:
        session = open_session(source.read(facts["bytes"]), facts["threads"])
        described = {
            "inputs": [{"name": item.name, "type": item.type, "shape": item.shape} for item in session.get_inputs()],
            "outputs": [{"name": item.name, "type": item.type, "shape": item.shape} for item in session.get_outputs()],
            "metadata": dict(session.get_modelmeta().custom_metadata_map),
        }
    except Exception as error:  # ONNX Runtime's exceptions have no narrower common base
        _send(target, {"error": reason(error)}, [])
        return
    _send(target, described, [])
    while True:
        try:
            question, arrays = _receive(source)
        except EOFError:
            return
        try:
            found = session.run(question["outputs"], dict(zip(question["inputs"], arrays, strict=True)))
            _send(target, {}, [np.asarray(array) for array in found])
        except Exception as error:
            _send(target, {"error": reason(error)}, [])


if __name__ == "__main__":
    confine()
    _serve(sys.stdin.buffer, sys.stdout.buffer)
