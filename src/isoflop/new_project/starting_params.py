"""Choose params.yaml for a user's images: start from a preset and replace the values that depend on the images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from isoflop.download.pretrained import NONE
from isoflop.new_project.image_survey import Survey
from isoflop.new_project.split_sizes import split_sizes, warnings
from isoflop.new_project.starting_values import (
    Choice,
    Wishes,
    choose_balance,
    choose_batch,
    choose_epochs,
    choose_pixels,
    choose_pretrained,
    choose_sample_range,
    choose_smallest_class,
    fit_patches,
    scale_epochs,
)
from isoflop.project.yaml_text import dump, flow, load

_FIXED_SIZE = ("mlp", "vit")  # families that take images of one size only
_QUICKER = 2  # divisor of the epochs for a quick run; with more, the study's runs on few images are undertrained
_OTHER_KINDS = ("prune", "sparsify", "qat")  # kinds of variants that a quick run leaves out


NOTHING = Wishes()


@dataclass(frozen=True)
class StartingParams:
    """The text of params.yaml, the values chosen in it, and warnings about accuracies that will be coarse."""

    text: str
    choices: list[Choice]
    warnings: list[str] = field(default_factory=list)


def starting_params(preset: str, survey: Survey, path: str, wishes: Wishes = NOTHING) -> StartingParams:
    """Choose params.yaml for surveyed images.

    Args:
        preset: the text of the preset, the source of all other values.
        path: ``data.path``.
        wishes: values that the user gave.

    Raises:
        UserError: a class has too few images for the splits, or there are too few training images for a batch.
    """
    params = load("".join(line for line in preset.splitlines(keepends=True) if not line.startswith("#")))
    params["data"].update(source="images", path=path, url=None, sha256=None)
    whole = [place for name, place in survey.places.items() if name not in survey.unreadable]
    sizes = split_sizes(whole, params["prepare"])
    training = sum(counts["train"] for counts in sizes.values())
    given = _apply(params, wishes)
    start = choose_pretrained(params, survey, wishes, training)
    choices = [
        *start,
        *(() if start else choose_pixels(params, survey, wishes.image_size)),
        *choose_sample_range(params, survey),
        *choose_smallest_class(params, {name: sum(counts.values()) for name, counts in sizes.items()}),
        *choose_balance(params, {name: counts["train"] for name, counts in sizes.items()}),
        *choose_batch(params, training),
        *([] if wishes.epochs or start else choose_epochs(params, training)),
        *given,
    ]
    if params["recipe"]["flip"] != "none":
        why = "training mirrors images at random; set `none` if left and right differ, as in letters"
        choices.append(Choice("recipe.flip", params["recipe"]["flip"], why))
    head = f"# written by `isoflop init` for {len(survey.places)} images of {len(survey.classes)} classes\n"
    return StartingParams(head + dump(params), choices, list(warnings(sizes, survey.splits)))


def quick_params(text: str) -> StartingParams:
    """Reduce params.yaml to a first quick run: the same study and pipeline with fewer epochs, seeds and variants."""
    params = load("".join(line for line in text.splitlines(keepends=True) if not line.startswith("#")))
    runs, variants = params["sweep"]["runs"], params["variants"]
    whole = params["recipe"]["epochs"]
    scale_epochs(params, max(1, round(whole / _QUICKER)))
    runs["epochs"] = flow(runs["epochs"][-1:])
    runs["seeds"] = flow(runs["seeds"][:1])
    first = next(iter(variants["distill"]), None)
    has_study = params["model"]["pretrained"] == NONE
    for kind in ("distill", *_OTHER_KINDS):
        variants[kind] = {first: variants[kind][first]} if kind == "distill" and first else {}
    variants.update(candidates=flow(["base", first] if first else ["base"]), float16=flow([]), tflite=flow([]))
    epochs = params["recipe"]["epochs"]
    others = "the study and the variants have" if has_study else "the variants have"
    fewer = Choice("recipe.epochs", epochs, f"instead of {whole}; {others} fewer epochs, too")
    choices = [
        *([fewer] if epochs < whole else []),
        *([Choice("sweep.runs.seeds", list(runs["seeds"]), "one seed for each run of the study")] if has_study else []),
        Choice("variants.candidates", list(variants["candidates"]), "a quick run has no other variants"),
    ]
    return StartingParams("# for a first quick run: `isoflop init --quick`\n" + dump(params), choices)


def given_params(preset: str, wishes: Wishes) -> StartingParams:
    """Return params.yaml of a data set that the preset names, with the values that the user gave."""
    params = load(preset)
    return StartingParams(dump(params), choices) if (choices := _apply(params, wishes)) else StartingParams(preset, [])


def with_image_size(start: StartingParams, size: int, why: str) -> StartingParams:
    """Return ``start`` with another ``prepare.image_size``."""
    head, _, rest = start.text.partition("\n")
    params = load(rest)
    params["prepare"]["image_size"] = size
    fit_patches(params)
    kept = [choice for choice in start.choices if choice.key != "prepare.image_size"]
    choice = Choice("prepare.image_size", size, why)
    return StartingParams(f"{head}\n{dump(params)}", [choice, *kept], start.warnings)


def _apply(params: Any, wishes: Wishes) -> list[Choice]:
    """Set the values that the user gave; the study and the variants follow the epochs."""
    given = "given on the command line"
    choices = []
    if wishes.image_size:
        params["prepare"]["image_size"] = wishes.image_size
        choices.append(Choice("prepare.image_size", wishes.image_size, given))
    if wishes.family:
        params["model"]["family"] = wishes.family
        choices.append(Choice("model.family", wishes.family, given))
        choices += fit_patches(params)
        if wishes.family in _FIXED_SIZE and params["recipe"]["progressive_resizing"] != [1.0]:
            params["recipe"]["progressive_resizing"] = flow([1.0])
            choices.append(Choice("recipe.progressive_resizing", [1.0], f"a {wishes.family} takes images of one size"))
    if wishes.epochs:
        scale_epochs(params, wishes.epochs)
        choices.append(Choice("recipe.epochs", wishes.epochs, f"{given}; the other epochs are scaled in proportion"))
    if wishes.minutes:
        params["recipe"]["max_minutes"] = wishes.minutes
        choices.append(Choice("recipe.max_minutes", wishes.minutes, f"{given}; limits each training but the study's"))
    return choices
