"""What a fault costs: stages killed at random moments, then `dvc repro`, against an undisturbed run.

``python -m benchmarks.faults --kills 2`` runs the smoke pipeline in a temporary clone, then kills every stage of it so
many times (SIGKILL to all of its processes, at a moment drawn from its own duration), lets `dvc repro` end it and
compares dvc.lock, what measures time left out. Then the base's training is killed after its first checkpoint and taken
up. Prints a line for each and exits with 1 where anything was lost.
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
)


def clone_project(folder: Path, preset: str = "smoke") -> Path:
    """The project as it is now, with a preset and nothing run."""
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
    """What `dvc repro` prints; after the cure that `isoflop doctor` names where a kill has cut short DVC's own lock."""
    run = partial(subprocess.run, _command(*arguments), cwd=clone, capture_output=True, text=True, check=False)
    done = run()
    for said, cut_short in (("Unable to read RWLock-file", ".dvc/tmp/rwlock"), ("dvc.lock", "dvc.lock")):
        if done.returncode and said in done.stderr:
            print(json.dumps({"cut_short": cut_short}), flush=True)
            (clone / cut_short).unlink()
            subprocess.run(_command(), cwd=clone, check=True, stdout=subprocess.DEVNULL)  # with the run cache
            done = run()
    if done.returncode:
        raise SystemExit(
            f"dvc repro {' '.join(arguments)}: exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
        )
    return done.stdout


def repro_killed(clone: Path, after: float, *arguments: str) -> bool:
    """Whether it was still running after so many seconds, and so was killed."""
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
    """dvc.lock without what measures time, and what depends on it."""
    stages = load((clone / "dvc.lock").read_text())["stages"]  # as DVC does: PyYAML takes 1e-05 for a text
    kept = {}
    for name, stage in stages.items():
        parts = {kind: _timeless(stage.get(kind, [])) for kind in ("deps", "outs")}
        kept[name] = {"cmd": stage["cmd"], "params": stage.get("params")} | parts
    return kept


def leftovers(clone: Path) -> list[str]:
    """Half-written outputs that a kill has left; the next run of their stage removes them."""
    return [str(path.relative_to(clone)) for path in clone.rglob(".*.partial*") if ".dvc" not in path.parts]


def _timeless(entries: list[dict[str, Any]]) -> dict[str, str]:
    kept = [entry for entry in entries if not entry["path"].startswith(_MEASURES_TIME)]
    return {
        entry["path"]: entry["md5"] for entry in kept if entry["path"] not in ("metrics", "plots")
    }  # which have some


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "dvc", "repro", *arguments]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=2, help="of every stage (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: 0)")
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
            repro(clone, "--no-run-cache")  # which has the run that was timed
            spent += time.monotonic() - began
        unlike = sorted(name for name, stage in lock(clone).items() if stage != wanted[name])
        facts = {"kills": killed, "ended_before": missed, "unlike": unlike, "left_half_written": leftovers(clone)}
        print(json.dumps(facts | {"repro_after_a_kill_s": round(spent / len(wanted), 1)}), flush=True)
        resumed = _resumes(clone, wanted)
    return int(bool(unlike) or not resumed)


def _resumes(clone: Path, wanted: dict[str, Any]) -> bool:
    """Kill the base's training once it has a checkpoint; the next run goes on from there, to the same bytes."""
    process = subprocess.Popen(
        _command("--force", "--single-item", "train"), cwd=clone, stdout=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None and not list(clone.glob(".isoflop/resume/*/last.ckpt")):
        time.sleep(0.01)
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    said = repro(clone, "--force", "--single-item", "train")
    took_up, same = "resuming the interrupted training" in said, lock(clone)["train"] == wanted["train"]
    print(json.dumps({"training_taken_up": took_up, "same_bytes": same}), flush=True)
    return took_up and same


if __name__ == "__main__":
    sys.exit(main())
