"""Commands that set up and run a project: ``init``, ``upgrade``, ``preset``, ``check``, ``doctor``, ``launch``."""

from __future__ import annotations

import contextlib
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from isoflop.cli.app import MACHINES, SETUP, command
from isoflop.cli.options import (
    Count,
    Devices,
    Flag,
    Json,
    Positive,
    Sizes,
    package_presets,
    project_presets,
)
from isoflop.cli.project_folder import find_project, project_around
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import json_text
from isoflop.runtime.terminal import printable


@command(
    SETUP, example="isoflop init fruit --images photos && cd fruit && dvc repro", then="isoflop check && dvc repro"
)
def init(
    folder: Annotated[Path, Parameter(name="DIR")],
    /,
    *,
    images: Path | None = None,
    copy: Flag = False,
    quick: Flag = False,
    preset: Annotated[str | None, Parameter(completer=package_presets)] = None,
    image_size: Count | None = None,
    family: Literal["mlp", "cnn", "resnet", "vit"] | None = None,
    from_scratch: Flag = False,
    epochs: Count | None = None,
    minutes: Positive | None = None,
) -> None:
    """Create a project for your own images.

    The images lie in one folder per class, optionally below folders train, val and test.

    The new folder gets params.yaml with values that suit the images, dvc.yaml that runs the installed package, a git
    and a DVC repository and a first commit. The command prints what it found, what it chose and why.

    Args:
        folder: new or empty folder for the project.
        images: folder, zip or tar of your images; default: the data set of the preset.
        copy: copy the images into the project, so that DVC stores and shares them.
        quick: start with fewer epochs, runs and variants, for a first look.
        preset: preset to start from; default: images, or digits without --images.
        image_size: height and width of the prepared images, in pixels; default: chosen by a probe of a few sizes, if
            the images are much larger than 64 pixels.
        family: kind of network; default: pretrained weights if they are installed and the photos are few, else that of
            the preset.
        from_scratch: start from random weights, also where pretrained ones are installed.
        epochs: epochs of the base model; those of the study and the variants are scaled in proportion.
        minutes: time limit of each training, except those of the study.
    """
    from isoflop.new_project.creation import create_project, show
    from isoflop.new_project.starting_values import Wishes

    if copy and images is None:
        raise UserError("--copy: got no --images, expected a folder of images to copy")
    wishes = Wishes(image_size, family, epochs, minutes, from_scratch)
    show(create_project(folder, images, preset=preset, copy=copy, quick=quick, wishes=wishes))


@command(SETUP, example="isoflop probe --sizes 64 96 128", then="dvc exp run -S prepare.image_size=SIZE")
def probe(*, sizes: Sizes | None = None, minutes: Positive = 2.0, apply: Flag = False, as_json: Json = False) -> None:
    """Measure accuracy and latency at several image sizes.

    Trains a small network at each size for 300 steps, on at most 1,500 of the images. Chooses the smallest size whose
    validation NLL is within one standard error of the lowest, and writes probe.json.

    Args:
        sizes: image sizes in pixels; default: 0.5, 1, 1.5 and 2 times prepare.image_size.
        minutes: time limit; a size that would exceed it is left out.
        apply: also write the chosen size to params.yaml.
        as_json: print the content of probe.json.
    """
    from isoflop.cli.probe import run_probe

    run_probe(find_project(Path.cwd()), sizes, minutes, apply=apply, as_json=as_json)


@command(SETUP, example="pip install --upgrade isoflop && isoflop upgrade && dvc repro", then="dvc repro")
def upgrade(*, force: Flag = False) -> None:
    """Update a project to the installed version of isoflop.

    Rewrites dvc.yaml and code.yaml of a project that `isoflop init` created. `dvc repro` then runs the stages whose
    code changed. Your changes in dvc.yaml are kept where possible and never overwritten without --force.

    Args:
        force: overwrite dvc.yaml even if it has changes; git has the old version.
    """
    from isoflop.project.migration import migrate, unchanged_stages
    from isoflop.project.project_files import upgrade as upgrade_files
    from isoflop.runtime.stage_code import has_own_stages

    project = find_project(Path.cwd())
    is_checkout = has_own_stages(project)
    changed = [] if is_checkout else upgrade_files(project, force=force)
    renamed = migrate(project)
    for line in renamed:
        print(line)
    if renamed and (kept := unchanged_stages(project)):
        print(f"to keep the results of version 0.1: `dvc commit --force {' '.join(kept)}`, then `dvc repro`")
    elif changed:
        print(f"changed code: {', '.join(changed)}; run `dvc repro`")
    else:
        print("up to date" + (": a checkout has its own dvc.yaml and code.yaml" if is_checkout else ""))
    _validate(project)


