"""How far a long loop is, on standard error: a bar on a terminal, elsewhere a line now and then; in one style.

It is drawn when the loop says how far it is, and by no thread: nothing runs beside what is timed. What is short says
nothing where lines are all there is. Loops within loops share the display. Colors go by rich: none with ``NO_COLOR``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from isoflop.runtime.processes import is_first_process

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_REDRAW_S = 0.1
_FIRST_LINE_S, _NEXT_LINE_S = 3.0, 10.0  # of lines, where there is no terminal

Item = TypeVar("Item")


class Task:
    """One loop: what it does, and how far it is in ``unit``s (``B``: bytes)."""

    def __init__(self, what: str, total: float | None, unit: str, shown: bool) -> None:
        self.what, self.done, self.total, self.unit = what, 0.0, total, unit
        self._first, self._began = 0.0, time.monotonic()
        self._next = self._began if shown else float("inf")  # when to show it again

    def begin(self, done: float) -> None:
        """So much was done before, by an earlier process: it does not count as fast."""
        self.done = self._first = done
        self._began = time.monotonic()

    def advance(self, count: float = 1) -> None:
        self.update(self.done + count)

    def update(self, done: float, total: float | None = None) -> None:
        """Say how far it is, and how far it goes where that has changed; cheap, however often it is called."""
        self.done = done
        self.total = self.total if total is None else total
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _REDRAW_S
            _display.show(self, now)

    def told(self, now: float) -> str:
        """How far, how fast, and how long still."""
        taken, made = now - self._began, self.done - self._first
        parts = [self._amount(self.done) if self.total is None else self._of_total(self.total)]
        if made > 0 and taken > 0:
            rate = made / taken
            parts.append(f"{self._amount(rate)}/s" if rate >= 1 or self.unit == "B" else f"{1 / rate:.3g} s each")
            if self.total is not None and self.done < self.total:
                parts.append(f"{_duration((self.total - self.done) / rate)} left")
        return ", ".join(parts)

    def ended(self, now: float) -> str:
        return f"{self._amount(self.done)} in {_duration(now - self._began)}"

    def _of_total(self, total: float) -> str:
        if self.unit == "B":
            return f"{self._amount(self.done)} of {self._amount(total)}"
        return f"{self.done:,.0f} of {total:,.0f} {self.unit}"

    def _amount(self, count: float) -> str:
        if self.unit == "B":
            from rich.filesize import decimal

            return decimal(int(count))
        return f"{count:,.0f} {self.unit}" if count >= 100 or count == int(count) else f"{count:.3g} {self.unit}"


@contextmanager
def progress(what: str, unit: str, total: float | None = None) -> Iterator[Task]:
    """Show a loop that calls ``advance`` or ``update`` of what it is given, as long as the block lasts."""
    task = Task(what, total, unit, shown=is_first_process())
    _display.enter(task)
    try:
        yield task
    except BaseException:
        _display.leave(task, whole=False)
        raise
    _display.leave(task, whole=True)


def tracked(items: Iterable[Item], what: str, unit: str, total: float | None = None) -> Iterator[Item]:
    """The items, as one goes through them; how many there are is known of what has a length."""
    with progress(what, unit, len(items) if total is None and isinstance(items, Sized) else total) as task:
        for item in items:
            yield item
            task.advance()


class _Display:
    """What is shown of the loops that run, the outer ones first."""

    def __init__(self) -> None:
        self._tasks: dict[Task, TaskID | None] = {}
        self._bars: Progress | None = None
        self._next_line = 0.0
        self._said = False

    def enter(self, task: Task) -> None:
        if not self._tasks:
            self._said, self._next_line = False, time.monotonic() + _FIRST_LINE_S
            self._bars = _bars() if is_first_process() and _on_terminal() else None
            if self._bars:
                self._bars.start()
        self._tasks[task] = self._bars.add_task(task.what, total=task.total, told="") if self._bars else None
        if self._bars:
            self._bars.refresh()

    def show(self, task: Task, now: float) -> None:
        number = self._tasks.get(task)
        if self._bars and number is not None:
            self._bars.update(number, completed=task.done, total=task.total, told=task.told(now))
            self._bars.refresh()
        elif now >= self._next_line:
            outer = [one for one in self._tasks if one is not task]
            where = "".join(f"{one.what} ({one.told(now).partition(',')[0]}), " for one in outer)
            self._say(f"{where}{task.what}: {task.told(now)}", now)

    def leave(self, task: Task, whole: bool) -> None:
        number = self._tasks.pop(task, None)
        if self._bars and number is not None:
            self._bars.remove_task(number)
        elif whole and self._said and not self._tasks:
            now = time.monotonic()
            self._say(f"{task.what}: {task.ended(now)}", now)
        if not self._tasks and self._bars:
            self._bars.stop()
            self._bars = None

    def _say(self, line: str, now: float) -> None:
        print(line, file=sys.stderr, flush=True)
        self._said, self._next_line = True, now + _NEXT_LINE_S


_display = _Display()


def _on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[told]}")
    return Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
