"""Scores agree with what can be computed by hand, and the pictures and tables are there."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from isoflop.evaluation.reporting import Evaluated
from isoflop.evaluation.scores import (
    Evaluate,
    expected_calibration_error,
    reliability,
    scores,
    smooth_gradients,
    worst_mistakes,
)
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


def test_no_images_have_no_saliency(tmp_path: Path) -> None:
    assert smooth_gradients(fresh_net(), digits_split(tmp_path / "test", 0, 20), []).shape == (0, 8, 8)


def test_saliency_finds_the_pixel_that_decides(tmp_path: Path) -> None:
    import torch
    from torch import nn

    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    layer = net[1]
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, 8 * 3 + 5] = torch.arange(1.0, 11.0)
    maps = smooth_gradients(net, digits_split(tmp_path / "test", 0, 20), [0, 1])
    assert maps.shape == (2, 8, 8)
    assert np.unravel_index(maps[0].argmax(), (8, 8)) == (3, 5)
    assert maps[0].sum() == 1


def test_the_files_of_an_evaluation(tmp_path: Path) -> None:
    test = digits_split(tmp_path / "test", 0, 200)
    params = Evaluate(ece_bins=10, mistakes=7, saliency_images=4, test_time_flips=True)
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        evaluated = Evaluated(fresh_net().eval(), test, params)
        tables = [folder / file for file in ("m.json", "confusion.csv", "reliability.csv", "per_class.csv")]
        pictures = [folder / file for file in ("c.png", "r.svg", "m.png", "s.png")]
        evaluated.write_tables(*tables)
        evaluated.draw(*pictures)
    for file in tables + pictures:
        assert file.read_bytes() == (tmp_path / "one" / file.name).read_bytes()
    with tables[1].open() as stream:
        rows = list(csv.DictReader(stream))
    metrics = json.loads(tables[0].read_text())
    assert sum(row["actual"] == row["predicted"] for row in rows) / 200 == pytest.approx(metrics["accuracy"])
    assert pictures.pop(1).read_text().count("<text") > 10  # text that can be read and searched, not outlines
    for picture in pictures:
        with Image.open(picture) as opened:
            assert min(opened.size) > 100
