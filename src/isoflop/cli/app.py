"""The command-line application: its groups of commands, its help page and how a command is registered.

The commands themselves are functions in ``project_commands``, ``result_commands`` and ``model_commands``; their
signatures define the options. Anything slow to import is imported inside a command when it runs.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib.metadata import version
from itertools import count
from typing import Literal, TypeVar

from cyclopts import App, Group, Parameter

_F = TypeVar("_F", bound=Callable[..., int | None])

STATUSES = {  # exit status → meaning; the only place where they are defined
    0: "success",
    1: "error in the input or the project, or a problem found; one line on stderr",
    2: "wrong command line; one line on stderr",
    70: "bug in isoflop; traceback on stderr",
    129: "ended by SIGHUP, because the terminal was closed",
    130: "interrupted (Ctrl-C)",
    141: "the reader of the output closed the pipe",
    143: "ended by SIGTERM",
}
SETUP = Group("Set up a project", sort_key=1, help="$ isoflop preset digits && isoflop check && dvc repro")
RESULTS = Group("Show results", sort_key=2, help="$ dvc repro && isoflop summary")
PLANNING = Group("Plan the next training", sort_key=3, help="$ isoflop plan --flops 1e12")
SHIPPING = Group("Use and ship models", sort_key=4, help="$ isoflop predict ship/model.onnx photo.jpg --top 3")
MACHINES = Group("Use more cores or machines", sort_key=5, help="$ isoflop launch --jobs 2 scaling")
SHELL = Group("Shell", sort_key=6, help='$ eval "$(isoflop completion bash)"')
_OPTIONS = Group("Options", sort_key=7)

app = App(
    name="isoflop",
    usage="Usage: isoflop COMMAND ...",
    help="How big should my image classifier be, and how small can I ship it?\n\n"
    "`dvc repro` runs the pipeline; these commands prepare it and use its results.",
    help_epilogue="`isoflop COMMAND --help` describes a command, with an example.\n"
    "With --json a command prints one JSON object to stdout.\n\nExit status\n"
    + "\n".join(f"  {status:3}  {meaning}" for status, meaning in STATUSES.items()),
    help_format="plaintext",
    default_parameter=Parameter(negative=()),  # no --no-force, no --empty-mean
    version=lambda: f"isoflop {version('isoflop')}",
    version_format="plaintext",
    suppress_keyboard_interrupt=False,  # main() turns it into an exit status
)
for _flag in ("--help", "--version"):
    app[_flag].group = _OPTIONS
_order = count()


def command(group: Group, example: str, then: str = "") -> Callable[[_F], _F]:
    """Register a function as a command of ``group``; its docstring and signature become the help.

    Args:
        example: a command line that the help ends with.
        then: what to run next, also shown by the help.
    """
    epilogue = f"Example:\n  {example}" + (f"\n\nNext:\n  {then}" if then else "")

    def register(function: _F) -> _F:
        description, _, _ = (inspect.getdoc(function) or "").partition("\n\nArgs:")
        paragraphs = [" ".join(paragraph.split()) for paragraph in description.split("\n\n")]
        page = {"help": "\n\n".join(paragraphs), "help_epilogue": epilogue}
        app.command(function, group=group, sort_key=next(_order), **page)
        return function

    return register


@command(
    SHELL,
    example='eval "$(isoflop completion bash)"   # ~/.bashrc; for zsh ~/.zshrc, after compinit\n'
    "  isoflop completion fish | source     # ~/.config/fish/config.fish",
)
def completion(shell: Literal["bash", "zsh", "fish"], /) -> None:
    """Print a completion script for your shell.

    The script completes commands, options, choices, presets and file names.

    Args:
        shell: your shell.
    """
    print(app.generate_completion(shell=shell))
