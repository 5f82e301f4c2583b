"""params.yaml for a user's own images: a preset, with what follows from the images in the place of its values."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

from isoflop.errors import UserError
from isoflop.image_survey import Survey
from isoflop.splitting import assign_splits
from isoflop.yaml_text import dump, flow, load

_STAYS = 0.9  # of the images, about, after duplicates and damaged ones are dropped
_SMALLEST_BATCH = 8  # fewer are too few for the statistics of batch normalization
_SMALLEST_SIDE = 8  # pixels
_STEPS = (600, 10_000)  # of the base's training: fewer teach little, more take hours on a few cores
_MOST_EPOCHS = 4  # times the preset's
_OTHER_EPOCHS = ("distill", "prune", "sparsify", "qat")
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


def starting_params(preset: str, survey: Survey, path: str) -> tuple[str, list[Choice]]:
    """The text of params.yaml, and what was chosen in it.

    Args:
        preset: the text of the preset that all other values are of.
        path: ``data.path``.

    Raises:
        UserError: a class has too few images for the splits, or there are too few for a batch.
    """
    params = load("".join(line for line in preset.splitlines(keepends=True) if not line.startswith("#")))
    params["data"].update(source="images", path=path, url=None, sha256=None)
    training = _training_images(survey, params["prepare"])
    choices = [
        *_choose_pixels(params, survey),
        *_choose_least(params, survey),
        *_choose_batch(params, training),
        *_choose_epochs(params, training),
    ]
    if params["recipe"]["flip"] != "none":
        why = "images are mirrored; `none` where left and right differ, as in letters"
        choices.append(Choice("recipe.flip", params["recipe"]["flip"], why))
    head = f"# {len(survey.places)} images of {len(survey.classes)} classes, as `isoflop init` found them\n"
    return head + dump(params), choices


def _training_images(survey: Survey, prepare: Any) -> int:
    """How many ``prepare`` would put into the training split, were all of them kept."""
    numbers = {name: label for label, name in enumerate(survey.classes)}
    places = list(survey.places.values())
    labels = [numbers[name] for _, name in places]
    official = [split for split, _ in places]
    how = {name: prepare[name] for name in ("val_fraction", "test_fraction", "seed")}
    try:
        splits = assign_splits(range(len(places)), labels, official, survey.classes, **how)
    except UserError as error:
        raise UserError(f"--images: a class is too small for the splits: {error}") from None
    return Counter(splits.values())["train"]


def _choose_pixels(params: Any, survey: Survey) -> list[Choice]:
    prepare, augment = params["prepare"], params["augment"]
    most, median = prepare["image_size"], survey.sides[1]
    step = params["model"]["patch_size"] if params["model"]["family"] == "vit" else 4
    prepare["image_size"] = min(most, max(_SMALLEST_SIDE, median // step * step))
    why = (
        f"the preset's; the shorter side is {median} pixels in the median, and twice the size costs four times as much"
    )
    if prepare["image_size"] != most:
        why = f"the median of the shorter side, {median} pixels, in steps of {step}"
    prepare["channels"] = 3 if survey.is_colour else 1
    choices = [
        Choice("prepare.image_size", prepare["image_size"], why),
        Choice("prepare.channels", prepare["channels"], "in colour" if survey.is_colour else "all grey"),
    ]
    useless = [item["name"] for item in augment["policy"] if item["name"] in _NEEDS_COLOUR]
    if useless and not survey.is_colour:
        augment["policy"] = [item for item in augment["policy"] if item["name"] not in _NEEDS_COLOUR]
        augment["views"] = augment["views"] if augment["policy"] else 0
        left = [item["name"] for item in augment["policy"]]
        choices.append(Choice("augment.policy", left, f"without {', '.join(useless)}, which grey images do not have"))
    return choices


def _choose_least(params: Any, survey: Survey) -> list[Choice]:
    prepare = params["prepare"]
    name, size = min(survey.class_sizes.items(), key=lambda item: item[1])
    least = min(prepare["min_images_per_class"], max(3, int(_STAYS * size)))
    if least == prepare["min_images_per_class"]:
        return []
    prepare["min_images_per_class"] = least
    return [Choice("prepare.min_images_per_class", least, f"class {name!r} has {size}")]


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
            f"--images: found {training} images for training, expected at least {math.ceil(_SMALLEST_BATCH / _STAYS)}"
        )
    kept = [one for one in runs["fractions"] if one >= fraction]
    choices = []
    if batch != preset:
        recipe["batch_size"] = batch
        choices.append(Choice("recipe.batch_size", batch, f"{fraction:g} of about {training} training images fill it"))
    if len(kept) < len(runs["fractions"]):
        runs["fractions"] = flow(kept)
        choices.append(Choice("sweep.runs.fractions", kept, "a smaller part would not fill a batch"))
    return choices


def _choose_epochs(params: Any, training: int) -> list[Choice]:
    recipe, runs = params["recipe"], params["sweep"]["runs"]
    preset, steps = recipe["epochs"], max(1, round(training / recipe["batch_size"]))
    fewest, most = _STEPS
    epochs = min(max(preset, math.ceil(fewest / steps)), _MOST_EPOCHS * preset, max(1, most // steps))
    if epochs == preset:
        return []
    factor = epochs / preset
    recipe["epochs"] = epochs
    runs["epochs"] = flow(sorted({_scaled(one, factor) for one in runs["epochs"]}))
    for section in _OTHER_EPOCHS:
        params[section]["epochs"] = max(_scaled(params[section]["epochs"], factor), params[section].get("steps", 1))
    why = f"{steps} steps each: {epochs * steps:,} steps"
    also = f"and {factor:.2g} times the preset's of the study and of {', '.join(_OTHER_EPOCHS)}"
    return [Choice("recipe.epochs", epochs, f"{why}, {also}")]


def _scaled(epochs: int, factor: float) -> int:
    return max(1, round(epochs * factor))
