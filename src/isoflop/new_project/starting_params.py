"""params.yaml for a user's own images: a preset, with what follows from the images in the place of its values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from isoflop.new_project.image_survey import Survey
from isoflop.new_project.split_sizes import split_sizes, warnings
from isoflop.project.yaml_text import dump, flow, load
from isoflop.runtime.errors import UserError

_STAYS = 0.9  # of the images, about, after duplicates and damaged ones are dropped
_SMALLEST_BATCH = 8  # fewer are too few for the statistics of batch normalization
_SMALLEST_SIDE = 8  # pixels
_STEPS = (600, 10_000)  # of the base's training: fewer teach little, more take hours on a few cores
_MOST_EPOCHS = 4  # times the preset's
_QUICKER = 4  # times, a first look
_OTHER_EPOCHS = ("distill", "prune", "sparsify", "qat")
_OTHER_KINDS = ("prune", "sparsify", "qat")  # of variants
_NEEDS_COLOUR = (  # transforms of albumentations
    *("ChannelDropout", "ChannelShuffle", "ColorJitter", "FancyPCA", "HueSaturationValue"),
    *("PlanckianJitter", "RGBShift", "ToGray", "ToSepia"),
)


@dataclass(frozen=True)
class Choice:
    """A value and why."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True)
class StartingParams:
    """The text of params.yaml, what was chosen in it, and what will be hard to judge by it."""

    text: str
    choices: list[Choice]
    warnings: list[str] = field(default_factory=list)


def starting_params(preset: str, survey: Survey, path: str) -> StartingParams:
    """params.yaml for what ``survey`` saw.

    Args:
        preset: the text of the preset that all other values are of.
        path: ``data.path``.

    Raises:
        UserError: a class has too few images for the splits, or there are too few for a batch.
    """
    params = load("".join(line for line in preset.splitlines(keepends=True) if not line.startswith("#")))
    params["data"].update(source="images", path=path, url=None, sha256=None)
    whole = [place for name, place in survey.places.items() if name not in survey.unreadable]
    sizes = split_sizes(whole, params["prepare"])
    training = sum(counts["train"] for counts in sizes.values())
    choices = [
        *_choose_pixels(params, survey),
        *_choose_least(params, {name: sum(counts.values()) for name, counts in sizes.items()}),
        *_choose_batch(params, training),
        *_choose_epochs(params, training),
    ]
    if params["recipe"]["flip"] != "none":
        why = "images are mirrored at random; `none` where left and right differ, as in letters"
        choices.append(Choice("recipe.flip", params["recipe"]["flip"], why))
    head = f"# {len(survey.places)} images of {len(survey.classes)} classes, as `isoflop init` found them\n"
    return StartingParams(head + dump(params), choices, list(warnings(sizes, survey.splits)))


def quick_params(text: str) -> StartingParams:
    """What ``text`` says, cut down to a first look: the same study and pipeline with less of everything."""
    params = load("".join(line for line in text.splitlines(keepends=True) if not line.startswith("#")))
    runs, variants = params["sweep"]["runs"], params["variants"]
    whole = params["recipe"]["epochs"]
    _scale_epochs(params, max(1, round(whole / _QUICKER)))
    runs["seeds"] = flow(runs["seeds"][:1])
    first = next(iter(variants["distill"]), None)
    for kind in ("distill", *_OTHER_KINDS):
        variants[kind] = {first: variants[kind][first]} if kind == "distill" and first else {}
    variants.update(candidates=flow(["base", first] if first else ["base"]), float16=flow([]), tflite=flow([]))
    epochs = params["recipe"]["epochs"]
    fewer = Choice("recipe.epochs", epochs, f"of {whole}; fewer for the study and the variants too")
    choices = [
        *([fewer] if epochs < whole else []),
        Choice("sweep.runs.seeds", list(runs["seeds"]), "each run of the study once"),
        Choice("variants.candidates", list(variants["candidates"]), "no other variants"),
    ]
    return StartingParams("# for a first look: `isoflop init --quick`\n" + dump(params), choices)


