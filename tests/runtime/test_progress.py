"""Progress as it is seen: a bar on a terminal, sparse lines elsewhere, and no trace where a loop is short."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from isoflop.runtime.progress import Task, progress, tracked
from tests.conftest import ROOT
from tests.terminals import on_terminal

LOOPS = """
import time
from isoflop.runtime.progress import progress, tracked
for width in tracked([8, 16], "widths", "runs"):
    with progress("training", "images", 300) as task:
        for _ in range(3):
            time.sleep(0.12)
            task.advance(100)
print("done")
"""


def test_a_terminal_shows_how_far_how_fast_and_how_long_still() -> None:
    seen = on_terminal(LOOPS)
    assert re.search(r"training .*200 of 300 images, [\d,]+ images/s, \d\.\d s left", seen)
    assert re.search(r"widths .*1 of 2 runs, [\d.]+ runs/s, \d\.\d s left", seen)
    assert "\x1b[38;5;" in seen or re.search("\x1b\\[3\\d", seen), "no color"
    last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen).replace("\r", "\n").split("\n")
    assert [line for line in last if line.strip()][-1] == "done"


def test_no_color_is_respected() -> None:
    seen = on_terminal(LOOPS, NO_COLOR="1")
    assert "200 of 300 images" in seen
    assert not re.search(r"\x1b\[(?:\d+;)*(?:3[0-8]|9\d)", seen), "a color in spite of NO_COLOR"


def test_a_dumb_terminal_gets_no_bar() -> None:
    assert on_terminal(LOOPS, TERM="dumb") == "done\r\n"


def test_lines_are_sparse_and_what_is_short_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(tracked(range(5), "counting", "numbers")) == [0, 1, 2, 3, 4]
    assert capsys.readouterr().err == ""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr("isoflop.runtime.progress.time.monotonic", lambda: now[0])
    return now


def test_a_long_loop_says_a_line_now_and_then_and_one_at_its_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in tracked(range(4), "widths", "runs"):
        with progress("training", "images", 1000) as task:
            for _ in range(10):
                clock[0] += 1
                task.advance(100)
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        "widths (0 of 4 runs), training: 300 of 1,000 images, 100 images/s, 7.0 s left",
        "widths (1 of 4 runs), training: 300 of 1,000 images, 100 images/s, 7.0 s left",
        "widths (2 of 4 runs), training: 300 of 1,000 images, 100 images/s, 7.0 s left",
        "widths (3 of 4 runs), training: 300 of 1,000 images, 100 images/s, 7.0 s left",
        "widths: 4 runs in 40 s",
    ]


def test_what_an_earlier_process_did_does_not_count_as_fast(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("downloading file", "B", 4_000_000) as task:
        task.begin(3_000_000)
        clock[0] += 5
        task.advance(500_000)
    assert capsys.readouterr().err.splitlines()[0] == "downloading file: 3.5 MB of 4.0 MB, 100.0 kB/s, 5.0 s left"


@pytest.mark.parametrize(("seconds", "left"), [(3.21, "3.2 s"), (47, "47 s"), (600, "10 min"), (8000, "2 h 13 min")])
def test_durations_are_said_as_one_says_them(clock: list[float], seconds: float, left: str) -> None:
    task = Task("waiting", 2, "turns", shown=False)
    clock[0] += seconds
    task.advance()
    assert task.text(clock[0]).endswith(f"{left} left")


def test_other_processes_of_a_training_are_silent(
    clock: list[float], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    for _ in tracked(range(3), "training", "steps"):
        clock[0] += 60
    assert capsys.readouterr().err == ""


def test_every_stage_goes_through_it() -> None:
    """No second style: neither rich's nor Lightning's own bars."""
    for file in sorted(Path(ROOT, "src").rglob("*.py")):
        if file.name != "progress.py":
            assert not re.search(r"rich\.progress|ProgressBar|tqdm", file.read_text()), file
