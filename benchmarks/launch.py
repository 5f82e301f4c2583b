"""Compare parallel and serial execution of stages: `isoflop launch` and `dvc repro` on the sweep of the study.

``python -m benchmarks.launch [--widths 16 24 32 48] [--seeds 6] [--jobs 2]`` runs the sweep of the preset digits with
both in turns, each time in a new clone with one thread per stage. It prints a line of JSON for each run and one for the
speedup. The execution log separates a stage's own work from its overhead (start of Python and DVC, hashing, the clone).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from benchmarks.faults import clone_project
from isoflop.runtime.executions import executions
from isoflop.training.cpu import processor


def run_sweep(way: str, widths: list[int], seeds: int, jobs: int) -> dict[str, float]:
    """Time the sweep in a new clone with prepared data; return total, own work, and overhead per stage in seconds."""
    with tempfile.TemporaryDirectory() as folder:
        clone = clone_project(Path(folder), preset="digits")
        params = yaml.safe_load((clone / "params.yaml").read_text())
        params["sweep"]["widths"] = widths
        params["sweep"]["runs"]["seeds"] = list(range(seeds))
        (clone / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))
        subprocess.run(["dvc", "repro", "augment"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
        before = len(executions(clone))
        command = ["isoflop", "launch", "--jobs", str(jobs)] if way == "launch" else ["dvc", "repro"]
        began = time.monotonic()
        subprocess.run([*command, "sweep"], cwd=clone, check=True, stdout=subprocess.DEVNULL)
        seconds = time.monotonic() - began
        own = sum(took for _, took in executions(clone)[before:])
    at_a_time = jobs if way == "launch" else 1
    return {"seconds": seconds, "own_work_s": own, "overhead_per_stage_s": (seconds * at_a_time - own) / len(widths)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 24, 32, 48])
    parser.add_argument("--seeds", type=int, default=6, help="seeds of each run: more seeds, longer stages")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    options = parser.parse_args()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    os.environ |= {"DVC_NO_ANALYTICS": "1", "OMP_NUM_THREADS": "1", "PATH": path}
    print(
        json.dumps(
            {"device": processor()[0], "cores": os.cpu_count(), "widths": options.widths, "seeds": options.seeds}
        ),
        flush=True,
    )
    ratios = []
    for _ in range(options.rounds):
        took = {way: run_sweep(way, options.widths, options.seeds, options.jobs) for way in ("serial", "launch")}
        for way, facts in took.items():
            print(json.dumps({"way": way} | {name: round(value, 2) for name, value in facts.items()}), flush=True)
        ratios.append(took["serial"]["seconds"] / took["launch"]["seconds"])
    facts = {"speedup": statistics.median(ratios), "minimum": min(ratios), "maximum": max(ratios)}
    print(json.dumps({name: round(value, 2) for name, value in facts.items()}), flush=True)


if __name__ == "__main__":
    main()
