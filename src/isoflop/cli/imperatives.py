"""The last lines of ``isoflop summary``: what to do next, best first, each a command and its measured effect."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.new_project.image_size_probe import PROBE
from isoflop.report.formats import pp, times
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import PARAMS_FILE, read_params
from isoflop.scaling.measured import Measured, configurations
from isoflop.scaling.tables.runs import SAME, read_study
from isoflop.shipping.choosing import Ship, candidates, choose

MOST = 3
_HALVED_LATENCY = 0.01  # of accuracy: what half of the latency is worth, to order and to select
_FEWEST_IMAGES = 2  # of the validation split: a smaller difference in accuracy is no gain
_FASTER = 1.2  # times; a smaller gain is not worth any accuracy


@dataclass(frozen=True)
class Imperative:
    """Something to do: the command, and what was measured of it."""

    command: str
    effect: str
    value: float  # gain in accuracy, plus 0.01 for each halving of the latency


def imperatives(project: Path) -> list[Imperative]:
    """Return at most three things to do, the most valuable first. A source whose files are missing is left out."""
    file = project / PARAMS_FILE
    if not file.is_file():
        return []
    params = read_params(file)
    found: list[Imperative] = []
    for source in (_of_probe, _of_study, _of_choice):
        try:
            found += source(project, params)
        except (OSError, UserError, KeyError, ValueError):  # not written yet, or by another version
            continue
    valuable = [one for one in found if one.value > 0]
    return sorted(valuable, key=lambda one: -one.value)[:MOST]


def _of_probe(project: Path, params: Mapping[str, Any]) -> Iterator[Imperative]:
    """Image sizes that were more accurate in the probe than the one in params.yaml."""
    probe = _read(project / PROBE)
    rows = {row["image_size"]: row for row in probe["sizes"]}
    now = params["prepare"]["image_size"]
    if now not in rows or (best := probe["chosen"]) == now:
        return
    gain = rows[best]["val_accuracy"] - rows[now]["val_accuracy"]
    ratio = rows[best]["latency_ms"] / rows[now]["latency_ms"]
    effect = f"{pp(gain)} on {probe['val_images']} images and {times(ratio)} the latency, measured by the probe"
    value = gain - _HALVED_LATENCY * math.log2(ratio)
    yield Imperative(f"dvc exp run -S prepare.image_size={best}", effect, value)


def _of_study(project: Path, params: Mapping[str, Any]) -> Iterator[Imperative]:
    """Another width, a longer training or more images, where the runs of the study show a gain."""
    known = configurations(read_study(project / "runs", params["sweep"]["widths"]))
    known = [one for one in known if one.accuracy is not None]
    least = _FEWEST_IMAGES / _read(project / "metrics" / "data.json")["images"]["val"]
    whole = [one for one in known if one.unique_samples * SAME >= max(other.unique_samples for other in known)]
    base = _read(project / "metrics" / "train.json")["val_accuracy"]
    best = max(whole, key=_accuracy)
    if best.width not in (None, params["train"]["width"]) and _accuracy(best) >= base + least:
        effect = f"{pp(_accuracy(best) - base)} validation accuracy against the base, measured in the study"
        yield Imperative(f"dvc exp run -S train.width={best.width}", effect, _accuracy(best) - base)
    widest = [one for one in known if one.width == max(other.width or 0 for other in known)]
    longest = max(widest, key=lambda one: (one.unique_samples, one.epochs))
    shorter = [one for one in widest if _same(one.unique_samples, longest.unique_samples) and one is not longest]
    if gain := _gain(longest, max(shorter, key=lambda one: one.epochs, default=None), least):
        epochs = f"{max(one.epochs for one in shorter):.3g} to {longest.epochs:.3g} epochs"
        effect = f"{epochs} gave {pp(gain)} validation accuracy at width {longest.width} in the study"
        yield Imperative(f"dvc exp run -S recipe.epochs={2 * params['recipe']['epochs']}", effect, gain / 2)
    fewer = [one for one in widest if _same(one.epochs, longest.epochs) and one is not longest]
    most = max(fewer, key=lambda one: one.unique_samples, default=None)
    if params["data"]["source"] == "images" and most and (gain := _gain(longest, most, least)):
        images = f"{most.unique_samples:.0f} to {longest.unique_samples:.0f} training images"
        effect = f"{images} gave {pp(gain)} validation accuracy at width {longest.width} in the study"
        yield Imperative(f"dvc repro  # after adding images to {params['data']['path']}", effect, gain / 2)


def _of_choice(project: Path, params: Mapping[str, Any]) -> Iterator[Imperative]:
    """A faster variant beyond the limit of accuracy, or a more accurate one that is slower."""
    variants, latency = (_read(project / "metrics" / f"{name}.json") for name in ("variants", "latency"))
    images = _read(project / "metrics" / "data.json")["images"]["val"]
    limits = Ship.model_validate(params["ship"])
    measured = candidates(variants, latency, limits.metric)
    chosen = choose(measured, limits, images).chosen
    drops = {0.0} | {math.ceil(1000 * (measured[0].val_accuracy - one.val_accuracy)) / 1000 for one in measured}
    for drop in sorted(drop for drop in drops if 0 <= drop <= 10 * limits.max_accuracy_drop):
        other = choose(measured, limits.model_copy(update={"max_accuracy_drop": drop}), images).chosen
        gain, ratio = other.accuracy - chosen.accuracy, chosen.latency_ms / other.latency_ms
        if other.name != chosen.name and (ratio >= _FASTER or gain >= _FEWEST_IMAGES / images):
            speed = f"{times(ratio)} as fast" if ratio >= 1 else f"{times(1 / ratio)} the latency"
            effect = f"ships {other.name}: {pp(gain)} test accuracy, {speed}, measured"
            value = gain + _HALVED_LATENCY * math.log2(ratio)
            yield Imperative(f"dvc exp run -S ship.max_accuracy_drop={drop:g} ship", effect, value)


def _gain(more: Measured, less: Measured | None, least: float) -> float:
    """The gain in accuracy; 0 if it is too small to count."""
    gain = _accuracy(more) - _accuracy(less) if less else 0.0
    return gain if gain >= least else 0.0


def _accuracy(one: Measured) -> float:
    return one.accuracy or 0.0


def _same(one: float, other: float) -> bool:
    return one <= SAME * other and other <= SAME * one


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text()))