def _choose_pixels(params: Any, survey: Survey) -> list[Choice]:
    prepare, augment = params["prepare"], params["augment"]
    most, median = prepare["image_size"], survey.sides[1]
    step = params["model"]["patch_size"] if params["model"]["family"] == "vit" else 4
    prepare["image_size"] = min(most, max(_SMALLEST_SIDE, median // step * step))
    half = f"half of your images have {median} pixels or"
    why = f"the preset's; {half} more on the shorter side, but twice the size costs four times as much"
    if prepare["image_size"] != most:
        why = f"{half} less on the shorter side; a multiple of {step}"
    prepare["channels"] = 3 if survey.is_colour else 1
    choices = [
        Choice("prepare.image_size", prepare["image_size"], why),
        Choice(
            "prepare.channels",
            prepare["channels"],
            "the images are in colour" if survey.is_colour else "the images are grey",
        ),
    ]
    useless = [item["name"] for item in augment["policy"] if item["name"] in _NEEDS_COLOUR]
    if useless and not survey.is_colour:
        augment["policy"] = [item for item in augment["policy"] if item["name"] not in _NEEDS_COLOUR]
        augment["views"] = augment["views"] if augment["policy"] else 0
        left = [item["name"] for item in augment["policy"]]
        choices.append(Choice("augment.policy", left, f"without {', '.join(useless)}, which grey images do not have"))
    return choices


def _choose_least(params: Any, class_sizes: Mapping[str, int]) -> list[Choice]:
    prepare = params["prepare"]
    name, size = min(class_sizes.items(), key=lambda item: item[1])
    least = min(prepare["min_images_per_class"], max(3, int(_STAYS * size)))
    if least == prepare["min_images_per_class"]:
        return []
    prepare["min_images_per_class"] = least
    return [Choice("prepare.min_images_per_class", least, f"class {name!r} has {size}, and a few may be dropped")]


def _choose_batch(params: Any, training: int) -> list[Choice]:
    """A batch that the smallest fraction fills; where none does, without that fraction.

    Raises:
        UserError: all of the training images are less than a small batch.
    """
    recipe, runs = params["recipe"], params["sweep"]["runs"]
    preset, sure = recipe["batch_size"], _STAYS * training
    for fraction in sorted(runs["fractions"]):
        fits = int(fraction * sure)
        if fits >= min(_SMALLEST_BATCH, preset):
            batch = min(preset, 2 ** int(math.log2(fits)))
            break
    else:
        raise UserError(
            f"--images: found {training} images for training, expected at least {math.ceil(_SMALLEST_BATCH / _STAYS)}; "
            "add images"
        )
    kept = [one for one in runs["fractions"] if one >= fraction]
    choices = []
    if batch != preset:
        recipe["batch_size"] = batch
        smallest = f"the study also trains on parts of the images: the smallest, about {int(fraction * training)}"
        choices.append(Choice("recipe.batch_size", batch, f"{smallest}, must fill a batch"))
    if len(kept) < len(runs["fractions"]):
        left_out = ", ".join(f"{one:g}" for one in runs["fractions"] if one < fraction)
        runs["fractions"] = flow(kept)
        why = f"parts of about {training} training images that the study takes; {left_out} would not fill a batch"
        choices.append(Choice("sweep.runs.fractions", kept, why))
    return choices


def _choose_epochs(params: Any, training: int) -> list[Choice]:
    recipe = params["recipe"]
    preset, steps = recipe["epochs"], max(1, round(training / recipe["batch_size"]))
    fewest, most = _STEPS
    epochs = min(max(preset, math.ceil(fewest / steps)), _MOST_EPOCHS * preset, max(1, most // steps))
    if epochs == preset:
        return []
    _scale_epochs(params, epochs)
    why = f"{epochs * steps:,} updates of the weights; the preset's {preset} would make {preset * steps:,}, "
    why += "which teach little" if epochs > preset else "which take long"
    also = f"{epochs / preset:.2g} times the epochs of the study, {', '.join(_OTHER_EPOCHS)} too"
    return [Choice("recipe.epochs", epochs, f"{why}; {also}")]


def _scale_epochs(params: Any, epochs: int) -> None:
    """Set the base's epochs, and all others' in proportion."""
    recipe, runs = params["recipe"], params["sweep"]["runs"]
    factor = epochs / recipe["epochs"]
    recipe["epochs"] = epochs
    scaled = sorted({_scaled(one, factor) for one in runs["epochs"]})
    # a study that varies the length of training still does
    runs["epochs"] = flow(scaled if len(scaled) > 1 or len(runs["epochs"]) == 1 else [scaled[0], scaled[0] + 1])
    for section in _OTHER_EPOCHS:
        params[section]["epochs"] = max(_scaled(params[section]["epochs"], factor), params[section].get("steps", 1))


def _scaled(epochs: int, factor: float) -> int:
    return max(1, round(epochs * factor))
