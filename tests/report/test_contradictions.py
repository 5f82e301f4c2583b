"""Results that contradict each other are stated; results that agree are not."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from isoflop.report.contradictions import Evidence, contradictions
from isoflop.report.facts import Variant

PARAMS = {"recipe": {"label_smoothing": 0.0, "loss": "cross_entropy"}, "ship": {"max_accuracy_drop": 0.01}}
CLASS = {"recall": 0.97, "images": 100}
FACTS: dict[str, Any] = {
    "data": {"images": {"train": 2000, "val": 300, "test": 300}},
    "train": {"val_accuracy": 0.97},
    "evaluate": {"images": 300, "accuracy": 0.97, "nll": 0.1, "ece": 0.01,
                 "per_class": {name: dict(CLASS) for name in ("bolt", "gear", "nut")}},
    "scaling": {"held_out": {"name": "width 32", "predicted": 0.1, "low": 0.08, "high": 0.13, "actual": 0.105,
                             "relative_error": -0.05, "covered": True},
                "parameters": {"E": {"value": 0.02, "low": 0.01, "high": 0.03}},
                "data_question": {"twice_width": {"loss": 0.05}}},
    "forecast": {"width": 32, "widths": {}},
    "score": {"width": 32, "predicted": 0.1, "low": 0.08, "high": 0.13, "actual": 0.1, "inside": True,
              "accuracy_low": 0.95, "accuracy_high": 0.98, "accuracy_actual": 0.97},
}  # fmt: skip
BINS = [{"confidence": "0.97", "accuracy": "0.97", "images": "300"}]
FALLING = [(float(epoch), 1.0 - 0.09 * epoch) for epoch in range(8)] + [(8.0, 0.36), (9.0, 0.36)]


def variant(name: str, **changes: Any) -> Variant:
    values: dict[str, Any] = {
        "accuracy": 0.97, "nll": 0.1, "ece": 0.01, "parameters": 1, "macs": 1, "bytes": 100, "gzip_bytes": 1,
        "agreement": 1.0, "latency_ms": 1.0, "speedup": 2.0, "speedup_low": 1.9, "speedup_high": 2.1,
        "shipped": name != "base", "against_base": None if name == "base" else {
            "difference": -0.003, "low": -0.01, "high": 0.004},
    }  # fmt: skip
    return Variant(name, **values | changes)


def found(
    changes: dict[str, Any] | None = None,
    *,
    params: dict[str, Any] = PARAMS,
    bins: list[dict[str, str]] = BINS,
    curve: list[tuple[float, float]] = FALLING,
    **shipped: Any,
) -> list[str]:
    """The contradictions of results that agree, but for ``changes``: dotted key → value."""
    facts = copy.deepcopy(FACTS)
    for key, value in (changes or {}).items():
        *path, last = key.split(".")
        place = facts
        for name in path:
            place = place[name]
        place[last] = value
    variants = [variant("base", bytes=200), variant("base-int8", **shipped)]
    sentences = contradictions(Evidence(facts, params, variants, bins, {"nll": {"val": curve}}))
    return [sentence.replace("\u202f", " ") for sentence in sentences]


def test_results_that_agree_have_none() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"score.low": 0.139, "score.high": 1.1, "score.actual": 0.2},
         "The prediction for width 32 tests nothing: its 95 % PI of the loss, 0.1390 to 1.1, spans a factor of 7.9"),
        ({"score.accuracy_low": 0.506, "score.accuracy_high": 0.969, "score.accuracy_actual": 1.0},
         "holds for the loss (95 % PI 0.0800 to 0.1300) but not for the accuracy: predicted 50.6 % to 96.9 %, measured "
         "100 %"),
        ({"score.accuracy_low": 0.506}, "its 95 % PI of the accuracy is 50.6 % to 98.0 %"),
        ({"scaling.held_out.relative_error": 214.541, "scaling.held_out.predicted": 21.55,
          "scaling.held_out.actual": 0.1, "scaling.held_out.low": 0.001, "scaling.held_out.high": 1e5},
         "with 216× the measured loss: an interval this wide tests nothing"),
        ({"scaling.held_out.relative_error": -0.4}, "with an error of −40.0 %: an interval this wide tests nothing"),
        ({"scaling.data_question.twice_width.loss": 0.12},
         "no gain from twice the width of the study: predicted loss 0.1200, but width 32 already measures 0.1000"),
        ({"forecast.widths": {"48": {"width": 48, "val_nll": 0.15}}},
         "The law predicts no gain from width 48: predicted loss 0.1500, but"),
        ({"scaling.parameters.E.low": 0.15, "scaling.parameters.E.value": 0.2}, "is below the law’s irreducible loss"),
        ({"train.val_accuracy": 1.0, "evaluate.accuracy": 0.91},
         "chance does not explain the difference (p < 0.001). Look for near-duplicates of training images"),
        ({"train.val_accuracy": 1.0, "evaluate.accuracy": 0.91, "data.images": {"val": 41, "test": 67}},
         "Validation accuracy is 100 % (41 images), test accuracy 91.0 % (67 images): few images, so "
         "chance can explain"),
        ({"evaluate.per_class.nut": {"recall": 0.0, "images": 3}}, "the recall of class nut is 0.0 %"),
        ({"evaluate.accuracy": 0.6, "train.val_accuracy": 0.6, "evaluate.per_class.nut": CLASS | {"images": 200}},
         "no better than always predicting nut (66.7 % of the test images)"),
        ({"evaluate.nll": 1.5}, "the test loss 1.5 is above that of guessing (1.099)"),
    ],
)  # fmt: skip
def test_each_contradiction_is_stated(changes: dict[str, Any], expected: str) -> None:
    assert any(expected in sentence for sentence in found(changes)), found(changes)


def test_a_calibration_error_has_a_direction_and_a_cause() -> None:
    error, under = {"evaluate.ece": 0.2}, [{"confidence": "0.77", "accuracy": "0.97", "images": "300"}]
    expected = "the model is underconfident (mean confidence 77.0 %, accuracy 97.0 %)"
    assert expected in found(error, bins=under)[0]
    smoothed = PARAMS | {"recipe": {"label_smoothing": 0.2, "loss": "cross_entropy"}}
    assert "recipe.label_smoothing 0.2 lowers the confidence" in found(error, bins=under, params=smoothed)[0]
    steep = [(float(epoch), 1.0 - 0.09 * epoch) for epoch in range(10)]
    assert "training ended while the validation loss still fell" in found(error, bins=under, curve=steep)[0]
    over = [{"confidence": "0.97", "accuracy": "0.77", "images": "300"}]
    lower = {"evaluate.ece": 0.2, "evaluate.accuracy": 0.77, "train.val_accuracy": 0.77}
    assert "the model is overconfident" in found(lower, bins=over)[0]
    few = [{"confidence": "0.8", "accuracy": "0.9", "images": "10"}]
    assert "with 10 test images a calibrated model has about" in found({"evaluate.ece": 0.1}, bins=few)[0]


def test_a_rising_validation_loss_is_overfitting() -> None:
    (sentence,) = found(curve=[(0.0, 1.0), (1.0, 0.3), (2.0, 0.5)])
    assert "lowest after epoch 1 (0.3000) and ended at 0.5000: the model overfits" in sentence


def test_what_compression_costs_is_held_against_what_was_allowed() -> None:
    lost = {"difference": -0.03, "low": -0.05, "high": -0.01}
    (sentence,) = found(against_base=lost)
    assert "within 1 pp of the base, but changes the test accuracy by −3.0 pp" in sentence and "chance" not in sentence
    assert "chance can explain it" in found(against_base=lost | {"high": 0.01})[0]
    assert "neither smaller nor significantly faster" in found(speedup_low=0.9, speedup_high=1.1, bytes=200)[0]


def test_a_float_file_that_predicts_unlike_torch_is_a_bug() -> None:
    assert found(agreement=0.5) == []  # INT8
    rows = [variant("base", agreement=0.9, shipped=True)]
    (sentence,) = contradictions(Evidence(FACTS, PARAMS, rows, BINS, {"nll": {"val": FALLING}}))
    assert "agree on fewer test images: base 90.0" in sentence


def test_missing_facts_are_no_evidence() -> None:
    empty = Evidence({}, PARAMS, [variant("base", shipped=True)], [], {})
    assert contradictions(empty) == []
