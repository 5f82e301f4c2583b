"""The command ``isoflop``: what one does beside ``dvc repro``. Each command imports what it needs when it runs."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from isoflop.cli.arguments import parser
from isoflop.runtime.errors import UserError, unmade

_BUG = 70  # EX_SOFTWARE of sysexits.h
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, see ``isoflop.runtime.command_help.STATUSES``."""
    whole = parser()
    options = whole.parse_args(arguments)
    if options.command is None:
        whole.print_help(sys.stderr)
        return 2
    try:
        status = _COMMANDS[options.command](options) or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # `isoflop predict … | head`: the rest is not wanted, nor a complaint at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except UserError as error:
        return _failed(str(error))
    except OSError as error:
        return _failed(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception:  # a bug of ours; a script can tell it from a mistake of its own
        traceback.print_exc()
        return _BUG
    return status


def find_project(start: Path) -> Path:
    """The nearest folder from ``start`` upward that holds a dvc.yaml.

    Raises:
        UserError: there is none.
    """
    project = project_around(start)
    if project is None:
        raise UserError(f"{start}: found no dvc.yaml here or in a folder above, expected to be inside a project")
    return project


def project_around(start: Path) -> Path | None:
    """The nearest folder from ``start`` upward that holds a dvc.yaml; None where there is none."""
    return next((folder for folder in (start, *start.parents) if (folder / "dvc.yaml").is_file()), None)


def _nearby(project: Path) -> Path:
    """The same folder as seen from here: messages name files as one would."""
    return Path(os.path.relpath(project))


def _failed(message: str) -> int:
    print("error:", " ".join(message.split()), file=sys.stderr)
    return 1


def _init(options: argparse.Namespace) -> None:
    from isoflop.new_project.creation import create_project, show

    if options.copy and options.images is None:
        raise UserError("--copy: found without --images, expected a folder of images to copy")
    how = {name: getattr(options, name) for name in ("preset", "copy", "quick")}
    show(create_project(options.folder, options.images, **how))


def _upgrade(options: argparse.Namespace) -> None:
    from isoflop.project.checking import check, stage_schemas
    from isoflop.project.project_files import upgrade

    project = find_project(Path.cwd())
    changed = upgrade(project, force=options.force)
    print(f"other code than before: {', '.join(changed)}; `dvc repro` runs them" if changed else "nothing has changed")
    with contextlib.chdir(project):
        check(stage_schemas(project).values())


def _preset(options: argparse.Namespace) -> None:
    from isoflop.project.checking import check, stage_schemas
    from isoflop.project.presets import apply_preset, read_presets

    project = find_project(Path.cwd())
    if options.name is None:
        presets = read_presets(project)
        if options.json:
            return _print_json({"presets": [{"name": item.name, "description": item.description} for item in presets]})
        width = max(len(preset.name) for preset in presets)
        for preset in presets:
            print(f"{preset.name:{width}}  {preset.description}".rstrip())
    else:
        preset = apply_preset(project, options.name, force=options.force)
        if options.json:
            return _print_json({"applied": preset.name})
        print(f"params.yaml is now the preset {preset.name}; `dvc repro` runs it")
        with contextlib.chdir(project):
            try:
                check(stage_schemas(Path.cwd()).values())
            except UserError as error:
                print(f"warning: {error}", file=sys.stderr)


def _check(options: argparse.Namespace) -> None:
    from isoflop.project.checking import check, stage_schemas

    with contextlib.chdir(find_project(Path.cwd())):
        schemas = stage_schemas(Path.cwd())
        diagnostics = check(schemas.values())
    for diagnostic in diagnostics:
        print(f"warning: {diagnostic}", file=sys.stderr)
    if options.json:
        return _print_json({"file": "params.yaml", "stages": len(schemas)})
    print(f"params.yaml: fits all {len(schemas)} stages")


def _doctor(options: argparse.Namespace) -> None:
    from isoflop.cli.doctor import examine, examine_machine, show

    project = project_around(Path.cwd())
    if project is None:
        found = examine_machine(Path.cwd())
    else:
        found = examine(project, cache=options.cache or options.remove_damaged, remove_damaged=options.remove_damaged)
    show(found, as_json=options.json)


def _predict(options: argparse.Namespace) -> int:
    from isoflop.inference.prediction import find_images, open_model, predict, show
    from isoflop.runtime.progress import tracked

    if not options.model.exists() and _is_output(options.model):
        raise unmade(options.model)
    classifier = open_model(options.model)
    images = find_images(options.images)
    in_tables = sys.stdout.isatty() and not options.json  # which show how far it is
    waiting = iter(images) if in_tables else tracked(images, "predicting", "images")
    return 1 if show(predict(classifier, waiting, options.top), as_json=options.json) else 0


def _is_output(model: Path) -> bool:
    """Whether it is one of the project's models, there or not."""
    with contextlib.suppress(UserError):
        project = find_project(Path.cwd())
        return any(model.resolve().is_relative_to(project / folder) for folder in ("ship", "onnx"))
    return False


def _compress(options: argparse.Namespace) -> None:
    from isoflop.cli.compress import show
    from isoflop.compression.foreign_models import compress
    from isoflop.compression.quantization import Quantize

    params = Quantize(
        method=options.method,
        percentile=99.99,
        calibration_images=options.images,
        max_accuracy_drop=options.max_flips,
        keep_last_layer_float=True,
        portable=options.portable,
    )
    pixels = {name: getattr(options, name) for name in ("size", "scale", "mean", "std")}
    found = compress(options.model, options.calibration, options.out, params, **pixels, force=options.force)
    _print_json(found) if options.json else show(found, options.out)


def _summary(options: argparse.Namespace) -> None:
    from isoflop.cli.summary import print_summary

    print_summary(find_project(Path.cwd()), as_json=options.json)


def _report(options: argparse.Namespace) -> None:
    from isoflop.report.compare import write_comparison

    project = find_project(Path.cwd())
    report = _nearby(project) / "report" / "index.html"
    if options.compare:
        file = options.out or report.with_name("compare.html")
        print(f"{file}: {' beside '.join(write_comparison(project, options.compare, file))}")
    elif report.is_file():
        print(report)
    else:
        raise unmade(report)


def _launch(options: argparse.Namespace) -> None:
    from isoflop.cli.launch import launch

    asked = {name: getattr(options, name) for name in ("address", "jobs", "cpus", "gpus")}
    launch(find_project(Path.cwd()), options.stages, **asked)


def _release(options: argparse.Namespace) -> None:
    from isoflop.cli.release import release

    manifest = release(_nearby(find_project(Path.cwd())), options.out, key=options.key, force=options.force)
    if options.json:
        return _print_json(manifest)
    signed = "signed" if options.key else "not signed"
    print(f"{options.out}: {manifest['chosen']}, code {manifest['code']['revision'] or 'outside git'}, {signed}")


def _demo(options: argparse.Namespace) -> None:
    from isoflop.demo.server import serve

    folder = options.folder or _nearby(find_project(Path.cwd())) / "ship" / "demo"
    serve(folder, options.port, browser=not options.no_browser)


def _verify(options: argparse.Namespace) -> None:
    from isoflop.cli.release import verify

    checked = verify(options.folder, options.public_key)
    if options.json:
        return _print_json({"folder": str(options.folder), "checked": checked})
    print("\n".join(checked))


def _savings(options: argparse.Namespace) -> None:
    from isoflop.cli.savings import show, stage_costs

    project = _nearby(find_project(Path.cwd()))
    show(project, stage_costs(project), as_json=options.json)


def _plan(options: argparse.Namespace) -> None:
    from isoflop.cli.law_commands import plan, print_plan

    asked = {name: getattr(options, name) for name in ("flops", "loss", "parameters", "latency_ms")}
    print_plan(*plan(_nearby(find_project(Path.cwd())), **asked), as_json=options.json)


def _fit(options: argparse.Namespace) -> None:
    from isoflop.cli.law_commands import fit_table, print_fit
    from isoflop.scaling.tables import Columns, read_table

    columns = Columns(**{name: getattr(options, name) for name in Columns.__dataclass_fields__})
    study = read_table(options.table, columns, options.where or [], options.chance_loss)
    found = fit_table(
        study,
        options.out,
        loss=options.objective,
        bootstraps=options.bootstraps,
        seed=options.bootstrap_seed,
        force=options.force,
    )
    print_fit(found, options.out, as_json=options.json)


def _completion(options: argparse.Namespace) -> None:
    import shtab

    from isoflop.project.presets import presets_of_package

    whole = parser()
    presets = [preset.name for preset in presets_of_package()]
    for name, command in whole.commands.choices.items():
        for action in command._actions:
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
            if (name, action.dest) in (("preset", "name"), ("init", "preset")):
                action.choices = presets  # here alone: a project may have others
    print(shtab.complete(whole, options.shell))


def _print_json(found: dict[str, Any]) -> None:
    print(json.dumps(found, indent=1))


_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "init": _init,
    "upgrade": _upgrade,
    "preset": _preset,
    "check": _check,
    "doctor": _doctor,
    "predict": _predict,
    "compress": _compress,
    "summary": _summary,
    "report": _report,
    "savings": _savings,
    "demo": _demo,
    "release": _release,
    "verify": _verify,
    "launch": _launch,
    "plan": _plan,
    "fit": _fit,
    "completion": _completion,
}


if __name__ == "__main__":
    sys.exit(main())
