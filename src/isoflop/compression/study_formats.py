"""What the networks of the scaling study would ship as: bytes, latency and accuracy of their float and INT8 files."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from isoflop.compression.quantization import Quantize, quantize
from isoflop.compression.variants import BASE, INT8
from isoflop.data.arrays import InputSpec, Split
from isoflop.evaluation.paired import paired
from isoflop.evaluation.scores import accuracy, probabilities
from isoflop.inference.benchmarking import Benchmark, benchmark
from isoflop.inference.onnx_export import Export, export
from isoflop.inference.onnx_files import Floats, cores, open_classifier
from isoflop.models.architecture import Architecture
from isoflop.models.model_files import Model, load_model
from isoflop.runtime.progress import tracked

_UNTRAINED = 2  # width of the untrained network, as a multiple of the study's largest
_NOISE = 0.01  # standard deviation
_LEAST = 1e-12  # probability of the true class, whose logarithm is finite


def study_formats(
    networks: Path, widths: Sequence[int], train: Split, val: Split, exported: Export, int8: Quantize, timing: Benchmark
) -> dict[str, Any]:
    """Export and quantize the network of each width, as stages ``export`` and ``quantize`` do the base, and measure it.

    Bytes and latency do not depend on the weights. Therefore a network of random weights with twice the largest width
    is measured, too: up to that width they are interpolated. The latency is that of the benchmark's headline setting,
    all files in turns.

    Args:
        networks: folders ``width-W`` that ``training.sweep`` wrote; widths without a network are left out.

    Returns:
        The content of ``scaling/formats.json``: ``conditions`` as in ``inference.benchmarking``, and in ``widths`` a
        block for each width: ``parameters``, ``macs``, blocks ``float`` and ``int8`` (``bytes``, ``latency_ms``,
        ``val_accuracy``, ``val_nll``) and ``change``, INT8 against float on the same validation images: ``accuracy``
        and ``log_nll`` with their standard errors, and ``layers_in_float``. In ``untrained`` the block of the untrained
        network: ``parameters``, ``macs``, and ``bytes`` and ``latency_ms`` of both files.

    Raises:
        UserError: a network is unreadable or cannot be converted.
    """
    found: dict[str, dict[str, Any]] = {}
    untrained: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for width in tracked(sorted(set(widths)), "exporting and quantizing the study's networks", "widths"):
            source = networks / f"width-{width}"
            if any(source.iterdir()):
                found[str(width)] = _converted(load_model(source), folder, width, train, val, exported, int8)
        conditions: dict[str, Any] = {}
        if found:
            largest = max(map(int, found))
            twice = _twice(load_model(networks / f"width-{largest}"))
            untrained = {str(twice.architecture.width): untrained_files(twice, folder, train, val, exported, int8)}
            files = [_file(folder, int(name), end) for name in (*found, *untrained) for end in ("", INT8)]
            headline = {"batch_sizes": [min(timing.batch_sizes)], "threads": [min(timing.threads)]}
            timed = benchmark(files, timing.model_copy(update=headline))
            conditions = timed["conditions"]
            for name, block in (found | untrained).items():
                for form, end in (("float", ""), ("int8", INT8)):
                    cell = timed[_file(folder, int(name), end).stem][conditions["headline"]]
                    block[form]["latency_ms"] = cell["p50_ms"]
    return {"conditions": conditions, "val_images": len(val), "widths": found, "untrained": untrained}


def discard_other_networks(networks: Path, widths: Sequence[int]) -> None:
    """Delete the networks of widths that are no longer in the study, as ``scaling.tables.runs`` does their runs."""
    for folder in set(networks.glob("width-*")) - {networks / f"width-{width}" for width in widths}:
        shutil.rmtree(folder)


def _file(folder: Path, width: int, end: str) -> Path:
    return folder / f"width-{width}{end}.onnx"


def _converted(
    model: Model, folder: Path, width: int, train: Split, val: Split, exported: Export, int8: Quantize
) -> dict[str, Any]:
    (whole, small), facts = _both_files(model, folder, width, train, val, exported, int8)
    logits = [open_classifier(file, threads=cores()).logits(val.images) for file in (whole, small)]
    nll_FN = np.stack([_nll(logits_NK, val) for logits_NK in logits])
    blocks = {
        form: {
            "bytes": file.stat().st_size,
            "val_accuracy": round(accuracy(logits_NK, val.labels), 6),
            "val_nll": round(float(nll_N.mean()), 6),
        }
        for form, file, logits_NK, nll_N in zip(("float", "int8"), (whole, small), logits, nll_FN, strict=True)
    }
    change = _change(logits[0], logits[1], nll_FN, val) | {"layers_in_float": facts["layers_in_float"]}
    return _costs(model) | blocks | {"change": change}


def untrained_files(
    model: Model, folder: Path, train: Split, val: Split, exported: Export, int8: Quantize
) -> dict[str, Any]:
    """Write ``width-W.onnx`` and ``width-W-int8.onnx`` of an untrained network, whose accuracy means nothing: all of
    its layers are in INT8. Return its block, without latency."""
    free = int8.model_copy(update={"max_accuracy_drop": 1.0, "method": "minmax"})
    files, _ = _both_files(model, folder, model.architecture.width, train, val, exported, free)
    return _costs(model) | {
        form: {"bytes": file.stat().st_size} for form, file in zip(("float", "int8"), files, strict=True)
    }


def _twice(model: Model) -> Model:
    built = replace(model.architecture, width=_UNTRAINED * model.architecture.width)
    return untrained_network(built, model.input_spec)


def untrained_network(built: Architecture, meaning: InputSpec) -> Model:
    """A network of random weights, with noise on every tensor: the exporter drops biases that are zero."""
    import torch

    from isoflop.models.families import build

    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        net = build(built).eval()
        for tensor in (*net.parameters(), *net.buffers()):
            if tensor.is_floating_point():
                tensor += _NOISE * torch.randn_like(tensor)
    return Model(net, built, meaning)


def _both_files(
    model: Model, folder: Path, width: int, train: Split, val: Split, exported: Export, int8: Quantize
) -> tuple[tuple[Path, Path], dict[str, Any]]:
    """Write the float and the INT8 file; return them and the facts of the quantization."""
    whole, small = _file(folder, width, ""), _file(folder, width, INT8)
    export(model, BASE, whole, exported.opset, exported.dynamic_batch)  # a name of the base's length
    kept = folder / "calibration.json", folder / "metrics.json"
    return (whole, small), quantize(whole, train, val, int8, target=small, calibration=kept[0], metrics=kept[1])


def _costs(model: Model) -> dict[str, Any]:
    from isoflop.models.costs import count_macs, count_parameters

    return {"parameters": count_parameters(model.net), "macs": count_macs(model.net, model.architecture)}


def _nll(logits_NK: Floats, val: Split) -> npt.NDArray[np.float64]:
    shares_NK = probabilities(logits_NK.astype(np.float64))
    return np.asarray(-np.log(np.maximum(shares_NK[np.arange(len(val)), val.labels], _LEAST)))


def _change(float_NK: Floats, int8_NK: Floats, nll_FN: npt.NDArray[np.float64], val: Split) -> dict[str, Any]:
    """INT8 against float on the same images: accuracy, and log of the ratio of the NLLs (delta method)."""
    found = paired(float_NK, int8_NK, val.labels)
    count, (before, after) = len(val), nll_FN.mean(axis=1)
    changed = found.gained + found.lost + 1  # with half an image in each cell, as in ``paired``
    return {
        "accuracy": round(found.difference, 6),
        "accuracy_error": round(float(np.sqrt(changed - found.difference**2 * count)) / count, 6),
        "log_nll": round(float(np.log(after / before)), 6),
        "log_nll_error": round(float((nll_FN[1] / after - nll_FN[0] / before).std() / np.sqrt(count)), 6),
    }
