"""Running a typed function as a pipeline stage: its signature is the contract of the stage.

``main(params: Params, data: In, model: Out)`` becomes ``--data PATH --model PATH``, with ``--variant NAME`` where a
field of ``Params`` is ``varied``. Outputs are written to temporary paths and renamed when the function has
returned, so that a partial output is never mistaken for a complete one.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import inspect
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_args, get_origin

from isoflop.runtime.damage import check_inputs
from isoflop.runtime.errors import UserError, is_out_of_memory
from isoflop.runtime.executions import log_execution
from isoflop.runtime.git_tracking import check_not_in_git
from isoflop.runtime.inputs_of_stage import inputs_of_stage
from isoflop.runtime.params import PARAMS_FILE, Section, read_params, replaced_keys, validated
from isoflop.runtime.processes import is_first_process, process_name, work_alone
from isoflop.runtime.signature import In, Out, contract, is_varied, option
from isoflop.runtime.stage_code import check_own_code
from isoflop.runtime.terminal import printable

_INTERRUPTED = 130  # 128 + SIGINT
_LEAST_FREE_BYTES = 16 * 1024  # a few blocks: with less the disk counts as full


def run(main: Callable[..., None], *, whole_params: bool = False) -> None:
    """Run ``main`` as a command: arguments from the command line, parameters from params.yaml.

    ``whole_params`` also validates the sections of all other stages. The first and the long stages use it, so that a
    mistake in a later section is reported before hours of training, not after.

    Exits with status 1 and one line on stderr for a mistake that the user can fix (UserError, a full disk, too little
    memory, an unreadable file) and with 130 on an interrupt; any other exception keeps its traceback. If several
    processes train together (``Section.is_shared``), each runs the whole function, and only the outputs of the first
    are kept; any other stage is a process of its own, whatever started it.
    """
    arguments, state = contract(main), _Run()
    try:
        check_own_code()  # first: other code may have other options
        values = vars(_parser(main, arguments).parse_args())
        state.variant = values.pop("variant", None)
        if whole_params:
            # by name: `project` is a layer above this one
            importlib.import_module("isoflop.project.checking").check_values_of_others(Path())
        _execute(main, arguments, values, state)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    except Exception as error:
        message = _one_line(error, state.outputs)
        if message is None:
            raise
        for in_section, in_variant in state.replaced.items():  # where the user wrote the value
            message = message.replace(f"{PARAMS_FILE}: {in_section}: ", f"{PARAMS_FILE}: {in_variant}: ")
        stage = Path(sys.argv[0]).stem
        sys.exit(
            printable(f"error: {stage}@{state.variant}: {message}" if state.variant else f"error: {stage}: {message}")
        )
    finally:
        for partial in state.outputs.values():
            _remove(partial)


@dataclass
class _Run:
    """What is known of a run, also when it fails.

    Attributes:
        outputs: temporary path by final path.
        replaced: key of the variant by the key of the section that it replaces.
    """

    began: float = field(default_factory=time.monotonic)
    variant: str | None = None
    outputs: dict[Path, Path] = field(default_factory=dict)
    replaced: dict[str, str] = field(default_factory=dict)


def _execute(main: Callable[..., None], arguments: dict[str, Any], values: dict[str, Any], state: _Run) -> None:
    """Run ``main`` on checked inputs, check that nothing changed meanwhile, and move its outputs to their places."""
    process = process_name()
    sections = [kind for kind in arguments.values() if isinstance(kind, type) and issubclass(kind, Section)]
    content = read_params(PARAMS_FILE) if sections else {}
    inputs = _inputs(arguments, values)
    before = inputs_of_stage(sections, content, state.variant, inputs)
    values |= _sections(arguments, content, state.variant)
    for section in sections:
        state.replaced |= replaced_keys(section, content, PARAMS_FILE, state.variant)
    for name, annotation in arguments.items():
        if annotation == Out:
            final = values[name]
            values[name] = state.outputs[final] = _partial(final, process)
    check_not_in_git(state.outputs)
    check_inputs(inputs)
    main(**values)
    if not is_first_process():
        return
    content = read_params(PARAMS_FILE) if sections else {}
    before.check(inputs_of_stage(sections, content, state.variant, inputs))
    if missing := [final for final, partial in state.outputs.items() if not partial.exists()]:
        raise RuntimeError(f"the stage wrote no {', '.join(map(str, missing))}")
    for final, partial in state.outputs.items():
        _replace(partial, final)
    log_execution(state.outputs, time.monotonic() - state.began)


def _sections(arguments: dict[str, Any], content: dict[str, Any], variant: str | None) -> dict[str, Section]:
    """Validate the parameters of a stage, and leave the launcher that started this process if it shares its work."""
    sections = {
        name: validated(kind, content, PARAMS_FILE, variant)
        for name, kind in arguments.items()
        if isinstance(kind, type) and issubclass(kind, Section)
    }
    if not any(section.is_shared for section in sections.values()):
        work_alone()
    return sections


def _inputs(arguments: dict[str, Any], values: dict[str, Any]) -> list[Path]:
    lists = [
        values[name] if kind == list[In] else [values[name]]
        for name, kind in arguments.items()
        if kind in (In, list[In])
    ]
    return [path for paths in lists for path in paths]


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {self.prog}: {' '.join(message.split())}; see `{self.prog} --help`\n")


def _parser(main: Callable[..., None], arguments: dict[str, Any]) -> argparse.ArgumentParser:
    module = inspect.getmodule(main)
    parser = _Parser(description=module.__doc__ if module else None)
    if is_varied(arguments):
        parser.add_argument("--variant", required=True, metavar="NAME")
    for name, annotation in arguments.items():
        if isinstance(annotation, type) and issubclass(annotation, Section):
            continue
        if get_origin(annotation) is list:
            parser.add_argument(option(name), type=Path, nargs="+", required=True, metavar="PATH")
        else:
            kind = get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation
            parser.add_argument(option(name), type=kind, required=True, metavar=kind.__name__.upper())
    return parser


def _partial(final: Path, process: str) -> Path:
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}.partial{process}{final.suffix}")
    _remove(partial)
    return partial


def _replace(partial: Path, final: Path) -> None:
    _remove(final)
    os.replace(partial, final)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _one_line(error: Exception, outputs: Iterable[Path]) -> str | None:
    """Return the message for a mistake that the user can fix; None for any other error."""
    message = " ".join(str(error).split())
    if isinstance(error, UserError):
        return message
    named = error.filename if isinstance(error, OSError) else None
    # libraries report a full disk in errors of their own, some without naming the cause
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in message or _is_full(outputs):
        where = named or ", ".join(map(str, outputs))
        return f"{where}: the disk is full; fix: free some space and rerun the command"
    if is_out_of_memory(error):
        return f"out of memory; fix: a smaller recipe.batch_size or train.width ({message[:200]})"
    if isinstance(error, OSError):
        return f"{named}: {error.strerror}" if named else message
    return None


def _is_full(outputs: Iterable[Path]) -> bool:
    folders = [final.parent for final in outputs if final.parent.is_dir()]
    return any(shutil.disk_usage(folder).free < _LEAST_FREE_BYTES for folder in folders)
