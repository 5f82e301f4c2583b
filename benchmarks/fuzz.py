"""Fuzz every reader of untrusted files: feed it randomly damaged seeds of every format.

``python -m benchmarks.fuzz --inputs 100000`` distributes the inputs over the targets and prints for each target how
many inputs were accepted, how many were rejected with a UserError, the slowest input, and the memory growth of a
process. Any other result (another exception, a signal, too much memory or time) is a failure: it is printed with the
input's number, which reproduces it (``--target image --first N --inputs 1``), and the exit status is 1. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import multiprocessing
import resource
import socket
import sys
import tarfile
import tempfile
import threading
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from isoflop.runtime.errors import UserError

SLOWEST = 10.0  # time limit per input, seconds
MEMORY = 4 << 30  # limit of the address space in addition to the imports, bytes
_CHUNK = 500  # inputs per process; state that an input corrupts does not outlive the process

Feed = Callable[[bytes], None]


@dataclass
class Result:
    """Results of a chunk of inputs; ``failures`` are pairs of an input's number and the problem."""

    taken: int = 0
    refused: int = 0
    slowest: float = 0.0
    failures: list[tuple[int, str]] = field(default_factory=list)

    def add(self, other: Result) -> None:
        self.taken, self.refused = self.taken + other.taken, self.refused + other.refused
        self.slowest = max(self.slowest, other.slowest)
        self.failures += other.failures


def images() -> tuple[list[bytes], Feed]:
    """Small images of every format and of many modes, fed to ``decode`` and ``fit_to_square``."""
    from PIL import Image

    from isoflop.data.images import FORMATS, decode, fit_to_square

    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (12, 9, 3), np.uint8))
    seeds = []
    for file_format in FORMATS:
        for mode in ("L", "RGB", "RGBA", "P", "1", "CMYK", "I;16", "LA"):
            content = io.BytesIO()
            with contextlib.suppress(Exception):  # not every format supports every mode
                color.convert("RGB").convert(mode).save(content, file_format)
                seeds.append(content.getvalue())

    def feed(content: bytes) -> None:
        fit_to_square(decode(content, "fuzzed"), 16, 3, "pad")

    return seeds, feed


def archives() -> tuple[list[bytes], Feed]:
    """Zips and tars, plain and compressed, fed to ``archive_entries``; every entry is read to its end."""
    from isoflop.download.archives import archive_entries, naming_damage

    names = {"cats/a.png": b"\x89PNG" + bytes(300), "dogs/b b.png": b"two" * 50, "dogs/" + "long" * 60: b""}
    plain, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as zipped:
        for name, content in names.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
            zipped.writestr(name, content)
    import bz2
    import lzma

    tarred = plain.getvalue()
    seeds = [tarred, packed.getvalue(), gzip.compress(tarred), bz2.compress(tarred), lzma.compress(tarred)]
    file = Path(tempfile.mkdtemp()) / "fuzzed"

    def feed(content: bytes) -> None:
        file.write_bytes(content)
        with naming_damage(file):
            for entry in archive_entries(file):
                with entry.open() as stream:
                    while stream.read(1 << 16):
                        pass

    return seeds, feed


def surveys() -> tuple[list[bytes], Feed]:
    """Archives of images in class folders, fed to the survey and the choice of parameters of ``isoflop init``."""
    from PIL import Image

    from isoflop.new_project.image_survey import survey
    from isoflop.new_project.starting_params import starting_params
    from isoflop.project.presets import named_preset, presets_of_package

    preset = named_preset(presets_of_package(), "images").content.decode()
    seeds, pictures = [], {"png": io.BytesIO(), "gif": io.BytesIO(), "tiff": io.BytesIO(), "webp": io.BytesIO()}
    frames = [Image.new("RGB", (9, 12), (200, 10, shade)) for shade in (0, 90, 250)]
    for ending, content in pictures.items():
        frames[0].save(content, ending, **({} if ending == "png" else {"save_all": True, "append_images": frames[1:]}))
    for splits in ([""], ["train/", "val/", "test/"]):
        tarred = io.BytesIO()
        with tarfile.open(fileobj=tarred, mode="w") as tar:
            for path in (f"{split}{kind}/{index}" for split in splits for kind in "ab" for index in range(4)):
                for ending, content in pictures.items():
                    info = tarfile.TarInfo(f"{path}.{ending}")
                    info.size = len(content.getvalue())
                    tar.addfile(info, io.BytesIO(content.getvalue()))
        seeds.append(tarred.getvalue())
    file = Path(tempfile.mkdtemp()) / "fuzzed.tar"

    def feed(content: bytes) -> None:
        file.write_bytes(content)
        starting_params(preset, survey(file), file.name)

    return seeds, feed


