"""Progress of long loops on standard error: a bar on a terminal, elsewhere a line every ten seconds.

The display is drawn from within the loop, not by a thread, so that nothing runs in parallel with code that is timed.
Off a terminal, short loops print nothing. Nested loops share the display. rich chooses colors: none with ``NO_COLOR``.
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
_FIRST_LINE_S, _NEXT_LINE_S = 3.0, 10.0  # to the first and the next line, without a terminal

Item = TypeVar("Item")


class Task:
    """Progress of one loop, counted in ``unit`` (``B``: bytes)."""

    def __init__(self, what: str, total: float | None, unit: str, shown: bool) -> None:
        self.what, self.done, self.total, self.unit = what, 0.0, total, unit
        self._first, self._began = 0.0, time.monotonic()
        self._next = self._began if shown else float("inf")  # time of the next redraw

    def begin(self, done: float) -> None:
        """Start at ``done``, which an earlier process did, so that it does not count toward the speed."""
        self.done = self._first = done
        self._began = time.monotonic()

    def advance(self, count: float = 1) -> None:
        self.update(self.done + count)

    def update(self, done: float, total: float | None = None) -> None:
        """Set what is done, and the total if it has changed. Cheap enough to call at every step."""
        self.done = done
        self.total = self.total if total is None else total
        now = time.monotonic()
        if now >= self._next:
            self._next = now + _REDRAW_S
            _display.show(self, now)

    def text(self, now: float) -> str:
        """Return what is done, the speed, and the time left."""
        seconds, done = now - self._began, self.done - self._first
        parts = [self._amount(self.done) if self.total is None else self._of_total(self.total)]
        if done > 0 and seconds > 0:
            rate = done / seconds
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
    """Show the progress of a loop inside the block, which calls ``advance`` or ``update`` of the task."""
    task = Task(what, total, unit, shown=is_first_process())
    _display.enter(task)
    try:
        yield task
    except BaseException:
        _display.leave(task, whole=False)
        raise
    _display.leave(task, whole=True)


def tracked(items: Iterable[Item], what: str, unit: str, total: float | None = None) -> Iterator[Item]:
    """Yield the items and show the progress; the total is ``total``, or the length of ``items`` if it has one."""
    with progress(what, unit, len(items) if total is None and isinstance(items, Sized) else total) as task:
        for item in items:
            yield item
            task.advance()


class _Display:
    """The display of all running loops, outer loops first."""

    def __init__(self) -> None:
        self._tasks: dict[Task, TaskID | None] = {}
        self._bars: Progress | None = None
        self._next_line = 0.0
        self._printed = False

    def enter(self, task: Task) -> None:
        if not self._tasks:
            self._printed, self._next_line = False, time.monotonic() + _FIRST_LINE_S
            self._bars = _bars() if is_first_process() and _on_terminal() else None
            if self._bars:
                self._bars.start()
        self._tasks[task] = self._bars.add_task(task.what, total=task.total, text="") if self._bars else None
        if self._bars:
            self._bars.refresh()

    def show(self, task: Task, now: float) -> None:
        bar = self._tasks.get(task)
        if self._bars and bar is not None:
            self._bars.update(bar, completed=task.done, total=task.total, text=task.text(now))
            self._bars.refresh()
        elif now >= self._next_line:
            outer = [one for one in self._tasks if one is not task]
            where = "".join(f"{one.what} ({one.text(now).partition(',')[0]}), " for one in outer)
            self._print(f"{where}{task.what}: {task.text(now)}", now)

    def leave(self, task: Task, whole: bool) -> None:
        bar = self._tasks.pop(task, None)
        if self._bars and bar is not None:
            self._bars.remove_task(bar)
        elif whole and self._printed and not self._tasks:
            now = time.monotonic()
            self._print(f"{task.what}: {task.ended(now)}", now)
        if not self._tasks and self._bars:
            self._bars.stop()
            self._bars = None

    def _print(self, line: str, now: float) -> None:
        print(line, file=sys.stderr, flush=True)
        self._printed, self._next_line = True, now + _NEXT_LINE_S


_display = _Display()


def _on_terminal() -> bool:
    return sys.stderr.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")


def _bars() -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = TextColumn("{task.description}"), BarColumn(20), TextColumn("{task.fields[text]}")
    return Progress(*columns, console=Console(stderr=True), transient=True, auto_refresh=False)


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"
