"""Warnings about values of params.yaml that are valid by themselves and hardly ever intended."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

_MOST_TOKENS = 1024
_LARGE_RATE = {"adam": 0.05, "adamw": 0.05, "sgd": 5.0, "momentum": 2.0, "muon": 2.0}
_LARGE_IMAGE = 384  # pixels
_FEWEST_BATCHES = 4  # per epoch

Params = Mapping[str, Any]  # valid content of params.yaml
_IMAGES = {"digits": 1797, "mnist": 70_000, "fashion_mnist": 70_000, "cifar10": 60_000, "cifar100": 60_000}


def implausible(params: Params) -> list[str]:
    """Return a warning ``KEY: got …; fix: …`` for each value of ``params`` that is probably not intended."""
    warnings: list[str] = []
    for rule in _RULES:
        with contextlib.suppress(LookupError, TypeError):  # a file without the keys that the rule reads
            warnings += rule(params)
    return warnings


def tokens(params: Params) -> int:
    """Return the number of patches per image of a vit."""
    return (int(params["prepare"]["image_size"]) // int(params["model"]["patch_size"])) ** 2


def _tokens(params: Params) -> Iterator[str]:
    side, patch = params["prepare"]["image_size"], params["model"]["patch_size"]
    if params["model"]["family"] == "vit" and (count := tokens(params)) > _MOST_TOKENS:
        fit = next((wider for wider in range(patch, side + 1) if side % wider == 0 and side // wider <= 16), side)
        yield (
            f"model.patch_size: got {patch} at prepare.image_size {side}, which makes {count:,} tokens per image; the "
            f"cost of attention grows with their square; fix: patch_size {fit} makes {(side // fit) ** 2} tokens"
        )


def _learning_rate(params: Params) -> Iterator[str]:
    recipe = params["recipe"]
    rate, most = recipe["learning_rate"], _LARGE_RATE[recipe["optimizer"]]
    if rate > most:
        yield (
            f"recipe.learning_rate: got {rate:g}, far more than {recipe['optimizer']} is used with; "
            f"fix: at most {most:g}"
        )


def _image_size(params: Params) -> Iterator[str]:
    side, family = params["prepare"]["image_size"], params["model"]["family"]
    if side > _LARGE_IMAGE and family != "vit":
        yield (
            f"prepare.image_size: got {side}, which takes {(side / 64) ** 2:,.0f} times the compute of 64 pixels; "
            "fix: 64 to 224, unless details of a few pixels decide the class"
        )
    if family == "mlp" and side * side * params["prepare"]["channels"] > 4096:
        yield f"model.family: got mlp for images of {side} pixels, a weight per pixel and unit; fix: cnn or resnet"


def _random_changes(params: Params) -> Iterator[str]:
    side = params["prepare"]["image_size"]
    for key, most in (("shift", side // 4), ("cutout", side // 2)):
        if (value := params["recipe"][key]) > most:
            yield (
                f"recipe.{key}: got {value} pixels for images of {side}; fix: at most {most}, so that the object "
                "stays in the image"
            )


def _regularization(params: Params) -> Iterator[str]:
    for section, key, most, usual in (
        ("model", "dropout", 0.6, "0 to 0.3"),
        ("recipe", "label_smoothing", 0.4, "0 to 0.2"),
        ("recipe", "weight_decay", 1.0, "0 to 0.1"),
        ("recipe", "warmup_fraction", 0.5, "0 to 0.2"),
        ("recipe", "infobatch", 0.8, "0 to 0.5"),
    ):
        if (value := params[section][key]) > most:
            yield f"{section}.{key}: got {value:g}, larger than trainings use; fix: {usual}"


def _split(params: Params) -> Iterator[str]:
    test, val = params["prepare"]["test_fraction"], params["prepare"]["val_fraction"]
    if (training := (1 - test) * (1 - val)) < 0.4:
        yield (
            f"prepare.test_fraction: got {test:g} with val_fraction {val:g}, which leaves {100 * training:.0f} % of "
            "the images to train on; fix: 0.2 and 0.15 leave 68 %"
        )


def _batches(params: Params) -> Iterator[str]:
    """The number of images of own data sets is not known before they are read."""
    images = _IMAGES.get(params["data"]["source"])
    size = params["recipe"]["batch_size"]
    if images and size * _FEWEST_BATCHES > images:
        yield (
            f"recipe.batch_size: got {size} for the {images:,} images of {params['data']['source']}, fewer than "
            f"{_FEWEST_BATCHES} steps per epoch; fix: at most {images // 16}"
        )


def _study(params: Params) -> Iterator[str]:
    width, widths = params["train"]["width"], params["sweep"]["widths"]
    if width > 8 * max(widths):
        yield (
            f"train.width: got {width}, {width / max(widths):.0f} times the largest width of the study, far outside "
            f"its law; fix: add {width // 4} to sweep.widths, or train a smaller width first"
        )
    if max(widths) < 2 * min(widths):
        yield (
            f"sweep.widths: got {min(widths)} to {max(widths)}, a range too short for an exponent; fix: widths that "
            "span a factor of 4"
        )


def _fine_tuning(params: Params) -> Iterator[str]:
    for section in ("qat", "sparsify"):
        if (rate := params[section]["learning_rate"]) > 0.01:
            yield f"{section}.learning_rate: got {rate:g} of AdamW, which forgets the training; fix: 0.0005"
    if (factor := params["prune"]["learning_rate_factor"]) > 1:
        yield f"prune.learning_rate_factor: got {factor:g}, above the rate of the training itself; fix: 0.1 to 0.5"


_RULES: tuple[Callable[[Params], Iterator[str]], ...] = (
    _tokens,
    _learning_rate,
    _image_size,
    _random_changes,
    _regularization,
    _split,
    _batches,
    _study,
    _fine_tuning,
)
