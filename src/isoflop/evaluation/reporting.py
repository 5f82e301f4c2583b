"""The files that the stage evaluate writes: metrics, tables, pictures."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from isoflop.data.arrays import Labels, Split
from isoflop.evaluation import plots as figures
from isoflop.evaluation.occlusion import predictor
from isoflop.evaluation.scores import (
    Evaluate,
    accuracy,
    predict_logits,
    probabilities,
    reliability,
    scores,
    worst_mistakes,
)
from isoflop.runtime.files import write_json

if TYPE_CHECKING:
    from torch import nn


class Evaluated:
    """The logits of a network on the test split, and the files made from them.

    Args:
        names: file name of each test image.
    """

    def __init__(self, net: nn.Module, test: Split, names: Sequence[str], params: Evaluate) -> None:
        self._net, self._test, self._names, self._params = net, test, names, params
        self._logits_NK = predict_logits(net, test)
        self._mirrored_NK = predict_logits(net, test, mirrored=True) if params.test_time_flips else None
        self._bins = reliability(self._logits_NK, test.labels, params.ece_bins)

    def write_metrics(self, metrics: Path, reliability_table: Path, per_class: Path) -> None:
        """Write the metrics (JSON), the bins of the reliability diagram and the scores per class (CSV)."""
        classes, labels_N = self._test.input_spec.classes, self._test.labels
        facts = scores(self._logits_NK, labels_N, classes, self._params.ece_bins)
        if self._mirrored_NK is not None:  # in addition to the plain accuracy: it takes twice the time
            facts["accuracy_with_flips"] = round(accuracy(self._logits_NK + self._mirrored_NK, labels_N), 6)
        write_json(metrics, facts)
        bins = ((round(found.confidence, 6), round(found.accuracy, 6), found.images) for found in self._bins)
        _write_csv(reliability_table, ("confidence", "accuracy", "images"), bins)
        each = facts["per_class"]
        assert isinstance(each, dict)
        columns = ("precision", "recall", "f1", "images")
        rows = ((name, *(values[column] for column in columns)) for name, values in each.items())
        _write_csv(per_class, ("class", *columns), rows)

    def write_predictions(self, predictions: Path, mistakes: Path) -> None:
        """Write name, label, predicted class and confidence of every test image, and of those misclassified (CSV).

        The most confident mistakes come first: they are often wrong labels.
        """
        classes, labels_N = self._test.input_spec.classes, self._test.labels
        shares_NK = probabilities(self._logits_NK)

        def row(index: int) -> tuple[object, ...]:
            guess = int(self._predicted[index])
            confidence = round(float(shares_NK[index, guess]), 4)
            return classes[labels_N[index]], classes[guess], self._names[index], confidence

        columns = ("actual", "predicted", "name", "confidence")
        _write_csv(predictions, columns, map(row, range(len(labels_N))))
        _write_csv(mistakes, columns, map(row, worst_mistakes(self._logits_NK, labels_N, len(labels_N))))

    def write_headline(self, file: Path) -> None:
        """Write the few scores that runs are compared by, for `dvc metrics diff`."""
        facts = scores(self._logits_NK, self._test.labels, self._test.input_spec.classes, self._params.ece_bins)
        write_json(file, {name: facts[name] for name in ("accuracy", "nll", "f1", "ece")})

    def draw(self, confusion: Path, reliability_picture: Path, mistakes: Path, saliency: Path) -> None:
        """Draw the four pictures as SVG."""
        test, params = self._test, self._params
        figures.draw_confusion(test.labels, self._predicted, test.input_spec.classes, confusion)
        figures.draw_reliability(self._bins, reliability_picture)
        predict = predictor(self._net, test.input_spec)
        wrong = worst_mistakes(self._logits_NK, test.labels, params.mistakes)
        figures.draw_mistakes(test, self._names, probabilities(self._logits_NK), predict, wrong, mistakes)
        firsts = [int(np.flatnonzero(test.labels == label)[0]) for label in range(test.num_classes)]
        figures.draw_saliency(test, self._names, predict, firsts[: params.saliency_images], saliency)

    @property
    def _predicted(self) -> Labels:
        predicted_N: Labels = self._logits_NK.argmax(1)
        return predicted_N


def _write_csv(file: Path, header: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> None:
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
