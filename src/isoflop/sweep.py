"""The scaling study at one width: a training for each fraction of the data and each seed, in one process."""

from __future__ import annotations

import json
import re
import sys
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, Field
from rich.console import Console
from rich.progress import track

from isoflop.architecture import Architecture, ModelParams, architecture
from isoflop.arrays import Images, Split
from isoflop.errors import UserError
from isoflop.params import Section
from isoflop.recipe import Recipe

if TYPE_CHECKING:
    from isoflop.loading import TrainingImages

Fraction = Annotated[float, Field(gt=0, le=1)]


def _distinct(values: list[Any]) -> list[Any]:
    if len(set(values)) < len(values):
        raise ValueError("values that differ")
    return values


class SweepRuns(Section):
    """``sweep.runs``: what is trained at each width."""

    fractions: Annotated[list[Fraction], Field(min_length=1), AfterValidator(_distinct)]  # of the training images
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(_distinct)]
    epochs: int = Field(ge=1)


def parsed_width(item: str) -> int:
    """The width that an item of ``sweep.widths`` is.

    Raises:
        UserError: it is not a positive integer.
    """
    if not re.fullmatch("[1-9][0-9]{0,4}", item):
        raise UserError(f"params.yaml: sweep.widths: found {item!r}, expected integers from 1 to 99999")
    return int(item)


def sweep_width(
    model: ModelParams, recipe: Recipe, runs: SweepRuns, width: int, data: Split, views: Images, val: Split, file: Path
) -> None:
    """Train ``model`` at ``width`` on every fraction with every seed and write the table of runs.

    The loss is the validation NLL after the last epoch. A run whose loss is not finite is marked ``diverged``.

    Raises:
        UserError: a fraction leaves fewer images than a batch.
    """
    from isoflop.costs import count_parameters, count_training_flops
    from isoflop.loading import all_images, subset
    from isoflop.models import build

    recipe = recipe.model_copy(update={"epochs": runs.epochs})
    built = architecture(model, width, data)
    net = build(built)
    flops = count_training_flops(net, built, recipe.progressive_resizing)
    everything = all_images(data, views)
    pairs = list(product(sorted(runs.fractions), sorted(runs.seeds)))
    console = Console(stderr=True)
    rows = []
    for fraction, seed in track(
        pairs, f"training width {width}", console=console, disable=not sys.stderr.isatty(), transient=True
    ):
        part = subset(everything, fraction, seed)
        if len(part) < recipe.batch_size:
            raise UserError(
                f"params.yaml: sweep.runs.fractions: found {fraction}, which leaves {len(part)} training images; "
                f"expected at least a batch of {recipe.batch_size} (recipe.batch_size)"
            )
        ended = _run(built, part, val, recipe, seed)
        rows.append({"fraction": fraction, "seed": seed, **ended, "flops": flops * ended["images_seen"]})
    table = {
        "width": width,
        "family": built.family,
        "parameters": count_parameters(net),
        "flops_per_image": flops,
        "runs": rows,
    }
    file.write_text(json.dumps(table, indent=1) + "\n")


def _run(built: Architecture, part: TrainingImages, val: Split, recipe: Recipe, seed: int) -> dict[str, Any]:
    from isoflop.initialization import initialized
    from isoflop.training import fit
    from isoflop.training_module import DivergedError

    facts: dict[str, Any] = {"unique_images": len(part), "epochs": recipe.epochs}
    steps = max(1, round(len(part) / recipe.batch_size)) * recipe.epochs
    facts |= {"images_seen": len(part) * recipe.epochs, "steps": steps}
    try:
        net = initialized(built, part, seed)
        fitted = fit(
            net,
            part,
            val,
            recipe,
            width=built.width,
            seed=seed,
            validate_every=recipe.epochs,
            progress=False,
        )
    except DivergedError:
        return facts | {"val_nll": None, "val_accuracy": None, "train_loss": None, "diverged": True}
    return facts | {
        "val_nll": round(fitted.val_nll, 6),
        "val_accuracy": round(fitted.val_accuracy, 6),
        "train_loss": round(fitted.train_loss, 6),
        "diverged": False,
    }
