"""``isoflop compress``: quantize any ONNX image classifier to INT8; report changed predictions, size and latency.

The model may come from a stranger: everything that runs it does so in a child process with limits, which
``python -m isoflop.compression.foreign_models`` is.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.compression.foreign_graphs import ready_graph, total_bytes
from isoflop.compression.foreign_inputs import Foreign, PixelChoices, examine, read_images
from isoflop.compression.quantization import Quantize, quantize_graph
from isoflop.inference.audit import audit
from isoflop.inference.benchmarking import speedup_interval, time_in_turns
from isoflop.inference.foreign_io import METADATA_KEY, Floats, Inputs, matching
from isoflop.inference.onnx_files import PRODUCER, open_session, outputs_of, reason
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.runtime.limits import confine

_REPEATS, _WARMUP, _MOST_S_TO_TIME = 200, 3, 3.0
_MOST_S_TO_RUN = 300.0  # until the model has been opened and has classified its first image
_RUNS = "runs"  # the line that the child prints then


@dataclass(frozen=True)
class _Job:
    """What the child needs, as JSON."""

    model: str
    images: str
    folder: str  # to write into
    params: dict[str, Any]
    choices: dict[str, Any]


def compress(
    model: Path, images: Path, folder: Path, params: Quantize, choices: PixelChoices, *, force: bool
) -> dict[str, Any]:
    """Quantize ``model``; write model-int8.onnx, calibration.json and compress.json to ``folder``.

    Half of the images calibrate, the other half evaluate. They have no labels, so the INT8 model is compared with the
    float model: ``params.max_accuracy_drop`` is the share of predictions that may change.

    Returns:
        The content of compress.json.

    Raises:
        UserError: the model is not a classifier of square images, there are too few images, or ``folder`` is not empty
            and ``force`` is not set.
    """
    if folder.exists() and any(folder.iterdir()) and not force:
        raise UserError(f"{folder}: got a folder with files, expected an empty or new one; fix: --force")
    there = next(parent for parent in folder.absolute().parents if parent.exists())
    with tempfile.TemporaryDirectory(dir=there, prefix=f".{folder.name}-") as temporary:
        _in_child(_Job(str(model), str(images), temporary, params.model_dump(), asdict(choices)))
        facts: dict[str, Any] = json.loads((Path(temporary) / "compress.json").read_text())
        folder.mkdir(exist_ok=True, parents=True)
        for written in list(Path(temporary).iterdir()):
            shutil.move(written, folder / written.name)
    return facts


def _in_child(job: _Job) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", __name__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert child.stdin and child.stdout
    timer = threading.Timer(_MOST_S_TO_RUN, child.kill)
    timer.daemon = True
    timer.start()
    lines = []
    try:
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(json.dumps(asdict(job)))
            child.stdin.close()
        for line in child.stdout:
            if line.strip() == _RUNS:
                timer.cancel()
            lines.append(line)
        status = child.wait()
    finally:
        timed_out = not timer.is_alive() and f"{_RUNS}\n" not in lines
        timer.cancel()
        child.kill()
        child.wait()
        child.stdout.close()
    if status == 0:
        return
    found = json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}
    if "error" in found:
        raise UserError(found["error"])
    if timed_out and status < 0:
        raise UserError(f"{job.model}: did not classify an image within {_MOST_S_TO_RUN:.0f} s")
    if status < 0:
        raise UserError(f"{job.model}: its process ended with status {status}, probably for lack of memory")
    raise RuntimeError(f"compress: the child ended with status {status}; its traceback is above")


def _compress(job: _Job) -> None:
    """The child's work."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)  # fatal: warnings about the graphs of others are not for users
    model, folder = Path(job.model), Path(job.folder)
    params = Quantize.model_validate(job.params)
    graph = ready_graph(model)
    foreign = examine(graph, model, PixelChoices(**job.choices))
    images_N, skipped = read_images(Path(job.images), foreign.io, params.calibration_images)
    foreign = foreign.fitted(graph, images_N)
    print(_RUNS, flush=True)
    inputs_N = foreign.io.inputs(images_N)
    calibration_N, evaluation_N = inputs_N[::2], inputs_N[1::2]
    answers_N = foreign.io.answers(outputs_of(graph, foreign.graph_io, evaluation_N))

    def agreement(outputs_NK: Floats, expected: Inputs) -> float:
        return matching(foreign.io.answers(outputs_NK), expected)

    int8 = quantize_graph(
        graph, foreign.graph_io, calibration_N, evaluation_N, answers_N, params, called=str(model), agreement=agreement
    )
    file = folder / "model-int8.onnx"
    _describe(int8.graph, model, foreign)
    file.write_bytes(int8.graph.SerializeToString(deterministic=True))
    write_json(folder / "calibration.json", int8.calibration(len(calibration_N)))
    facts = {
        "images": {"calibrated_on": len(calibration_N), "judged_on": len(evaluation_N), "unreadable": skipped},
        "input": foreign.io.model_dump(exclude={"classes"}),
        **int8.facts(),
        "changed_predictions": (changed := round(len(evaluation_N) * (1 - int8.accuracy))),
        "flips": changed,  # the old name, until 0.3
        "bytes": {"float": total_bytes(model), "int8": file.stat().st_size},
        "latency": _latency(model, file, foreign, inputs_N),
        "audit": {"float": asdict(audit(model)), "int8": asdict(audit(file))},
        "warnings": foreign.warnings(answers_N),
    }
    write_json(folder / "compress.json", facts)