def requests() -> tuple[list[bytes], Feed]:
    """Requests to the server of ``isoflop demo``, which must respond and must not serve files outside of the demo."""
    from isoflop.demo.server import open_server

    folder = Path(tempfile.mkdtemp())
    secret = b"a file outside of the demo"
    (folder / "secret.txt").write_bytes(secret)
    (folder / "demo").mkdir()
    (folder / "demo" / "index.html").write_text("<title>demo</title>")
    host = b"Host: 127.0.0.1:8080\r\n"
    paths = (b"/", b"/index.html", b"/../secret.txt", b"/%2e%2e/secret.txt", b"//x/..%2f..%2fsecret.txt?a#b")
    seeds = [b"GET " + path + b" HTTP/1.1\r\n" + host + b"Connection: close\r\n\r\n" for path in paths]
    seeds.append(b"HEAD / HTTP/1.0\r\nHost: [::1]:80\r\nIf-Modified-Since: Thu, 26 Nov 2026 17:00:00 GMT\r\n\r\n")

    wrong: list[str] = []
    server = open_server(folder / "demo", 0)

    def note(*_: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            wrong.append(traceback.format_exc())

    server.handle_error = note  # type: ignore[assignment, method-assign]
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def feed(content: bytes) -> None:
        answer = b""
        with (
            socket.create_connection(("127.0.0.1", server.server_port), timeout=SLOWEST) as client,
            contextlib.suppress(ConnectionError),  # the server may close the connection early
        ):
            client.sendall(content)
            client.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
        if secret in answer:
            raise AssertionError("served a file outside of the demo")
        if wrong:
            raise AssertionError(wrong.pop())

    return seeds, feed


def params() -> tuple[list[bytes], Feed]:
    """Every preset, fed to ``isoflop check``."""
    from isoflop.project.checking import check, stage_schemas

    root = Path(__file__).resolve().parents[1]
    schemas = list(stage_schemas(root).values())
    folder = Path(tempfile.mkdtemp())
    (folder / "data" / "images").mkdir(parents=True)
    file = folder / "params.yaml"

    def feed(content: bytes) -> None:
        file.write_bytes(content)
        with contextlib.chdir(folder):
            check(schemas, file)

    return [preset.read_bytes() for preset in sorted((root / "presets").glob("*.yaml"))], feed


def models() -> tuple[list[bytes], Feed]:
    """An exported network, fed to ``isoflop predict`` with a valid image."""
    from PIL import Image

    from isoflop.data.arrays import InputSpec
    from isoflop.inference.onnx_export import export
    from isoflop.inference.prediction import open_model, predict
    from isoflop.models.architecture import Architecture
    from isoflop.models.families import build
    from isoflop.models.model_files import Model

    folder = Path(tempfile.mkdtemp())
    Image.new("L", (8, 8), 200).save(folder / "good.png")
    built = Architecture(family="cnn", width=2, depth=1, heads=1, patch_size=2, dropout=0.0, image_size=8, channels=1,
                         num_classes=3, activation=None)  # fmt: skip
    export(Model(build(built).eval(), built, InputSpec(["a", "b", "c"], [0.5], [0.5], "crop")), "base",
           folder / "seed.onnx", opset=20)  # fmt: skip

    def feed(content: bytes) -> None:
        (folder / "fuzzed.onnx").write_bytes(content)
        list(predict(open_model(folder / "fuzzed.onnx"), [folder / "good.png"]))

    return [(folder / "seed.onnx").read_bytes()], feed


def tables() -> tuple[list[bytes], Feed]:
    """A table of runs, fed to the reader of ``isoflop fit``."""
    from isoflop.scaling.tables.user_tables import Columns, read_table

    rows = [f"{n},{d},{round(0.1 + 20 / n + 9 / d, 5)},{n % 3}" for n in (100, 200, 400, 800) for d in (50, 90, 200)]
    file = Path(tempfile.mkdtemp()) / "fuzzed.csv"

    def feed(content: bytes) -> None:
        file.write_bytes(content)
        read_table(file, Columns(parameters="N", samples="D", loss="loss", seed="seed"))

    return ["\n".join(["N,D,loss,seed", *rows]).encode()], feed


TARGETS: dict[str, tuple[Callable[[], tuple[list[bytes], Feed]], float]] = {  # with the share of the inputs
    "image": (images, 0.5),
    "archive": (archives, 0.25),
    "survey": (surveys, 0.05),
    "request": (requests, 0.05),
    "params": (params, 0.05),
    "model": (models, 0.05),
    "table": (tables, 0.05),
}


def damaged(seeds: list[bytes], number: int) -> bytes:
    """Return input ``number``: a seed with a few bits inverted, and bytes replaced, removed, repeated, or copied from
    another seed."""
    rng = np.random.default_rng(number)
    content = bytearray(seeds[rng.integers(len(seeds))])
    for _ in range(rng.integers(1, 9)):
        if not content:
            break
        at, length = int(rng.integers(len(content))), int(rng.integers(1, 17))
        kind = rng.integers(6)
        if kind == 0:
            content[at] ^= 1 << int(rng.integers(8))
        elif kind == 1:
            content[at : at + length] = rng.bytes(len(content[at : at + length]))
        elif kind == 2:
            content[at : at + 4] = [b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"-1e9"][rng.integers(4)]
        elif kind == 3:
            del content[at : at + length * int(rng.integers(1, 20))]
        elif kind == 4:
            content[at:at] = content[at : at + length * 4]
        else:
            other = seeds[rng.integers(len(seeds))]
            content[at : at + length] = other[at : at + length]
    return bytes(content)


def run_target(name: str, first: int, count: int) -> tuple[Result, float]:
    """Run the inputs ``first`` to ``first + count`` of a target; return the result and the largest growth of a process
    in MB."""
    total, grown = Result(), 0.0
    context = multiprocessing.get_context("fork")
    for start in range(first, first + count, _CHUNK):
        here, there = context.Pipe(duplex=False)
        size = min(_CHUNK, first + count - start)
        child = context.Process(target=_run_chunk, args=(name, start, size, there))
        child.start()
        there.close()
        part, last = Result(), start
        with contextlib.suppress(EOFError):
            while True:
                kind, value = here.recv()
                if kind == "done":
                    part, megabytes = value
                    grown = max(grown, megabytes)
                else:
                    last = value
        child.join()
        if child.exitcode:
            part.failures.append((last, f"the process exited with {child.exitcode} (negative: killed by a signal)"))
        total.add(part)
    return total, grown


def _run_chunk(name: str, first: int, count: int, pipe: multiprocessing.connection.Connection) -> None:
    seeds, feed = TARGETS[name][0]()
    with contextlib.suppress(Exception):
        feed(seeds[0])  # triggers the imports
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    virtual = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (virtual + MEMORY, -1))
    result = Result()
    for number in range(first, first + count):
        pipe.send(("at", number))
        began = time.monotonic()
        try:
            feed(damaged(seeds, number))
            result.taken += 1
        except UserError:
            result.refused += 1
        except BaseException:
            result.failures.append((number, traceback.format_exc()))
        took = time.monotonic() - began
        result.slowest = max(result.slowest, took)
        if took > SLOWEST:
            result.failures.append((number, f"took {took:.1f} s"))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    pipe.send(("done", (result, grown)))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=100_000, help="number of inputs in total (default: 100000)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: 0)")
    parser.add_argument("--target", choices=list(TARGETS), help="run only this target, with all inputs")
    options = parser.parse_args()
    shares = {options.target: 1.0} if options.target else {name: share for name, (_, share) in TARGETS.items()}
    warnings.simplefilter("ignore")
    failures = 0
    for name, share in shares.items():
        began = time.monotonic()
        result, grown = run_target(name, options.first, round(share * options.inputs))
        counts = {"inputs": result.taken + result.refused, "accepted": result.taken, "rejected": result.refused}
        limits = {"failures": len(result.failures), "slowest_s": round(result.slowest, 3), "grown_mb": round(grown)}
        print(json.dumps({"target": name} | counts | limits | {"seconds": round(time.monotonic() - began)}), flush=True)
        for number, text in result.failures[:10]:
            print(f"--target {name} --first {number} --inputs 1:\n{text}", file=sys.stderr)
        failures += len(result.failures)
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
