"""Choose the variant to ship from the measurements, and write the release files: model, choice, card, checksums."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from isoflop.runtime.errors import UserError
from isoflop.runtime.files import file_sha256, write_json
from isoflop.runtime.params import Section
from isoflop.shipping.model_card import model_card

_LARGE_DROP = 0.2  # of accuracy; more was probably meant in percent
_TIE = 1.03  # times the lowest latency or size: a smaller difference is noise, or not worth any accuracy
SHIPPED = ("MODEL_CARD.md", "choice.json", "model.onnx")  # listed in ship/SHA256SUMS
_BY_CLASS = ("balanced_accuracy", "macro_f1", "lowest_recall", "lowest_recall_class")  # of the chosen one, test split
Blocks = dict[str, dict[str, Any]]  # variants.json or latency.json


class Ship(Section):
    """Section ``ship``. Latency is that of the benchmark's headline setting: smallest batch, fewest threads."""

    objective: Literal["latency", "bytes"]  # ship the fastest or the smallest variant
    metric: Literal["accuracy", "balanced_accuracy"]  # balanced: the mean recall of the classes, for uneven classes
    max_accuracy_drop: float = Field(ge=0, le=1)  # of metric on validation, against the base; 0.01: 1 percentage point
    max_latency_ms: float | None = Field(gt=0, le=1e9)  # median latency, ms; null: no limit

    def cross_check(self, params: Mapping[str, Any], file: Path) -> list[str]:
        """Warn of a drop that was probably meant in percent."""
        drop = self.max_accuracy_drop
        if drop <= _LARGE_DROP:
            return []
        return [
            f"{file}: ship.max_accuracy_drop: got {drop:g}, which allows a loss of {100 * drop:.4g} percentage points; "
            "0.01 is one percentage point"
        ]


@dataclass(frozen=True)
class Candidate:
    """The measurements of a variant that the choice and its report use."""

    name: str
    accuracy: float  # test split; reported, not used to choose
    val_accuracy: float  # of ship.metric
    val_nll: float
    latency_ms: float
    speedup_low: float  # lower end of the 95 % CI of base latency / latency; 1 for the base
    bytes: int
    parameters: int


@dataclass(frozen=True)
class Choice:
    """The chosen variant with the reason, and the verdict on every variant."""

    chosen: Candidate
    why: str
    verdicts: dict[str, str]
    qualifies: dict[str, bool]


def candidates(variants: Blocks, latency: Blocks, metric: str = "accuracy") -> list[Candidate]:
    """Return the variants in the order of ``variants``, the base first, with the validation ``metric`` of each.

    Raises:
        UserError: ``variants`` and ``latency`` do not hold the same variants, or hold none.
    """
    timed = {name: block for name, block in latency.items() if name != "conditions"}
    odd = sorted(set(variants) ^ set(timed))
    if odd or not variants:
        raise UserError(
            f"ship: got {', '.join(odd) or 'no variants'} in only one of variants.json and latency.json, "
            "expected the same variants in both"
        )
    cell = latency["conditions"]["headline"]
    return [
        Candidate(
            name,
            block["accuracy"],
            block[f"val_{metric}"],
            block["val_nll"],
            timed[name][cell]["p50_ms"],
            timed[name][cell]["speedup_low"],
            block["bytes"],
            block["parameters"],
        )
        for name, block in variants.items()
    ]


def choose(candidates: Sequence[Candidate], params: Ship, val_images: int) -> Choice:
    """Choose the fastest (or smallest) variant within ``max_accuracy_drop`` of the base and ``max_latency_ms``.

    A variant counts as faster than the base only if the 95 % CI of its speed-up lies above 1. Variants within 3 % of
    the fastest (or smallest) are tied, and the most accurate of them on the validation split wins, so that no accuracy
    is traded for noise. If the ``val_images`` validation images cannot separate their accuracies either, the lowest
    validation NLL decides, which depends on every image. If no variant qualifies, the base ships, even if it exceeds
    ``max_latency_ms``.

    Args:
        candidates: the base first.
    """
    base, objective = candidates[0], params.objective
    refusals = {item.name: _refusal(item, base, params) for item in candidates}
    others = [item for item in candidates[1:] if refusals[item.name] is None]
    least = min((_value(item, objective) for item in others), default=0.0)
    tied = [item for item in others if _value(item, objective) <= _TIE * least]
    equal = _as_accurate(tied, val_images)
    chosen = min(equal, key=lambda item: (item.val_nll, _value(item, objective)), default=base)
    why = _why_none(base, params)
    if chosen is not base:
        qualified = len(others) + (refusals[base.name] is None)
        why = f"{chosen.name} {_distinction(tied, equal, qualified, params)}: {_gain(chosen, base, params)}"
    verdicts = {item.name: refusals[item.name] or f"qualifies: {_cost(item, objective)}" for item in candidates}
    verdicts[base.name] = f"base: {refusals[base.name] or _cost(base, objective)}"
    verdicts[chosen.name] = f"chosen: {why}"
    return Choice(chosen, why, verdicts, {name: reason is None for name, reason in refusals.items()})


