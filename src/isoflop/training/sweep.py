"""The scaling study at one width: one training per data fraction, number of epochs, budget and seed, in one process."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field

from isoflop.data.arrays import Split, TrainingData
from isoflop.download.pretrained import NONE
from isoflop.models.architecture import Architecture, ModelParams, architecture
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import write_json
from isoflop.runtime.params import RandomSeed, Section
from isoflop.runtime.progress import tracked
from isoflop.scaling.tables.runs import exclusion_reason
from isoflop.training.recipe import Recipe

if TYPE_CHECKING:
    from torch import nn

    from isoflop.data.loading import TrainingImages

Fraction = Annotated[float, Field(gt=0, le=1)]
_FEWEST_EPOCHS, _MOST_EPOCHS = 0.5, 200  # for one budget; a width that would need fewer or more has no run of it
_RESULTS = ("images_seen", "flops", "val_nll", "val_accuracy", "train_loss")  # of a run; None if it has none


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("distinct values")
    return values


class SweepRuns(Section):
    """``sweep.runs``: the trainings at each width.

    Each fraction is trained for each number of epochs, and all images for each budget of FLOPs, with each seed.
    Each run is a training of its own with the recipe's schedule, like the base model's. Branches from a shared trunk
    (Hägele et al. 2024) would need a constant learning rate, and image sizes that do not depend on the length of the
    training.
    """

    fractions: Annotated[
        list[Fraction], Field(min_length=1, max_length=100), AfterValidator(_distinct)
    ]  # of the training images
    epochs: Annotated[
        list[Annotated[int, Field(ge=1, le=100_000)]], Field(min_length=1, max_length=100), AfterValidator(_distinct)
    ]  # passes over the fraction of the data, one run each
    budgets: Annotated[
        list[Annotated[float, Field(gt=0, le=1e30)]], Field(max_length=100), AfterValidator(_distinct)
    ]  # training FLOPs, one run each
    seeds: Annotated[list[RandomSeed], Field(min_length=1, max_length=100), AfterValidator(_distinct)]  # one run each
    image_sizes: Annotated[
        list[Annotated[int, Field(ge=4, le=4096)]], Field(max_length=20), AfterValidator(_distinct)
    ]  # pixels; below prepare.image_size: the same runs, without budgets, on images that are resized to these sizes

    def cross_check(self, params: Mapping[str, Any], file: Path) -> list[str]:
        """Raise UserError if an image size is not below that of the images, or not a multiple of a vit's patches."""
        prepared, model = params["prepare"]["image_size"], params["model"]
        patch = model["patch_size"] if model["family"] == "vit" else 1
        if wrong := [size for size in self.image_sizes if size >= prepared or size % patch]:
            multiples = f" that are multiples of {patch} (model.patch_size)" if patch > 1 else ""
            raise UserError(
                f"{file}: sweep.runs.image_sizes: got {wrong[0]}, expected sizes below {prepared} "
                f"(prepare.image_size){multiples}"
            )
        return []


@dataclass(frozen=True)
class Planned:
    """A planned run: a fraction of the images, the maximum number of epochs, and its budget, if any."""

    fraction: float
    epochs: int
    budget: float | None  # FLOPs
    seed: int


def parsed_width(item: str) -> int:
    """Return an item of ``sweep.widths`` as a number.

    Raises:
        UserError: it is not an integer from 1 to 99999.
    """
    if not re.fullmatch("[1-9][0-9]{0,4}", item):
        raise UserError(f"params.yaml: sweep.widths: got {item!r}, expected integers from 1 to 99999")
    return int(item)


def flops_of_sizes(smaller: Sequence[int], prepared: int) -> float:
    """Return the FLOPs of the study at all image sizes, relative to those at the prepared size."""
    return float(1 + sum((size / prepared) ** 2 for size in smaller))


def planned_runs(runs: SweepRuns, images: int, batch_size: int, flops_per_image: float) -> Iterator[Planned]:
    """Yield the runs of a width, in the order of training.

    Raises:
        UserError: a fraction leaves fewer images than a batch.
    """
    for fraction in sorted(runs.fractions):
        part = round(fraction * images)
        if part < batch_size:
            raise UserError(
                f"params.yaml: sweep.runs.fractions: got {fraction}, which is {part} training images, "
                f"expected at least one batch of {batch_size} (recipe.batch_size)"
            )
        for epochs, seed in product(sorted(runs.epochs), sorted(runs.seeds)):
            yield Planned(fraction, epochs, None, seed)
    for budget, seed in product(sorted(runs.budgets), sorted(runs.seeds)):
        if _FEWEST_EPOCHS <= budget / (flops_per_image * images) <= _MOST_EPOCHS:
            yield Planned(1.0, _MOST_EPOCHS, budget, seed)


