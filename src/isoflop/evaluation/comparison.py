"""Comparison of the ONNX files: accuracy, size, agreement with the network in torch, and changes against the base.

Latency is measured elsewhere, by ``inference.benchmarking``.
"""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from isoflop.data.arrays import Labels, Split, read_split
from isoflop.evaluation.paired import class_changes, paired
from isoflop.evaluation.scores import (
    accuracy,
    balanced_accuracy,
    class_recalls,
    expected_calibration_error,
    macro_f1,
    mean_nll,
    reliability,
)
from isoflop.inference.onnx_files import Floats, OnnxClassifier, cores, open_classifier
from isoflop.models.model_files import Model, load_model
from isoflop.runtime.errors import UserError
from isoflop.runtime.progress import tracked

_WORST_CLASSES = 5
_ECE_BINS = 15  # as in Guo et al. 2017


@dataclass(frozen=True)
class _Reference:
    """The trained network of a variant: its costs and its logits in torch."""

    parameters: int
    macs: int
    test_logits_NK: Floats


Blocks = dict[str, dict[str, Any]]


def compare(
    val: Path, test: Path, models: Sequence[Path], onnx: Sequence[Path]
) -> tuple[Blocks, Split, dict[str, Labels]]:
    """Measure every file of ``onnx``; the first one is the base.

    Returns the blocks of ``metrics/variants.json`` by file stem, the test split, and the predicted classes [N] of each
    file for the test images.

    In a block, ``network`` is the model that the file was exported from. ``ship`` chooses by ``val_accuracy`` or
    ``val_balanced_accuracy``, and ``val_nll``; the scores on the test split are only reported. ``parameters`` and
    ``macs`` are those of the network, also for a quantized file. All blocks but the base's have ``against_base``,
    measured on the test images: ``paired.Paired``, and in ``worst_classes`` the change in recall of the five classes
    that lost most.

    Args:
        models: model folders, each named as the ``variant`` in the metadata of the files exported from it.

    Raises:
        UserError: a file or folder is unreadable, or a file was exported from none of ``models`` or for other data.
    """
    splits = {"val": read_split(val), "test": read_split(test)}
    for name, split in splits.items():
        if not len(split):
            raise UserError(f"compare: got no {name} images, expected at least one to measure the accuracy on")
    references = {folder.name: _reference(load_model(folder), splits["test"]) for folder in models}
    blocks: Blocks = {}
    predictions: dict[str, Labels] = {}
    base_NK: Floats | None = None
    for file in tracked(onnx, "measuring accuracy", "files"):
        classifier = open_classifier(file, threads=cores())
        if classifier.variant not in references:
            known = ", ".join(sorted(references))
            raise UserError(f"{file}: got variant {classifier.variant!r} in its metadata, expected one of {known}")
        _check_same_data(classifier, splits["test"], file)
        logits_NK = classifier.logits(splits["test"].images)
        block = _facts(file, classifier, logits_NK, references[classifier.variant], splits)
        blocks[file.stem] = (
            block if base_NK is None else block | {"against_base": _changes(base_NK, logits_NK, splits["test"])}
        )
        predictions[file.stem] = logits_NK.argmax(1)
        base_NK = logits_NK if base_NK is None else base_NK
    return blocks, splits["test"], predictions


def _reference(model: Model, test: Split) -> _Reference:
    from isoflop.inference.onnx_export import torch_logits
    from isoflop.models.costs import count_macs, count_parameters

    macs = count_macs(model.net, model.architecture)
    return _Reference(count_parameters(model.net), macs, torch_logits(model, test.images))


def _changes(base_NK: Floats, logits_NK: Floats, test: Split) -> dict[str, Any]:
    changes = class_changes(base_NK, logits_NK, test.labels, test.input_spec.classes)
    worst = [(name, round(change, 6)) for name, change in changes.items() if change < 0]
    facts = {name: round(value, 6) for name, value in asdict(paired(base_NK, logits_NK, test.labels)).items()}
    return facts | {"worst_classes": dict(worst[:_WORST_CLASSES])}


def _facts(
    file: Path, classifier: OnnxClassifier, logits_NK: Floats, reference: _Reference, splits: dict[str, Split]
) -> dict[str, Any]:
    test, val = splits["test"], splits["val"]
    val_logits_NK = classifier.logits(val.images)
    content = file.read_bytes()
    recalls_K = class_recalls(logits_NK, test.labels)
    worst = int(np.nanargmin(recalls_K))
    agrees_N = logits_NK.argmax(1) == reference.test_logits_NK.argmax(1)
    return {
        "network": classifier.variant,
        "accuracy": round(accuracy(logits_NK, test.labels), 6),
        "balanced_accuracy": round(balanced_accuracy(logits_NK, test.labels), 6),
        "macro_f1": round(macro_f1(logits_NK, test.labels), 6),
        "lowest_recall": round(float(recalls_K[worst]), 6),
        "lowest_recall_class": test.input_spec.classes[worst],
        "nll": round(mean_nll(logits_NK, test.labels), 6),
        "ece": round(expected_calibration_error(reliability(logits_NK.astype(np.float64), test.labels, _ECE_BINS)), 6),
        "val_accuracy": round(accuracy(val_logits_NK, val.labels), 6),
        "val_balanced_accuracy": round(balanced_accuracy(val_logits_NK, val.labels), 6),
        "val_nll": round(mean_nll(val_logits_NK, val.labels), 6),
        "parameters": reference.parameters,
        "macs": reference.macs,
        "bytes": len(content),
        "gzip_bytes": len(gzip.compress(content, 9, mtime=0)),
        "agreement": round(float(agrees_N.mean()), 6),
        "max_logit_difference": round(float(np.abs(logits_NK - reference.test_logits_NK).max()), 6),
    }


def _check_same_data(classifier: OnnxClassifier, split: Split, file: Path) -> None:
    expected = (split.image_size, split.channels, split.input_spec.classes)
    found = (classifier.image_size, classifier.channels, classifier.classes)
    if found != expected:
        sides = [
            f"{size}x{size} images with {channels} channels and {len(names)} classes"
            for size, channels, names in (found, expected)
        ]
        raise UserError(f"{file}: got a model for {sides[0]}, expected one for the data: {sides[1]}")
