"""Choosing the variant to ship by what was measured, and the files that go out: model, reasons, card, checksums."""

from __future__ import annotations

import csv
import hashlib
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.shipping.model_card import model_card

_LARGE_DROP = 0.2  # of accuracy; more was probably meant in percent
_AS_GOOD = 1.03  # times the least latency or bytes: a difference that is noise, or worth no accuracy
SHIPPED = ("MODEL_CARD.md", "choice.json", "model.onnx")  # what ship/SHA256SUMS lists
Blocks = dict[str, dict[str, Any]]  # variants.json or latency.json


class Ship(Section):
    """Section ``ship``. The drop is a share (0.01: one percentage point), against the base, on the validation split;
    the latency is that of the headline of the benchmark. Null: however long it takes."""

    objective: Literal["latency", "bytes"]  # the fastest or the smallest
    max_accuracy_drop: float = Field(ge=0, le=1)  # share of the validation images, against the base
    max_latency_ms: float | None = Field(gt=0)  # median, milliseconds; null: no limit

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
    """A variant as the choice sees it. ``speedup_low`` is the lower end of its ratio to the base; 1 for the base."""

    name: str
    accuracy: float  # on the test split: reported, never chosen by
    val_accuracy: float
    val_nll: float
    latency_ms: float
    speedup_low: float
    bytes: int
    parameters: int


@dataclass(frozen=True)
class Choice:
    """The chosen variant, why, and for every variant why it is or is not it."""

    chosen: Candidate
    why: str
    verdicts: dict[str, str]
    qualifies: dict[str, bool]


def candidates(variants: Blocks, latency: Blocks) -> list[Candidate]:
    """The variants that were both compared and timed, in order, the base first.

    Raises:
        UserError: one file has a variant that the other lacks, or there is none.
    """
    timed = {name: block for name, block in latency.items() if name != "conditions"}
    odd = sorted(set(variants) ^ set(timed))
    if odd or not variants:
        raise UserError(f"ship: found {', '.join(odd) or 'nothing'} in one of variants and latency, expected the same")
    cell = latency["conditions"]["headline"]
    return [
        Candidate(
            name,
            block["accuracy"],
            block["val_accuracy"],
            block["val_nll"],
            timed[name][cell]["p50_ms"],
            timed[name][cell]["speedup_low"],
            block["bytes"],
            block["parameters"],
        )
        for name, block in variants.items()
    ]


def choose(candidates: Sequence[Candidate], params: Ship, val_images: int) -> Choice:
    """The fastest (or smallest) variant that loses at most ``max_accuracy_drop`` to the first, the base, and takes at
    most ``max_latency_ms``.

    To be faster, the whole interval of its speed-up must lie above 1, and of those within 3 % of the fastest (or
    smallest) the most accurate on the validation split is chosen: no accuracy is given up for noise. Those whose
    accuracies its ``val_images`` images do not tell apart from that are as accurate, and of them the one with the least
    loss (NLL) is chosen, which every image has a say in. Where none qualifies, the base ships, however long it takes.
    """
    base, objective = candidates[0], params.objective
    refusals = {item.name: _refusal(item, base, params) for item in candidates}
    others = [item for item in candidates[1:] if refusals[item.name] is None]
    least = min((_value(item, objective) for item in others), default=0.0)
    as_good = [item for item in others if _value(item, objective) <= _AS_GOOD * least]
    level = _as_accurate(as_good, val_images)
    chosen = min(level, key=lambda item: (item.val_nll, _value(item, objective)), default=base)
    why = _why_none(base, params)
    if chosen is not base:
        why = f"{chosen.name} {_distinction(as_good, level, params)} of the "
        why += f"{len(others) + (refusals[base.name] is None)} that qualify: {_gain(chosen, base, params)}"
    verdicts = {name: said or "qualifies" for name, said in refusals.items()}
    verdicts |= {item.name: f"qualifies, with {_cost(item, objective)}" for item in others}
    too_slow = refusals[base.name]
    verdicts[base.name] = f"the base, which {too_slow}" if too_slow else f"the base, with {_cost(base, objective)}"
    verdicts[chosen.name] = f"chosen: {why}"
    return Choice(chosen, why, verdicts, {name: said is None for name, said in refusals.items()})


def _as_accurate(candidates: Sequence[Candidate], val_images: int) -> list[Candidate]:
    """Those within 1.96 standard errors of the difference of two shares below the most accurate."""
    best = max((item.val_accuracy for item in candidates), default=0.0)
    share = (best * val_images + 1) / (val_images + 2)  # also where all are right
    apart = 1.96 * math.sqrt(2 * share * (1 - share) / val_images)
    return [item for item in candidates if best - item.val_accuracy <= apart]