def _describe(int8: Any, model: Path, foreign: Foreign) -> None:
    """Keep the metadata of the model; a model that isoflop did not export also gets what ``predict`` needs."""
    import onnx

    metadata = {item.key: item.value for item in onnx.load(model, load_external_data=False).metadata_props}
    if metadata.get("producer") != PRODUCER:
        metadata[METADATA_KEY] = foreign.io.model_dump_json()
    onnx.helper.set_model_props(int8, metadata)


def _latency(model: Path, int8: Path, foreign: Foreign, inputs_N: Inputs) -> dict[str, float]:
    """Median latencies of both files for the smallest batch, one thread, timed in turns, and the speed-up with its 95 %
    interval."""
    sessions = [open_session(str(file), threads=1) for file in (model, int8)]
    one = replace(foreign.graph_io, batch=foreign.graph_io.batch if foreign.graph_io.is_fixed else 1)
    batch, _ = next(one.batches(inputs_N))
    feed = {foreign.graph_io.input_name: batch}
    floats, quantized = time_in_turns(sessions, feed, _REPEATS, _WARMUP, _MOST_S_TO_TIME)
    low, high = speedup_interval(floats, quantized)
    found = {"float_ms": float(np.median(floats)), "int8_ms": float(np.median(quantized)), "speedup_low": low,
             "speedup_high": high}  # fmt: skip
    found["speedup"] = found["float_ms"] / found["int8_ms"]
    return {name: round(value, 5) for name, value in found.items()} | {"batch": len(batch)}


def main() -> int:
    """Run the job on stdin; print an error as JSON. Return the exit status."""
    confine()
    job = _Job(**json.load(sys.stdin))
    try:
        _compress(job)
    except KeyboardInterrupt:
        return 130
    except UserError as error:
        message = str(error)
    except MemoryError:
        message = f"{job.model}: out of memory; fix: fewer --images, or a smaller --size"
    except Exception as error:  # of onnx, ONNX Runtime and its quantizer, on graphs that they do not expect
        message = f"{job.model}: cannot be compressed ({type(error).__name__}: {reason(error)})"
    else:
        return 0
    print(json.dumps({"error": message}))
    return 1


if __name__ == "__main__":
    sys.exit(main())
