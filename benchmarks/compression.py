"""One base, compressed by ONNX Runtime's default quantization, by default torch-pruning, and by isoflop.

``python -m benchmarks.compression [--project .] [--pruned pruned]`` reads a project after ``dvc repro`` and prints a
table: accuracy on the test split minus the base's (paired, 95 % interval), bytes, and the speed-up over the base at
batch size 1 on one thread. All files are timed in turns in one run.

- ``quantize_static``: onnxruntime.quantization with its defaults, calibrated on the same images as isoflop's;
- ``torch-pruning``: BasePruner with group norms and its defaults, without rounding; it removes the same share of
  channels as the variant ``--pruned`` and is fine-tuned for as many epochs, with the same rate and seed;
- ``isoflop``: ship/model.onnx; and each variant of the pipeline.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from isoflop.compression.calibration import calibration_images, silence
from isoflop.data.arrays import Split, read_split, read_views
from isoflop.data.loading import all_images
from isoflop.evaluation.paired import paired
from isoflop.evaluation.scores import accuracy
from isoflop.inference.benchmarking import speedup_interval, time_in_turns
from isoflop.inference.onnx_export import export
from isoflop.inference.onnx_files import INPUT, open_classifier, open_session, outputs_of, read_graph
from isoflop.models.model_files import Model, load_model
from isoflop.runtime.params import Section, key, load_params
from isoflop.training.cpu import processor
from isoflop.training.fitting import fit
from stages.prune import Params

_REPEATS, _WARMUP = 500, 50


class Settings(Section):
    calibration_images: int = key("quantize.calibration_images")
    opset: int = key("export.opset")


class Batches:
    """The calibration images, as quantize_static reads them."""

    def __init__(self, images: Any) -> None:
        self._batches = iter([{INPUT: images[start : start + 32]} for start in range(0, len(images), 32)])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def quantized_by_default(source: Path, train: Split, count: int, target: Path) -> None:
    from onnxruntime.quantization import quantize_static

    with silence():
        quantize_static(str(source), str(target), Batches(calibration_images(train.images, train.labels, count)))


def pruned_by_default(
    base: Model, params: Params, opset: int, ratio: float, train: Split, views: Any, val: Split, target: Path
) -> None:
    import torch_pruning

    net, built = deepcopy(base.net), base.architecture
    example = torch.zeros(1, built.channels, built.image_size, built.image_size)
    torch_pruning.pruner.BasePruner(
        net,
        example,
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        ignored_layers=[net.get_submodule("head")],
    ).step()
    recipe, prune = params.recipe, params.prune
    rate = prune.learning_rate_factor * recipe.learning_rate
    tuning = recipe.model_copy(update={"epochs": prune.epochs, "learning_rate": rate, "progressive_resizing": [1.0]})
    fit(net, all_images(train, views), val, tuning, width=built.width, seed=prune.seed)
    export(replace(base, net=net), "torch-pruning", target, opset)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", type=Path, default=Path())
    parser.add_argument("--pruned", default="pruned", metavar="NAME")
    options = parser.parse_args()
    project = options.project
    params = load_params(Params, project / "params.yaml", options.pruned)
    settings = load_params(Settings, project / "params.yaml")
    train, val, test = (read_split(project / "data" / "prepared" / name) for name in ("train", "val", "test"))
    files = {file.stem: file for file in sorted((project / "onnx").glob("*.onnx"))}
    with tempfile.TemporaryDirectory() as scratch:
        by_default = {name: Path(scratch) / f"{name}.onnx" for name in ("quantize_static", "torch-pruning")}
        quantized_by_default(files["base"], train, settings.calibration_images, by_default["quantize_static"])
        base = load_model(project / "models" / "base")
        ratio = json.loads((project / "metrics" / f"prune-{options.pruned}.json").read_text())["channel_ratio"]
        views = read_views(project / "data" / "augmented")
        pruned_by_default(base, params, settings.opset, ratio, train, views, val, by_default["torch-pruning"])
        compared = {"base": files.pop("base"), **by_default, "isoflop": project / "ship" / "model.onnx", **files}
        print(f"{processor()[0]}, torch {torch.__version__}, {len(test)} test images")
        show(compared, test)


def show(files: dict[str, Path], test: Split) -> None:
    sessions = [open_session(str(file), threads=1) for file in files.values()]
    times = time_in_turns(sessions, {INPUT: np.array(test.images[:1])}, _REPEATS, _WARMUP)
    graph_io = open_classifier(files["base"]).graph_io  # quantize_static drops the metadata of the others
    logits = {name: outputs_of(read_graph(file), graph_io, test.images) for name, file in files.items()}
    print(f"{'':16} {'accuracy':>9} {'against base, pp':>24} {'kB':>8} {'ms':>8} {'speed-up':>22}")
    for (name, file), times_TR in zip(files.items(), times, strict=True):
        change = paired(logits["base"], logits[name], test.labels)
        low, high = speedup_interval(times[0], times_TR)
        against = f"{100 * change.difference:+.2f} ({100 * change.low:+.2f} to {100 * change.high:+.2f})"
        faster = f"{np.median(times[0]) / np.median(times_TR):.2f} ({low:.2f} to {high:.2f})"
        kilobytes, middle = file.stat().st_size / 1e3, np.median(times_TR)
        share = accuracy(logits[name], test.labels)
        print(f"{name:16} {share:9.2%} {against:>24} {kilobytes:8.1f} {middle:8.4f} {faster:>22}")


if __name__ == "__main__":
    main()
