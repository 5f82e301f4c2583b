"""Entry point of the command ``isoflop``: runs a command and turns errors into one line and an exit status."""

from __future__ import annotations

import difflib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn, get_args

from cyclopts import CoercionError, CycloptsError, MissingArgumentError, UnknownCommandError, ValidationError

import isoflop.cli.model_commands
import isoflop.cli.project_commands
import isoflop.cli.result_commands  # noqa: F401  (importing these three registers the commands)
from isoflop.cli.app import app
from isoflop.dvc_guard import guard
from isoflop.runtime.errors import UserError
from isoflop.runtime.terminal import printable

_FAILED, _WRONG_COMMAND_LINE = 1, 2
_BUG = 70  # EX_SOFTWARE of sysexits.h
_INTERRUPTED = 130  # 128 + SIGINT, as shells report it
_BROKEN_PIPE = 141  # 128 + SIGPIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status, see ``isoflop.cli.app.STATUSES``.

    Args:
        arguments: without the program's name; None: those of the process.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if arguments is None:
        for number in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) == signal.SIG_DFL:  # `nohup` ignores SIGHUP
                signal.signal(number, _end)
    guard.install()  # some commands use DVC within this process
    try:
        if not words:
            app.help_print([], console=app.error_console)
            return _WRONG_COMMAND_LINE
        status = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:  # `isoflop predict … | head`: stop quietly, also when Python flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except CycloptsError as error:
        return _fail(_explain(error), _WRONG_COMMAND_LINE)
    except UserError as error:
        return _fail(str(error), _FAILED)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), _FAILED)
    except Exception:  # a bug in isoflop; its own status lets a script tell it from wrong input
        traceback.print_exc()
        return _BUG
    return int(status or 0)


def _end(number: int, _: object) -> NoReturn:
    """Leave through all `finally` clauses, which delete what is half-written."""
    sys.exit(128 + number)


def _fail(message: str, status: int) -> int:
    print("error:", printable(" ".join(message.split())), file=sys.stderr)
    return status


def _explain(error: CycloptsError) -> str:
    """Return what is wrong with the command line, and which help page to read."""
    command = " ".join(("isoflop", *(error.command_chain or ())))
    return f"{command}: {_reason(error)}; see `{command} --help`"


def _reason(error: CycloptsError) -> str:
    if isinstance(error, ValidationError) and error.exception_message:
        return error.exception_message.rstrip(".")
    if isinstance(error, CoercionError) and error.argument:
        name = error.argument.name
        if error.msg:  # of isoflop.cli.options
            return f"{name}: {error.msg}"
        choices = [str(choice) for choice in get_args(error.target_type)]
        if error.token and choices:
            close = difflib.get_close_matches(error.token.value, choices, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            return f"{name}: got {error.token.value!r}, expected one of {', '.join(choices)}{hint}"
    if isinstance(error, MissingArgumentError) and error.argument:
        return f"{error.keyword or error.argument.name}: got no value, expected one"
    message = str(error)
    if isinstance(error, UnknownCommandError):
        message = message.partition(" Available commands:")[0]  # the help page lists all of them
    return message.rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
