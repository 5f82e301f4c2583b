"""What ``isoflop --help`` says: the commands by what one wants of them, an example each, and what a status means."""

from __future__ import annotations

import argparse
import difflib
from typing import Any, NoReturn

_GROUPS = {  # what one wants → the commands for it, and an example
    "Start": (("init", "upgrade", "preset", "check", "doctor"), "isoflop preset digits && isoflop check && dvc repro"),
    "See what came out": (("summary", "report", "savings"), "dvc repro && isoflop summary"),
    "Plan the next size": (("plan", "fit"), "isoflop plan --flops 1e12"),
    "Ship": (("predict", "demo", "compress", "release", "verify"), "isoflop predict ship/model.onnx photo.jpg --top 3"),
    "Use more machines": (("launch",), "isoflop launch --jobs 2 scaling"),
    "Be at home in the shell": (("completion",), 'eval "$(isoflop completion bash)"'),
}
_NEXT = {  # command → what to do when it is through
    "init": "isoflop check && dvc repro",
    "preset": "isoflop check && dvc repro",
    "check": "dvc repro",
    "doctor": "isoflop check && dvc repro",
    "summary": "open report/index.html, or ask the law: isoflop plan --flops 1e12",
    "plan": "dvc exp run -S train.width=WIDTH trains that size",
    "fit": "look at the figures in the folder; scaling.json says what speaks against the law",
    "compress": "isoflop compress again with other --max-flips, or ship model-int8.onnx",
    "launch": "dvc repro, which then has nothing to execute; isoflop summary",
    "release": "isoflop verify release",
}
STATUSES = {  # exit status → what it means; the one place where they are written
    0: "done",
    1: "a mistake in the input or the project, or something found amiss: one line on stderr says what and where",
    2: "a wrong command line: one line on stderr",
    70: "a bug of isoflop's: a traceback on stderr",
    130: "interrupted (Ctrl-C)",
    141: "whoever read the output has closed it",
}


class CommandParser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line, and what to do next below the help of a command."""

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        try:
            super()._check_value(action, value)
        except argparse.ArgumentError:
            nearest = difflib.get_close_matches(str(value), map(str, action.choices or ()), n=1)
            if not nearest:
                raise
            raise argparse.ArgumentError(action, f"invalid choice: {value!r}; did you mean {nearest[0]!r}?") from None

    def error(self, message: str) -> NoReturn:
        said = " ".join(message.split())
        self.exit(2, f"error: {self.prog}: {said}; `{self.prog} --help` says more\n")


class WholeParser(CommandParser):
    """Of ``isoflop`` itself: its commands are too many for one list."""

    commands: argparse._SubParsersAction[CommandParser]

    def format_help(self) -> str:
        shorts = {action.dest: action.help or "" for action in self.commands._choices_actions}
        grouped = {name for names, _ in _GROUPS.values() for name in names}
        groups = {**_GROUPS, "More": (tuple(name for name in shorts if name not in grouped), "")}
        width = max(map(len, shorts))
        parts = [self.format_usage(), f"\n{self.description}\n"]
        for title, (names, example) in groups.items():
            lines = [f"  {name:{width}}  {shorts[name]}" for name in names if name in shorts]
            shown = f"  {'':{width}}  $ {example}\n" if example else ""
            parts += [f"\n{title}\n", "\n".join(lines), f"\n{shown}"] if lines else []
        parts.append("\nisoflop COMMAND --help says more, with an example and what comes next.\n")
        parts.append("With --json a command prints one JSON object to stdout, and errors stay one line on stderr.\n")
        parts.append("\nExit status\n")
        parts += [f"  {status:3}  {meaning}\n" for status, meaning in STATUSES.items()]
        return "".join(parts)


def epilog(command: str, example: str) -> str:
    """Below the help of a command."""
    then = f"\nnext:\n  {_NEXT[command]}" if command in _NEXT else ""
    return f"example:\n  {example}{then}"