@command(SETUP, example="isoflop preset cifar10 && dvc repro", then="isoflop check && dvc repro")
def preset(
    name: Annotated[str | None, Parameter(completer=project_presets)] = None,
    /,
    *,
    force: Flag = False,
    as_json: Json = False,
) -> None:
    """List the presets, or write one to params.yaml.

    A params.yaml that is neither committed nor identical to a preset is only overwritten with --force.

    Args:
        name: preset to write to params.yaml; without it the presets are listed.
        force: overwrite a params.yaml that exists nowhere else.
        as_json: print a JSON object: presets (name, description), or applied (name).
    """
    from isoflop.project.presets import apply_preset, read_presets

    project = find_project(Path.cwd())
    if name is None:
        presets = read_presets(project)
        if as_json:
            listed = [{"name": item.name, "description": item.description} for item in presets]
            print(json_text({"presets": listed}))
            return
        width = max(len(item.name) for item in presets)
        for item in presets:
            print(f"{item.name:{width}}  {item.description}".rstrip())
        return
    applied = apply_preset(project, name, force=force)
    if as_json:
        print(json_text({"applied": applied.name}))
        return
    print(f"params.yaml: now preset {applied.name}; run `dvc repro`")
    try:
        _validate(project)
    except UserError as error:
        print(f"warning: {printable(str(error))}", file=sys.stderr)


@command(SETUP, example="isoflop check --cost && dvc repro", then="dvc repro")
def check(*, cost: Flag = False, as_json: Json = False) -> int:
    """Validate params.yaml before any stage runs.

    Prints every mistake on a line, with its line number, in the order of the file: unknown sections and keys, wrong
    types, values out of range, unknown augmentations. Valid values that are probably unintended are warnings.

    With --cost also estimates the minutes and the memory of each stage, from a few training steps of the real networks
    on this machine.

    Args:
        cost: estimate time and memory of each stage; trains for a few steps.
        as_json: print a JSON object: file, stages (number of stages that were checked), mistakes and warnings (line,
            key, message), and with --cost: cost (stage, minutes, memory_mb).
    """
    from isoflop.cli.cost import estimate, show_costs
    from isoflop.cli.remarks import show_remarks
    from isoflop.project.checking import check as validate
    from isoflop.project.checking import remarks, stage_schemas
    from isoflop.runtime.params import ParamsError

    with contextlib.chdir(find_project(Path.cwd())):
        schemas = stage_schemas(Path.cwd())
        mistakes: list[str] = []
        warnings: list[str] = []
        try:
            warnings = validate(schemas.values())
        except ParamsError as error:
            mistakes = error.mistakes
        found = {"mistakes": remarks(mistakes), "warnings": remarks(warnings)}
        costs = estimate(Path.cwd()) if cost and not mistakes else []
    if as_json:
        facts = {name: [asdict(remark) for remark in listed] for name, listed in found.items()}
        spent = {"cost": [asdict(item) for item in costs]} if cost else {}
        print(json_text({"file": "params.yaml", "stages": len(schemas), **facts, **spent}))
        return 1 if mistakes else 0
    show_remarks(**found)
    if mistakes:
        return 1
    print(f"params.yaml: valid for all {len(schemas)} stages")
    if cost:
        show_costs(costs)
    return 0


@command(SETUP, example="isoflop doctor", then="isoflop check && dvc repro")
def doctor(*, as_json: Json = False, cache: Flag = False, remove_damaged: Flag = False) -> None:
    """Find problems of this machine and project, each with its fix.

    Checks Python and its packages, PyTorch and its device, params.yaml, git, DVC and its remote, free disk space and
    interrupted trainings. The exit status is 1 if the pipeline cannot run.

    Args:
        as_json: print a JSON object: findings (about, status: ok, warn or fail, found, cure).
        cache: also verify the checksum of every file in the DVC cache.
        remove_damaged: verify like --cache and delete the damaged files.
    """
    from isoflop.doctor.examining import examine, examine_machine, show

    project = project_around(Path.cwd())
    if project is None:
        findings = examine_machine(Path.cwd())
    else:
        findings = examine(project, cache=cache or remove_damaged, remove_damaged=remove_damaged)
    show(findings, as_json)


@command(
    MACHINES, example="isoflop launch --jobs 2 scaling", then="dvc repro (which executes nothing); isoflop summary"
)
def launch(
    stages: Annotated[list[str] | None, Parameter(name="STAGES")] = None,
    /,
    *,
    address: str | None = None,
    jobs: Count | None = None,
    cpus: Count = 1,
    gpus: Devices = 0,
) -> None:
    """Run independent stages in parallel, on this machine or a Ray cluster.

    Runs the stages and their dependencies as Ray tasks, each in its own copy of the project. Results are exchanged
    through the DVC cache, on a cluster through the default remote; afterwards `dvc repro` executes nothing. The exit
    status is 1 if a stage failed.

    Args:
        stages: stages such as scaling or sweep@24; default: all.
        address: HOST:PORT of a Ray cluster whose nodes have isoflop installed; default: this machine.
        jobs: number of stages that run at the same time on this machine; default: as many as the cores allow.
        cpus: cores and threads per stage.
        gpus: GPUs per stage; may be a fraction.
    """
    from isoflop.launch.on_ray import launch_stages

    launch_stages(find_project(Path.cwd()), stages or [], address=address, jobs=jobs, cpus=cpus, gpus=gpus)


def _validate(project: Path) -> None:
    """Validate params.yaml of ``project``."""
    from isoflop.project.checking import check, stage_schemas

    with contextlib.chdir(project):
        check(stage_schemas(Path.cwd()).values())