def sweep_width(
    model: ModelParams, recipe: Recipe, runs: SweepRuns, width: int, data: TrainingData, *, file: Path, network: Path
) -> None:
    """Train the planned runs of ``model`` at ``width``, and write the table of their results to ``file``.

    The loss is the validation NLL after the last step. A run whose loss is not finite is marked ``diverged``. The
    longest runs on the most images come first; a run that ``is_hopeless`` after them is not started, and marked so.

    Args:
        network: folder for the network of the first run that did not diverge; empty if all did.

    Raises:
        UserError: a fraction leaves fewer images than a batch.
    """
    from isoflop.data.loading import all_images, subset
    from isoflop.models.costs import count_body_parameters, count_parameters, count_training_flops
    from isoflop.models.families import build
    from isoflop.models.model_files import Model, save_model

    if model.pretrained != NONE:
        _skip(model, runs, width, data, file)
        network.mkdir()
        return
    built = architecture(model, width, data.train)
    net = build(built)
    flops = count_training_flops(net, built, recipe.progressive_resizing)
    everything = all_images(data.train, data.views)
    planned = list(planned_runs(runs, len(everything), recipe.batch_size, flops))
    chance = math.log(built.num_classes)
    rows: dict[Planned, dict[str, Any]] = {}
    for run in tracked(sorted(planned, key=_size, reverse=True), f"width {width}", "runs"):
        part = subset(everything, run.fraction, run.seed)
        hopeless = is_hopeless(run, rows, chance)
        result, trained = (
            (_not_started(len(part)), None) if hopeless else _run(built, part, data.val, recipe, run, flops)
        )
        if trained is not None and run.budget is None and not network.exists():
            save_model(Model(trained, built, data.train.input_spec), network)
        rows[run] = {"fraction": run.fraction, "budget": run.budget, "seed": run.seed, **result}
    network.mkdir(exist_ok=True)
    table = {
        "width": width,
        "family": built.family,
        "parameters": count_parameters(net),
        "body_parameters": count_body_parameters(net),
        "flops_per_image": flops,
        "chance_nll": round(chance, 6),
        "runs": [rows[run] for run in planned],
    }
    write_json(file, table)


def _skip(model: ModelParams, runs: SweepRuns, width: int, data: TrainingData, file: Path) -> None:
    """Write a table whose runs were not started: a law of random weights would not describe pretrained ones."""
    print(f"width {width}: skipped, because the width of model.pretrained {model.pretrained} is fixed", flush=True)
    rows = [
        {"fraction": fraction, "budget": None, "seed": seed, **_not_started(round(fraction * len(data.train)))}
        for fraction, seed in product(sorted(runs.fractions), sorted(runs.seeds))
    ]
    facts = {"width": width, "family": model.family, "pretrained": model.pretrained}
    write_json(file, {**facts, "chance_nll": round(math.log(data.train.num_classes), 6), "runs": rows})


def _size(run: Planned) -> tuple[float, float, float]:
    return run.fraction, run.epochs, run.budget or math.inf


def is_hopeless(run: Planned, finished: Mapping[Planned, Mapping[str, Any]], chance: float) -> bool:
    """Whether a run of the same seed with at least as many images and epochs, and as large a budget, learned nothing.

    That is a loss above 0.9 of the loss of chance on the validation and on the training images
    (``runs.exclusion_reason``); an overfitted run says nothing about shorter ones.
    """
    return any(
        larger.seed == run.seed
        and all(one <= other for one, other in zip(_size(run), _size(larger), strict=True))
        and exclusion_reason(row["val_nll"], chance) == exclusion_reason(row["train_loss"], chance) == "undertrained"
        for larger, row in finished.items()
    )


def _not_started(images: int) -> dict[str, Any]:
    return {"unique_images": images} | dict.fromkeys(_RESULTS) | {"diverged": False, "not_started": True}


def _run(
    built: Architecture, part: TrainingImages, val: Split, recipe: Recipe, run: Planned, flops: float
) -> tuple[dict[str, Any], nn.Module | None]:
    """The results of a run, and its network unless it diverged."""
    from isoflop.models.initialization import initialized
    from isoflop.training.fitting import fit
    from isoflop.training.lightning_module import DivergedError

    facts: dict[str, Any] = {"unique_images": len(part)}
    try:
        net = initialized(built, part, run.seed)
        fitted = fit(
            net,
            part,
            val,
            # without a time limit, which would make results depend on the machine
            recipe.model_copy(update={"epochs": run.epochs, "max_minutes": None}),
            width=built.width,
            seed=run.seed,
            images_budget=max(1, round(run.budget / flops)) if run.budget else None,
            validate_every=run.epochs,
            doing=f"training on {100 * run.fraction:.3g} % of the images with seed {run.seed}",
        )
    except DivergedError:
        return facts | dict.fromkeys(_RESULTS) | {"diverged": True}, None
    return facts | {
        "images_seen": fitted.images_seen,
        "flops": fitted.flops,
        "val_nll": round(fitted.val_nll, 6),
        "val_accuracy": round(fitted.val_accuracy, 6),
        "train_loss": round(fitted.train_loss, 6),
        "diverged": False,
    }, net