def _as_accurate(candidates: Sequence[Candidate], val_images: int) -> list[Candidate]:
    """Return those at most 1.96 standard errors of a difference of two proportions below the most accurate."""
    best = max((item.val_accuracy for item in candidates), default=0.0)
    share = (best * val_images + 1) / (val_images + 2)  # not 1 even if every image is classified correctly
    apart = 1.96 * math.sqrt(2 * share * (1 - share) / val_images)
    return [item for item in candidates if best - item.val_accuracy <= apart]


def _distinction(tied: Sequence[Candidate], equal: Sequence[Candidate], qualified: int, params: Ship) -> str:
    best, cost = ("fastest", "latency") if params.objective == "latency" else ("smallest", "size")
    of_all = f"of {qualified} qualifying variants"
    if qualified == 1:
        return "is the only variant that qualifies"
    if len(tied) == 1:
        return f"is the {best} {of_all}"
    if len(equal) == 1:
        return f"is the most accurate of the {len(tied)} {best} {of_all} ({cost} within 3 %)"
    return (
        f"has the lowest validation loss of the {len(equal)} {best} {of_all} ({cost} within 3 %, accuracy not "
        "significantly different)"
    )


def _gain(chosen: Candidate, base: Candidate, params: Ship) -> str:
    gain = _value(base, params.objective) / _value(chosen, params.objective)
    lost = 100 * (base.val_accuracy - chosen.val_accuracy)
    return (
        f"{_cost(chosen, params.objective)} instead of {_cost(base, params.objective)} for {base.name} ({gain:.2f}×), "
        f"{f'{lost:.2f} pp lower {_measure(params)}' if lost > 0 else f'no loss of {_measure(params)}'}"
    )


def _why_none(base: Candidate, params: Ship) -> str:
    too_slow = _refusal(base, base, params)
    limit = f", takes at most {params.max_latency_ms:.4g} ms" if params.max_latency_ms else ""
    return (
        f"{base.name} ships because no variant is {'faster' if params.objective == 'latency' else 'smaller'}{limit} "
        f"and loses at most {100 * params.max_accuracy_drop:.4g} pp of {_measure(params)}"
        + (f"; its own {too_slow}" if too_slow else "")
    )


def ship(
    variants: Path,
    latency: Path,
    data: Path,
    onnx: Path,
    params: Ship,
    data_source: str,
    *,
    model: Path,
    choice: Path,
    card: Path,
    sums: Path,
) -> list[Candidate]:
    """Write the release files: the model, the choice, the model card, and the checksums of these three.

    Args:
        variants, latency, data: the metrics files of these names.
        onnx: folder with the ONNX file of every variant.
        data_source: value of ``data.source``, for the card.

    Returns:
        The candidates, the chosen one first.

    Raises:
        UserError: a metrics file is unreadable, or the chosen variant has no ONNX file.
    """
    scores, timings, facts_of_data = _read(variants), _read(latency), _read(data)
    choices = candidates(scores, timings, params.metric)
    made = choose(choices, params, _independent_images(facts_of_data, params.metric))
    source = onnx / f"{made.chosen.name}.onnx"
    if not source.is_file():
        raise UserError(f"{source}: not found, expected an ONNX file for each variant in variants.json")
    shutil.copyfile(source, model)
    headline = timings["conditions"]["headline"]
    facts = {
        "chosen": made.chosen.name,
        "why": made.why,
        "objective": params.objective,
        "metric": params.metric,
        "max_accuracy_drop": params.max_accuracy_drop,
        "max_latency_ms": params.max_latency_ms,
        "latency_of": headline,
        "candidates": [_reported(item, choices[0], made) for item in choices],
    } | {name: scores[made.chosen.name][name] for name in _BY_CLASS}
    write_json(choice, facts)
    card.write_text(model_card(made.chosen.name, made.why, scores, timings, facts_of_data, data_source, model))
    listed = dict(zip(SHIPPED, (card, choice, model), strict=True))
    sums.write_text("".join(f"{file_sha256(file)}  {name}\n" for name, file in listed.items()))
    return [made.chosen, *(item for item in choices if item is not made.chosen)]


