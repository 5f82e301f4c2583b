"""A fork of ``tests.fork_server`` becomes the process that was asked for."""

from __future__ import annotations

import atexit
import contextlib
import importlib
import os
import random
import runpy
import signal
import sys
import tempfile
import threading
import time
import types
from pathlib import Path
from typing import Any, NoReturn

# A file to which every fork appends its CPU time and what it still had to import, and every refusal its reason.
LOG = "ISOFLOP_FORK_LOG"


def module_of(request: dict[str, Any]) -> str:
    """Which module ``python -m`` is to run; empty for any other command line."""
    arguments = _without_safe_path(request["arguments"])
    return arguments[1] if request["program"] == "python" and len(arguments) > 1 and arguments[0] == "-m" else ""


def _without_safe_path(arguments: list[str]) -> list[str]:
    return arguments[1:] if arguments[:1] == ["-P"] else arguments


def become(request: dict[str, Any], streams: list[int], path: list[str]) -> NoReturn:
    """Make this process the one that was asked for, run it, and end as it would."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    for text, number in ((sys.stdin, 0), (sys.stdout, 1), (sys.stderr, 2)):
        if os.isatty(number):
            text.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    tempfile.tempdir = None
    random.seed()
    if "torch" in sys.modules:
        sys.modules["numpy"].random.seed()
        sys.modules["torch"].seed()
    sys.dont_write_bytecode = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "tests"]:
        del sys.modules[name]  # it may have tests of its own
    loaded = set(sys.modules)
    _run(request, path, loaded)


def _run(request: dict[str, Any], path: list[str], loaded: set[str]) -> NoReturn:
    program = Path(sys.executable).with_name(request["program"])
    module = module_of(request)
    safe = request["arguments"][:1] == ["-P"]
    first = [] if safe else [request["cwd"] if module else str(program.parent)]
    given = [os.path.abspath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[:] = [*first, *dict.fromkeys(given), *(entry for entry in path if entry not in given)]
    importlib.invalidate_caches()
    sys.orig_argv[:] = [sys.executable, *([] if module else [str(program)]), *request["arguments"]]
    _guard_dvc(path)
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    code = 0
    try:
        if module:
            sys.argv[:] = ["-m", *_without_safe_path(request["arguments"])[2:]]
            runpy._run_module_as_main(module)  # type: ignore[attr-defined]
        else:
            sys.argv[:] = [str(program), *request["arguments"]]
            main.__file__ = str(program)
            exec(compile(program.read_bytes(), program, "exec"), main.__dict__)
    except SystemExit as ended:
        code = _status(ended.code)
    except BaseException as error:
        trace = error.__traceback__.tb_next if error.__traceback__ else None  # without this function
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        code = 1
        if isinstance(error, KeyboardInterrupt):
            code = -signal.SIGINT
    _end(code, loaded)


def _guard_dvc(path: list[str]) -> None:
    """Run the file that adds isoflop's checks to DVC, as Python does at its start."""
    for folder in path:
        if (file := Path(folder, "isoflop-dvc-guard.pth")).is_file():
            exec(file.read_text())


def _status(code: Any) -> int:
    if code is None or isinstance(code, int):
        return int(code or 0) & 0xFF
    print(code, file=sys.stderr)
    return 1


def _end(code: int, loaded: set[str]) -> NoReturn:
    """As the interpreter does: the other threads, what is to be done at exit, the streams."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):
            code = code or 120
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()
        if log := os.environ.get(LOG):
            new = sorted(name for name in set(sys.modules) - loaded if not name.startswith(("isoflop", "stages")))
            with open(log, "a") as file:
                file.write(f"{time.process_time():.2f} s {len(new)} {' '.join(sys.orig_argv[1:])[:80]}: {new}\n")
        if code < 0:
            signal.signal(-code, signal.SIG_DFL)
            os.kill(os.getpid(), -code)
        os._exit(code)
