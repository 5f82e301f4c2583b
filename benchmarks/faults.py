"""Kill stages at random times, finish with `dvc repro`, and compare the results with an undisturbed run.

``python -m benchmarks.faults --kills 2`` runs the smoke pipeline in a temporary clone. Then it kills every stage
``--kills`` times (SIGKILL to all of its processes, at a random time within the stage's duration), runs `dvc repro` and
compares dvc.lock, except for outputs that contain timings. Finally it kills the base training after its first
checkpoint and resumes it. It prints one line of JSON for each part and exits with 1 if any result differs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import track

from isoflop.project.graph import read_graph
from isoflop.project.yaml_text import load

ROOT = Path(__file__).resolve().parents[1]
_MEASURES_TIME = (
    "metrics/throughput.json",
    "metrics/latency.json",
    "metrics/sessions.json",
    "plots/tradeoff",
    "ship",
    "report",
    "study",
)


def clone_project(folder: Path, preset: str = "smoke") -> Path:
    """Copy the project in its current state, with ``preset`` and without results."""
    clone = folder / "clone"
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in listed.stdout.splitlines():
        if (ROOT / name).is_file() and name != "dvc.lock":
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, clone / name)
    shutil.copy(ROOT / "presets" / f"{preset}.yaml", clone / "params.yaml")
    identity = ["-c", "user.name=faults", "-c", "user.email=faults@example.invalid"]
    for command in (["git", "init", "-q"], ["git", "add", "-A"], ["git", *identity, "commit", "-q", "-m", "start"]):
        subprocess.run(command, cwd=clone, check=True)
    return clone


def repro(clone: Path, *arguments: str) -> str:
    """Run `dvc repro` and return its output. If a kill truncated one of DVC's lock files, apply `isoflop doctor`'s fix
    first."""
    run = partial(subprocess.run, _command(*arguments), cwd=clone, capture_output=True, text=True, check=False)
    done = run()
    for message, truncated in (("Unable to read RWLock-file", ".dvc/tmp/rwlock"), ("dvc.lock", "dvc.lock")):
        if done.returncode and message in done.stderr:
            print(json.dumps({"truncated": truncated}), flush=True)
            (clone / truncated).unlink()
            subprocess.run(_command(), cwd=clone, check=True, stdout=subprocess.DEVNULL)  # with the run cache
            done = run()
    if done.returncode:
        raise SystemExit(
            f"dvc repro {' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done.stdout


def repro_killed(clone: Path, after: float, *arguments: str) -> bool:
    """Run `dvc repro` and kill it after ``after`` seconds; return False if it had finished by then."""
    process = subprocess.Popen(
        _command(*arguments), cwd=clone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def lock(clone: Path) -> dict[str, Any]:
    """Return the stages of dvc.lock, without outputs that contain timings or depend on them."""
    stages = load((clone / "dvc.lock").read_text())["stages"]  # like DVC; PyYAML reads 1e-05 as a string
    kept = {}
    for name, stage in stages.items():
        parts = {kind: _timeless(stage.get(kind, [])) for kind in ("deps", "outs")}
        kept[name] = {"cmd": stage["cmd"], "params": stage.get("params")} | parts
    return kept


def leftovers(clone: Path) -> list[str]:
    """Return partial outputs left by a kill; the next run of the stage removes them."""
    return [str(path.relative_to(clone)) for path in clone.rglob(".*.partial*") if ".dvc" not in path.parts]


def _timeless(entries: list[dict[str, Any]]) -> dict[str, str]:
    kept = [entry for entry in entries if not entry["path"].startswith(_MEASURES_TIME)]
    # the folders metrics and plots contain timings, too
    return {entry["path"]: entry["md5"] for entry in kept if entry["path"] not in ("metrics", "plots")}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dvc", "repro", *arguments]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2, help="kills per stage (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the kill times (default: 0)")
    options = parser.parse_args()
    draw = random.Random(options.seed)
    os.environ |= {"DVC_NO_ANALYTICS": "1", "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with tempfile.TemporaryDirectory() as folder:
        clone = clone_project(Path(folder))
        began = time.monotonic()
        repro(clone)
        undisturbed, wanted = time.monotonic() - began, lock(clone)
        print(json.dumps({"stages": len(wanted), "undisturbed_s": round(undisturbed, 1)}), flush=True)
        killed, missed, spent = 0, 0, 0.0
        for stage in track(list(read_graph(clone).parents), "killing", disable=not sys.stderr.isatty()):
            began = time.monotonic()
            repro(clone, "--force", "--single-item", stage)
            takes = time.monotonic() - began
            for _ in range(options.kills):
                hit = repro_killed(clone, draw.uniform(0.3, takes), "--force", "--single-item", stage)
                killed, missed = killed + hit, missed + (not hit)
            began = time.monotonic()
            repro(clone, "--no-run-cache")  # the run cache would restore the timed run
            spent += time.monotonic() - began
        unlike = sorted(name for name, stage in lock(clone).items() if stage != wanted[name])
        facts = {"kills": killed, "finished_before": missed, "different": unlike, "partial_outputs": leftovers(clone)}
        print(json.dumps(facts | {"repro_after_a_kill_s": round(spent / len(wanted), 1)}), flush=True)
        resumed = _resumes(clone, wanted)
    return int(bool(unlike) or not resumed)


def _resumes(clone: Path, wanted: dict[str, Any]) -> bool:
    """Kill the base training after its first checkpoint; return whether the next run resumes to the same bytes."""
    process = subprocess.Popen(
        _command("--force", "--single-item", "train"), cwd=clone, stdout=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None and not list(clone.glob(".isoflop/resume/*/last.ckpt")):
        time.sleep(0.01)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    output = repro(clone, "--force", "--single-item", "train")
    resumed, same = "resuming the interrupted training" in output, lock(clone)["train"] == wanted["train"]
    print(json.dumps({"training_resumed": resumed, "same_bytes": same}), flush=True)
    return resumed and same


if __name__ == "__main__":
    sys.exit(main())
