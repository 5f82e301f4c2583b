"""End commands by signals at random times, run them again, and compare with an undisturbed run.

``python -m benchmarks.kills --kills 60`` runs the smoke pipeline in a temporary clone. Then it ends `dvc repro`,
`dvc exp run`, `isoflop launch`, `isoflop init --copy`, `isoflop release --force` and `isoflop preset --force` in turns,
by six signals. Every second kill is one of `dvc repro`. After each, no process and no temporary file may be left, and
the next undisturbed command must give the results of before. It prints a line of JSON for each kill that breaks this,
and one for all; then it exits with 1 if any did.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil  # type: ignore[import-untyped]
from PIL import Image

from benchmarks.faults import clone_project, leftovers, lock
from isoflop.dvc_guard.guard import is_active

_MARK = "ISOFLOP_BENCHMARK_KILLS"  # environment variable by which the processes of a command are found
_GRACE_S = 90.0  # for a process to end after a signal
_SIGNALS = (signal.SIGKILL, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGABRT)
_STAGES = ("prepare", "train", "distill@distilled", "export@base", "compare", "ship", "report")
_IMAGES = 2000
_MOST = "repro"  # every second kill
# seconds until the signal, at most; 20 for the other commands
_LATEST_S = {"init": 6.0, "release": 8.0, "preset": 2.0}


@dataclass(frozen=True)
class Case:
    """A command, the folder it runs in, and what is wrong after it was ended and run again."""

    command: list[str]
    folder: Path
    problems: Callable[[], Iterator[str]]
    whole_group: bool  # as by Ctrl-C or a closed terminal; else only its first process gets the signal


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60, help="number of kills (default: 60)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the kill times (default: 0)")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has its background ignore some signals, and
    for number in (signal.SIGQUIT, signal.SIGHUP):  # `nohup` another; the commands would inherit that
        signal.signal(number, signal.SIG_DFL)
    if not is_active():
        raise SystemExit("expected an environment with isoflop-dvc-guard.pth; fix: `pip install .`")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "tmp").mkdir()
        os.environ |= {"DVC_NO_ANALYTICS": "1", "TMPDIR": str(folder / "tmp"), _MARK: uuid.uuid4().hex,
                       "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}  # fmt: skip
        cases = _cases(folder, draw)
        others = [kind for kind in cases if kind != _MOST]
        turns = [(number, kind) for number in _SIGNALS for other in others for kind in (_MOST, other)]
        hit: Counter[str] = Counter()
        missed, wrong = 0, 0
        for number, kind in itertools.cycle(turns):
            if hit.total() >= options.kills or missed > 2 * options.kills:
                break
            ended, found = _kill(cases[kind](), number, draw)
            hit[f"{kind}, {number.name}"] += ended
            missed += not ended
            wrong += bool(found)
            if found:
                print(json.dumps({"command": kind, "signal": number.name, "wrong": found}), flush=True)
            progress = f"{hit.total()} of {options.kills} kills, {wrong} wrong"
            print(progress, file=sys.stderr, flush=True)
    print(json.dumps({"kills": hit.total(), "finished_before": missed, "wrong": wrong, "by": hit}), flush=True)
    return int(bool(wrong))


def _cases(folder: Path, draw: random.Random) -> dict[str, Callable[[], Case]]:
    clone = clone_project(folder)
    _run("dvc", "repro", cwd=clone)
    _run("git", "add", "-A", cwd=clone)
    identity = ("-c", "user.name=kills", "-c", "user.email=kills@example.invalid")
    _run("git", *identity, "commit", "-q", "-m", "results", cwd=clone)
    _run("isoflop", "release", "--out", "../release", cwd=clone)
    photos = _photos(folder / "photos")
    wanted = lock(clone)

    def same_results() -> Iterator[str]:
        yield from _finished(clone, "dvc", "repro")
        if unlike := sorted(stage for stage, entry in lock(clone).items() if entry != wanted[stage]):
            yield f"other results of {', '.join(unlike)}"
        if left := leftovers(clone):
            yield f"left {', '.join(left)}"

    def taken_back() -> Iterator[str]:
        yield from _finished(clone, "git", "checkout", "HEAD", "--", "params.yaml", "dvc.lock")
        yield from _finished(clone, "dvc", "checkout", "--force", "--allow-missing")
        yield from same_results()

    def verified() -> Iterator[str]:
        yield from _finished(folder, "isoflop", "verify", "release")
        if left := [path.name for path in folder.iterdir() if path.name.startswith(".")]:
            yield from _finished(clone, "isoflop", "release", "--out", "../release", "--force")
            if left := [path.name for path in folder.iterdir() if path.name.startswith(".")]:
                yield f"left {', '.join(left)}"

    def copied() -> Iterator[str]:
        shutil.rmtree(folder / "project", ignore_errors=True)
        yield from _finished(folder, "isoflop", "init", "project", "--images", "photos", "--copy")
        if len(list((folder / "project" / "data" / "images").rglob("*.png"))) != _IMAGES:
            yield "the next project lacks images"
        if left := [path.name for path in folder.iterdir() if path.name.startswith(".")]:
            yield f"left {', '.join(left)}"
        if len(list(photos.rglob("*.png"))) != _IMAGES:
            yield "images are lost"
        shutil.rmtree(folder / "project", ignore_errors=True)

    def repro() -> Case:
        stage = draw.choice(_STAGES)
        return Case(["dvc", "repro", "--force", "--single-item", stage], clone, same_results, whole_group=True)

    def experiment() -> Case:
        change = f"recipe.epochs={draw.randint(7, 10**6)}"  # a new one each time, which no cache has
        return Case(["dvc", "exp", "run", "-S", change, "train"], clone, taken_back, whole_group=True)

    def launch() -> Case:
        shutil.rmtree(clone / ".dvc" / "cache" / "runs", ignore_errors=True)
        (clone / "dvc.lock").unlink(missing_ok=True)
        return Case(["isoflop", "launch", "--jobs", "2", "ship"], clone, taken_back, whole_group=False)

    def init() -> Case:
        return Case(["isoflop", "init", "project", "--images", "photos", "--copy"], folder, copied, whole_group=False)

    def release() -> Case:
        command = ["isoflop", "release", "--out", "../release", "--force"]
        return Case(command, clone, verified, whole_group=False)

    def whole_params() -> Iterator[str]:
        found = (clone / "params.yaml").read_bytes()
        if found not in [(clone / "presets" / f"{name}.yaml").read_bytes() for name in ("smoke", "digits")]:
            yield "params.yaml is no preset"
        yield from _finished(clone, "git", "checkout", "HEAD", "--", "params.yaml")
        if left := [path.name for path in clone.iterdir() if "params.yaml" in path.name and path.name != "params.yaml"]:
            yield f"left {', '.join(left)}"

    def preset() -> Case:
        return Case(["isoflop", "preset", "digits", "--force"], clone, whole_params, whole_group=False)

    named = {"exp run": experiment, "launch": launch, "init --copy": init, "release --force": release}
    return {_MOST: repro, **named, "preset --force": preset}


def _photos(folder: Path) -> Path:
    draw = np.random.default_rng(0)
    for index in range(_IMAGES):
        file = folder / "ab"[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw.integers(0, 256, (48, 48, 3), np.uint8)).save(file)
    return folder


def _kill(case: Case, number: signal.Signals, draw: random.Random) -> tuple[bool, list[str]]:
    """Run a command and end it; return whether it still ran then, and what is wrong afterwards."""
    output = subprocess.DEVNULL
    process = subprocess.Popen(case.command, cwd=case.folder, stdout=output, stderr=output, start_new_session=True)
    after = draw.uniform(0.2, _LATEST_S.get(case.command[1], 20.0))
    problems = []
    try:
        process.wait(after)
        ended = False
    except subprocess.TimeoutExpired:
        ended = True
        if case.whole_group:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        try:
            process.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            problems.append(f"still runs {_GRACE_S:.0f} s after the signal")
            process.kill()
            process.wait()
    if left := _left_processes():
        problems.append(f"left the processes {', '.join(left)}")
    for path in Path(os.environ["TMPDIR"]).glob("isoflop-*"):
        problems.append(f"left {path.name} in the folder for temporary files")
        shutil.rmtree(path, ignore_errors=True)
    try:
        problems += case.problems()
    except subprocess.CalledProcessError as error:
        problems.append(str(error))
    return ended, [f"after {after:.2f} s: {problem}" for problem in problems]


def _left_processes() -> list[str]:
    """Return the commands of processes that do not end in time, and end them."""
    until = time.monotonic() + _GRACE_S / 3
    while (left := list(_marked())) and time.monotonic() < until:
        time.sleep(0.2)
    names = [" ".join(process.info["cmdline"] or ())[:80] for process in left]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return names


def _marked() -> Iterator[psutil.Process]:
    for process in psutil.process_iter(["cmdline", "status"]):
        with contextlib.suppress(psutil.Error, OSError):
            is_marked = process.environ().get(_MARK) == os.environ[_MARK]
            if is_marked and process.pid != os.getpid() and process.info["status"] != psutil.STATUS_ZOMBIE:
                yield process


def _finished(folder: Path, *command: str) -> Iterator[str]:
    """Run a command; yield its last line if it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-4:]
        yield f"`{' '.join(command)}` exited with {done.returncode}: {' / '.join(last)[:600]}"


def _run(*command: str, cwd: Path) -> None:
    subprocess.run(command, cwd=cwd, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    sys.exit(main())
