"""Results that contradict each other or mean less than they seem, found by rules. The report states them first."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from isoflop.report.facts import Facts, Points, Row, Variant
from isoflop.report.formats import between, count, loss, percent, pp, signed_percent, times

_WIDE = 3.0  # ratio of the ends of a prediction interval of the loss above which it tests nothing
_WIDE_SHARE = 0.2  # the same for an accuracy: difference of the ends
_LARGE_ERROR = 0.25  # relative, of a predicted loss
_GAP = 0.05  # between two accuracies that should agree
_RISE = 1.25  # validation loss at the end over its minimum
_SIGNIFICANT = 0.05


@dataclass(frozen=True)
class Evidence:
    """What the rules read; the facts are metrics files by name, and a rule passes if one is missing."""

    facts: Mapping[str, Facts]
    params: Facts
    variants: Sequence[Variant]
    bins: Sequence[Row]  # of the reliability diagram
    curves: Mapping[str, Mapping[str, Points]]  # quantity → series → points


def contradictions(evidence: Evidence) -> list[str]:
    """Return one sentence for each contradiction, the most important first."""
    found = []
    for rule in _RULES:
        try:
            found.append(rule(evidence))
        except (KeyError, TypeError, IndexError):  # an older run, or a study without a law: no evidence
            continue
    return [sentence for sentence in found if sentence]


def _worse_than_guessing(one: Evidence) -> str | None:
    score = one.facts["evaluate"]
    largest, images = max(((name, row["images"]) for name, row in score["per_class"].items()), key=lambda row: row[1])
    share = images / score["images"]
    if score["accuracy"] > share or len(score["per_class"]) < 2:
        return None
    return (
        f"Test accuracy {percent(score['accuracy'])} is no better than always predicting {largest} "
        f"({percent(share)} of the test images): the model has learned nothing useful"
    )


def _lost_class(one: Evidence) -> str | None:
    score = one.facts["evaluate"]
    name, recall = min(((name, row["recall"]) for name, row in score["per_class"].items()), key=lambda row: row[1])
    if recall >= 0.5 * score["accuracy"]:
        return None
    return (
        f"Test accuracy is {percent(score['accuracy'])}, but the recall of class {name} is "
        f"{percent(recall)}: compare classes by recall, and collect or weight images of {name}"
    )


def _confident_errors(one: Evidence) -> str | None:
    score = one.facts["evaluate"]
    chance = math.log(len(score["per_class"]))
    if score["nll"] <= chance or score["accuracy"] < 1.5 / len(score["per_class"]):
        return None
    return (
        f"Test accuracy is {percent(score['accuracy'])}, but the test loss {loss(score['nll'])} is above "
        f"that of guessing ({loss(chance)}): a few errors with very high confidence dominate the loss"
    )


def _validation_and_test(one: Evidence) -> str | None:
    from scipy.stats import fisher_exact

    images = one.facts["data"]["images"]
    val, test = one.facts["train"]["val_accuracy"], one.facts["evaluate"]["accuracy"]
    table = [[round(share * n), round((1 - share) * n)]
             for share, n in ((val, images["val"]), (test, images["test"]))]  # fmt: skip
    p_value = float(fisher_exact(table).pvalue)
    if abs(val - test) < _GAP and (p_value >= _SIGNIFICANT or abs(val - test) < 0.5 * _GAP):
        return None
    stated = (
        f"Validation accuracy is {percent(val)} ({count(images['val'])} images), test accuracy "
        f"{percent(test)} ({count(images['test'])} images)"
    )
    if p_value >= _SIGNIFICANT:
        return f"{stated}: few images, so chance can explain the difference (p = {p_value:.2f})"
    cause = (
        "near-duplicates of training images in the validation split, or test images of another origin"
        if val > test
        else "an easier test split"
    )
    return f"{stated}: chance does not explain the difference (p {_p(p_value)}). Look for {cause}"


def _p(value: float) -> str:
    return f"= {value:.3f}" if value >= 0.001 else "< 0.001"


def _calibration(one: Evidence) -> str | None:
    score = one.facts["evaluate"]
    rows = [(float(row["confidence"]), float(row["accuracy"]), int(row["images"])) for row in one.bins]
    total = sum(n for *_, n in rows)
    mean = sum(confidence * n for confidence, _, n in rows) / total
    # mean absolute deviation of the accuracy of n images of a calibrated model: sqrt(2 c (1 - c) / (pi n))
    chance = sum(n * math.sqrt(2 * c * (1 - c) / (math.pi * n)) for c, _, n in rows) / total
    if score["ece"] < _GAP:
        return None
    if score["ece"] < 1.5 * chance:
        return (
            f"ECE {percent(score['ece'])}: with {count(total)} test images a calibrated model has about "
            f"{percent(chance)}, so this one is no evidence of miscalibration"
        )
    direction = "underconfident" if mean < score["accuracy"] else "overconfident"
    return (
        f"ECE {percent(score['ece'])}: the model is {direction} (mean confidence {percent(mean)}, accuracy "
        f"{percent(score['accuracy'])}). {_cause(one, direction)}"
    )


def _cause(one: Evidence, direction: str) -> str:
    recipe = one.params["recipe"]
    if direction == "overconfident":
        if _rise(one):
            return "It overfits: the validation loss rises while training goes on"
        return "Likely cause: too few images for its size; temperature scaling on the validation split corrects it"
    if recipe["label_smoothing"] > 0:
        return f"Likely cause: recipe.label_smoothing {recipe['label_smoothing']:g} lowers the confidence on purpose"
    if recipe.get("loss", "cross_entropy") != "cross_entropy":
        return f"Likely cause: recipe.loss {recipe['loss']} does not train probabilities"
    if _still_falls(one):
        return "Likely cause: training ended while the validation loss still fell; raise recipe.epochs"
    return "Temperature scaling on the validation split corrects it"


def _rise(one: Evidence) -> tuple[float, float, float] | None:
    """Epoch and value of the lowest validation loss, and the last value, if that is clearly higher."""
    (points,) = one.curves["nll"].values()
    epoch, least = min(points, key=lambda point: point[1])
    last = points[-1][1]
    return (epoch, least, last) if last > _RISE * least and epoch < points[-1][0] else None


def _still_falls(one: Evidence) -> bool:
    (points,) = one.curves["nll"].values()
    late = points[3 * len(points) // 4 :]
    return len(late) >= 2 and late[-1][1] < 0.95 * late[0][1]


def _overfitting(one: Evidence) -> str | None:
    risen = _rise(one)
    if not risen:
        return None
    epoch, least, last = risen
    return (
        f"The validation loss was lowest after epoch {epoch:.0f} ({loss(least)}) and ended at {loss(last)}: "
        "the model overfits. Lower recipe.epochs, augment more, or set train.patience"
    )


def _loss_and_accuracy_forecast(one: Evidence) -> str | None:
    score = one.facts["score"]
    low, high, actual = score["accuracy_low"], score["accuracy_high"], score["accuracy_actual"]
    if not score["inside"] or low is None or low <= actual <= high:
        return None
    return (
        f"The prediction for width {score['width']} holds for the loss (95 % PI "
        f"{between(score['low'], score['high'])}) but not for the accuracy: predicted {percent(low)} to "
        f"{percent(high)}, measured {percent(actual)}"
    )


def _wide_forecast(one: Evidence) -> str | None:
    score = one.facts["score"]
    if not score["inside"]:
        return None
    where = f"The prediction for width {score['width']} tests nothing: "
    factor = _spans(score["low"], score["high"])
    if factor > _WIDE:
        interval = between(score["low"], score["high"])
        return f"{where}its 95 % PI of the loss, {interval}, spans a factor of {factor:.1f}"
    low, high = score["accuracy_low"], score["accuracy_high"]
    if low is not None and high - low > _WIDE_SHARE:
        return f"{where}its 95 % PI of the accuracy is {percent(low)} to {percent(high)}"
    return None


def _held_out(one: Evidence) -> str | None:
    test = one.facts["scaling"]["held_out"]
    error, wide = test["relative_error"], _spans(test["low"], test["high"]) > _WIDE
    if not test["covered"] or (abs(error) <= _LARGE_ERROR and not wide):
        return None
    factor = test["predicted"] / test["actual"]
    off = f"{times(factor)} the measured loss" if factor > 2 else f"an error of {signed_percent(error)}"
    return (
        f"The held-out test ({test['name']}) is inside its interval, {between(test['low'], test['high'])}, with "
        f"{off}: an interval this wide tests nothing"
    )


def _spans(low: float | None, high: float | None) -> float:
    return math.inf if low is None or high is None or low <= 0 else high / low


def _next_size(one: Evidence) -> str | None:
    score, predicted = one.facts["score"], one.facts["forecast"]
    wider = [block for block in predicted["widths"].values() if block["width"] > predicted["width"]]
    if wider:
        block = min(wider, key=lambda block: block["width"])
        name, expected = f"width {block['width']}", block["val_nll"]
    else:
        name, expected = "twice the width of the study", one.facts["scaling"]["data_question"]["twice_width"]["loss"]
    if expected < score["actual"]:
        return None
    return (
        f"The law predicts no gain from {name}: predicted loss {loss(expected)}, but width {score['width']} already "
        f"measures {loss(score['actual'])}"
    )


def _below_the_floor(one: Evidence) -> str | None:
    floor = one.facts["scaling"]["parameters"]["E"]
    measured = one.facts["score"]["actual"]
    if floor["low"] is None or measured >= floor["low"]:
        return None
    return (
        f"The measured loss {loss(measured)} is below the law’s irreducible loss, E = {loss(floor['value'])} "
        f"(95 % CI {between(floor['low'], floor['high'])}): the law does not describe this training"
    )


def _lost_in_compression(one: Evidence) -> str | None:
    shipped = next(row for row in one.variants if row.shipped)
    change, allowed = shipped.against_base, one.params["ship"]["max_accuracy_drop"]
    if change is None or change["difference"] >= -allowed:
        return None
    chance = "; chance can explain it" if change["low"] <= 0 <= change["high"] else ""
    return (
        f"{shipped.name} was chosen for a validation accuracy within {100 * allowed:g} pp of the base, but "
        f"changes the test accuracy by {pp(change['difference'])} (95 % CI {pp(change['low'])} to "
        f"{pp(change['high'])}){chance}"
    )


def _no_faster(one: Evidence) -> str | None:
    shipped = next(row for row in one.variants if row.shipped)
    if shipped.against_base is None or shipped.speedup_low > 1 or shipped.bytes < one.variants[0].bytes:
        return None
    return (
        f"{shipped.name} is neither smaller nor significantly faster than the base: 95 % CI of the speed-up "
        f"{times(shipped.speedup_low)} to {times(shipped.speedup_high)}"
    )


def _export(one: Evidence) -> str | None:
    wrong = [row for row in one.variants if not row.name.endswith("-int8") and row.agreement < 0.99]
    if not wrong:
        return None
    names = ", ".join(f"{row.name} {percent(row.agreement)}" for row in wrong)
    return f"Float ONNX files must predict like torch, but agree on fewer test images: {names}. Report this as a bug"


_RULES: tuple[Callable[[Evidence], Any], ...] = (
    _worse_than_guessing,
    _lost_class,
    _validation_and_test,
    _lost_in_compression,
    _export,
    _confident_errors,
    _calibration,
    _overfitting,
    _loss_and_accuracy_forecast,
    _wide_forecast,
    _held_out,
    _below_the_floor,
    _next_size,
    _no_faster,
)