def _distinction(as_good: Sequence[Candidate], level: Sequence[Candidate], params: Ship) -> str:
    better = "fastest" if params.objective == "latency" else "smallest"
    if len(as_good) == 1:
        return f"is the {better}"
    if len(level) == 1:
        return f"is the most accurate of the {len(as_good)} {better} (at most 3 % apart)"
    return (
        f"has the least validation loss of the {len(level)} {better} (at most 3 % apart) that the validation images do "
        "not tell apart by accuracy,"
    )


def _gain(chosen: Candidate, base: Candidate, params: Ship) -> str:
    gain = _value(base, params.objective) / _value(chosen, params.objective)
    lost = 100 * (base.val_accuracy - chosen.val_accuracy)
    return (
        f"{_cost(chosen, params.objective)} against {_cost(base, params.objective)} of {base.name} ({gain:.2f} times), "
        f"and {f'{lost:.2f} points of validation accuracy less' if lost > 0 else 'no validation accuracy lost'}"
    )


def _why_none(base: Candidate, params: Ship) -> str:
    too_slow = _refusal(base, base, params)
    within = f", takes at most {params.max_latency_ms:.4g} ms" if params.max_latency_ms else ""
    return (
        f"no other variant is {'faster' if params.objective == 'latency' else 'smaller'} than {base.name}{within} "
        f"and loses at most {100 * params.max_accuracy_drop:.4g} points of validation accuracy, so {base.name} ships"
        + (f", which {too_slow}" if too_slow else "")
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
    """Write the files that go out: the model, why it was chosen, its card, and the checksums of these three.

    Args:
        data_source: where the images come from, as ``data.source`` has it; for the card.

    Returns:
        The candidates, the chosen one first.

    Raises:
        UserError: a metrics file is unreadable, or the chosen variant has no file.
    """
    timings = _read(latency)
    choices = candidates(_read(variants), timings)
    facts_of_data = _read(data)
    made = choose(choices, params, facts_of_data["images"]["val"])
    source = onnx / f"{made.chosen.name}.onnx"
    if not source.is_file():
        raise UserError(f"{source}: not found, expected one for each compared variant")
    shutil.copyfile(source, model)
    headline = timings["conditions"]["headline"]
    facts = {
        "chosen": made.chosen.name,
        "why": made.why,
        "objective": params.objective,
        "max_accuracy_drop": params.max_accuracy_drop,
        "max_latency_ms": params.max_latency_ms,
        "latency_of": headline,
        "candidates": [_reported(item, choices[0], made) for item in choices],
    }
    write_json(choice, facts)
    measured = _read(variants), timings, facts_of_data
    card.write_text(model_card(made.chosen.name, made.why, *measured, data_source, model))
    listed = dict(zip(SHIPPED, (card, choice, model), strict=True))
    sums.write_text(
        "".join(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {name}\n" for name, file in listed.items())
    )
    return [made.chosen, *(item for item in choices if item is not made.chosen)]


def write_tradeoff(candidates: Sequence[Candidate], file: Path) -> None:
    """A CSV with a row for each candidate; the first one is the chosen."""
    with file.open("w", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(["variant", "latency_ms", "accuracy", "bytes", "parameters", "chosen"])
        for item in candidates:
            chosen = "yes" if item is candidates[0] else "no"
            table.writerow([item.name, item.latency_ms, item.accuracy, item.bytes, item.parameters, chosen])


def _refusal(candidate: Candidate, base: Candidate, params: Ship) -> str | None:
    if params.max_latency_ms and candidate.latency_ms > params.max_latency_ms:
        return f"takes {candidate.latency_ms:.6g} ms, more than the {params.max_latency_ms:.6g} allowed"
    if candidate is base:
        return None
    drop, allowed = base.val_accuracy - candidate.val_accuracy, params.max_accuracy_drop
    if drop > allowed + 1e-9:  # accuracies are rounded to 6 digits
        return f"loses {100 * drop:.2f} points of validation accuracy, more than the {100 * allowed:.4g} allowed"
    if _refusal(base, base, params):  # it need not be beaten where it is too slow itself
        return None
    if params.objective == "latency" and candidate.speedup_low <= 1:
        return f"not measurably faster than {base.name}: its speed-up may be as low as {candidate.speedup_low:.2f}"
    if params.objective == "bytes" and candidate.bytes >= base.bytes:
        smaller = f"{_cost(candidate, params.objective)} against {_cost(base, params.objective)}"
        return f"not smaller than {base.name}: {smaller}"
    return None


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
        raise UserError(f"{file}: not readable metrics ({error}); `dvc checkout` restores them") from None