def _independent_images(data: Mapping[str, Any], metric: str) -> int:
    """Return the number of images in classes of equal size that would give ``metric`` its standard error.

    The variance of a mean of recalls r of K classes with n images each is sum(r (1 - r) / n) / K^2.
    """
    if metric == "accuracy":
        return int(data["images"]["val"])
    images: list[int] = [row["val"] for row in data["per_class"].values() if row["val"]]
    return max(1, int(len(images) ** 2 / sum(1 / count for count in images)))


def write_tradeoff(candidates: Sequence[Candidate], file: Path) -> None:
    """Write a CSV with one row per candidate; the first candidate is the chosen one."""
    with file.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["variant", "latency_ms", "accuracy", "bytes", "parameters", "chosen"])
        for item in candidates:
            chosen = "yes" if item is candidates[0] else "no"
            table.writerow([item.name, item.latency_ms, item.accuracy, item.bytes, item.parameters, chosen])


def write_headline(chosen: Candidate, file: Path) -> None:
    """Write the few measurements of the shipped variant that runs are compared by, for `dvc metrics diff`."""
    facts = {
        "variant": chosen.name,
        "accuracy": chosen.accuracy,
        "val_accuracy": chosen.val_accuracy,
        "latency_ms": chosen.latency_ms,
        "bytes": chosen.bytes,
        "parameters": chosen.parameters,
    }
    write_json(file, facts)


def _refusal(candidate: Candidate, base: Candidate, params: Ship) -> str | None:
    if params.max_latency_ms and candidate.latency_ms > params.max_latency_ms:
        return f"latency {candidate.latency_ms:.6g} ms is above max_latency_ms ({params.max_latency_ms:.6g} ms)"
    if candidate is base:
        return None
    drop, allowed = base.val_accuracy - candidate.val_accuracy, params.max_accuracy_drop
    if drop > allowed + 1e-9:  # accuracies are rounded to 6 digits
        return f"loses {100 * drop:.2f} pp of {_measure(params)}; max_accuracy_drop is {100 * allowed:.4g} pp"
    if _refusal(base, base, params):  # a base that is too slow need not be beaten
        return None
    if params.objective == "latency" and candidate.speedup_low <= 1:
        low = candidate.speedup_low
        return f"not significantly faster than {base.name}: 95 % CI of the speed-up starts at {low:.2f}×"
    if params.objective == "bytes" and candidate.bytes >= base.bytes:
        sizes = f"{_cost(candidate, params.objective)} instead of {_cost(base, params.objective)}"
        return f"not smaller than {base.name}: {sizes}"
    return None


def _measure(params: Ship) -> str:
    return f"{'balanced ' if params.metric == 'balanced_accuracy' else ''}validation accuracy"


def _value(candidate: Candidate, objective: str) -> float:
    return candidate.latency_ms if objective == "latency" else candidate.bytes


def _cost(candidate: Candidate, objective: str) -> str:
    return f"{candidate.latency_ms:.4g} ms" if objective == "latency" else f"{candidate.bytes:,} bytes"


def _reported(candidate: Candidate, base: Candidate, choice: Choice) -> dict[str, Any]:
    return {
        "variant": candidate.name,
        "qualifies": choice.qualifies[candidate.name],
        "verdict": choice.verdicts[candidate.name],
        "val_accuracy": candidate.val_accuracy,
        "val_accuracy_drop": round(base.val_accuracy - candidate.val_accuracy, 6),
        "accuracy": candidate.accuracy,
        "latency_ms": candidate.latency_ms,
        "speedup_low": candidate.speedup_low,
        "bytes": candidate.bytes,
        "parameters": candidate.parameters,
    }


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{file}: not readable ({error}); fix: `dvc checkout` restores it") from None
