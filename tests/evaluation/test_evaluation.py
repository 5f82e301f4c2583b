"""Scores agree with what can be computed by hand, and the pictures and tables are there."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from isoflop.evaluation.plots import draw_confusion
from isoflop.evaluation.reporting import Evaluated
from isoflop.evaluation.scores import (
    Evaluate,
    balanced_accuracy,
    class_recalls,
    expected_calibration_error,
    macro_f1,
    reliability,
    scores,
    worst_mistakes,
)
from isoflop.report.montages import read_montage
from tests.networks import digits_split, fresh_net

CLASSES = ["cat", "dog", "owl"]
# probabilities of three images of cat, one of dog; the second is taken for a dog
LOGITS = np.log(np.array([[0.7, 0.2, 0.1], [0.3, 0.6, 0.1], [0.9, 0.05, 0.05], [0.1, 0.8, 0.1]]))
LABELS = np.array([0, 0, 0, 1])


def test_scores_by_hand() -> None:
    found = scores(LOGITS, LABELS, CLASSES, 10)
    assert found["accuracy"] == 0.75
    assert found["nll"] == pytest.approx(-np.log([0.7, 0.3, 0.9, 0.8]).mean(), abs=1e-6)
    assert found["recall"] == pytest.approx((2 / 3 + 1 + 0) / 3, abs=1e-6)
    assert found["precision"] == pytest.approx((1 + 1 / 2 + 0) / 3, abs=1e-6)
    assert found["f1"] == pytest.approx((0.8 + 2 / 3 + 0) / 3, abs=1e-6)
    per_class = found["per_class"]
    assert isinstance(per_class, dict)
    assert per_class["cat"] == {"precision": 1.0, "recall": 0.666667, "f1": 0.8, "images": 3}


def test_calibration_by_hand() -> None:
    bins = reliability(LOGITS, LABELS, 10)
    assert [found.images for found in bins] == [1, 1, 1, 1]
    gaps = [abs(1 - 0.7), abs(0 - 0.6), abs(1 - 0.9), abs(1 - 0.8)]
    assert expected_calibration_error(bins) == pytest.approx(np.mean(gaps))
    (single,) = reliability(LOGITS, LABELS, 1)
    assert single.accuracy == 0.75
    assert single.confidence == pytest.approx(0.75)


def test_the_most_confident_mistakes_come_first() -> None:
    logits = np.log(np.array([[0.4, 0.6], [0.1, 0.9], [0.8, 0.2], [0.3, 0.7]]))
    assert worst_mistakes(logits, np.array([0, 0, 0, 1]), 5) == [1, 0]


def test_the_files_of_an_evaluation(tmp_path: Path) -> None:
    test = digits_split(tmp_path / "test", 0, 200)
    names = [f"{label}/photo {index}.jpg" for index, label in enumerate(test.labels)]
    params = Evaluate(ece_bins=10, mistakes=7, saliency_images=4, test_time_flips=True)
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        evaluated = Evaluated(fresh_net().eval(), test, names, params)
        tables = [folder / file for file in ("m.json", "reliability.csv", "per_class.csv")]
        predictions, mistakes = folder / "confusion.csv", folder / "mistakes.csv"
        pictures = [folder / file for file in ("c.svg", "r.svg", "m.svg", "s.svg")]
        evaluated.write_metrics(*tables)
        evaluated.write_predictions(predictions, mistakes)
        evaluated.draw(*pictures)
    for file in [*tables, predictions, mistakes, *pictures]:
        assert file.read_bytes() == (tmp_path / "one" / file.name).read_bytes()
    rows, wrong = (list(csv.DictReader(file.read_text().splitlines())) for file in (predictions, mistakes))
    metrics = json.loads(tables[0].read_text())
    assert sum(row["actual"] == row["predicted"] for row in rows) / 200 == pytest.approx(metrics["accuracy"])
    assert [row["name"] for row in rows] == names
    assert all(row["actual"] == row["name"][0] != row["predicted"] for row in wrong) and len(wrong) > 7
    confidence = [float(row["confidence"]) for row in wrong]
    assert confidence == sorted(confidence, reverse=True)
    (shown,) = read_montage(pictures[2])
    assert [tile.lines[0] for tile in shown.tiles] == [row["name"] for row in wrong[:7]]
    assert all(len(tile.images) == 2 for tile in shown.tiles)
    assert all(picture.read_text().count("<text") > 10 for picture in pictures)  # text that can be read and searched


def test_names_in_any_script_stay_text(tmp_path: Path) -> None:
    classes = ["猫", "犬", "🐈‍⬛ café", "x" * 40, "a\x1b\u202e\udce9"]
    labels = np.arange(10) % 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of glyphs that a font lacks
        draw_confusion(labels, labels, classes, tmp_path / "c.svg")
    root = ElementTree.parse(tmp_path / "c.svg").getroot()
    texts = [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")]
    for name in ("猫", "犬", "🐈‍⬛ café", "x" * 17 + "…", "a\\x1b\\u202e\\udce9"):
        assert texts.count(name) == 2


def test_every_class_counts_the_same_in_balanced_accuracy_and_macro_f1() -> None:
    labels_N = np.array([0] * 98 + [1] * 2)
    logits_NK = np.zeros((100, 3))
    logits_NK[:, 0] = 1  # always class 0
    np.testing.assert_array_equal(class_recalls(logits_NK, labels_N), [1.0, 0.0, np.nan])
    assert balanced_accuracy(logits_NK, labels_N) == 0.5
    assert macro_f1(logits_NK, labels_N) == pytest.approx((2 * 0.98 / 1.98 + 0) / 2)
    logits_NK[98, 1] = 2
    assert balanced_accuracy(logits_NK, labels_N) == 0.75
