"""``isoflop launch``: run the stages of dvc.yaml as Ray tasks, each in its own copy of the project.

Ray schedules the tasks and retries those of a lost node; DVC stores the results: on one machine in the project's cache,
on a cluster in its default remote. Afterwards ``dvc repro`` has nothing to execute.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from isoflop.launch.place import Place, place_of
from isoflop.launch.ray_session import check_room, quiet_ray
from isoflop.launch.watcher import watched
from isoflop.project.command_output import command_output
from isoflop.project.graph import Graph, read_graph
from isoflop.runtime.errors import UserError
from isoflop.runtime.executions import append_log, read_log
from isoflop.runtime.files import write_atomically
from isoflop.runtime.params import read_mapping
from isoflop.runtime.processes import RANKS
from isoflop.runtime.stage_code import CODE_STAGE, has_own_stages

Lock = dict[str, Any]  # stage → its entry of dvc.lock


@dataclass(frozen=True)
class Result:
    """Outcome of a stage.

    Attributes:
        lock: dvc.lock entries of the stages before it and, if it succeeded, its own.
        status: ran, restored, failed or skipped.
        message: why it failed.
        noted: its line in the log of executions, for ``isoflop savings``.
    """

    stage: str
    lock: Lock
    status: str
    seconds: float = 0.0
    message: str = field(default="", repr=False)
    noted: str = field(default="", repr=False)

    @property
    def ok(self) -> bool:
        return self.status in ("ran", "restored")


def launch_stages(
    project: Path, targets: Sequence[str], *, address: str | None, jobs: int | None, cpus: int, gpus: float
) -> None:
    """Run ``targets`` (default: all stages) and their dependencies; write dvc.lock and check out the results.

    Stages without dependencies run first, on this machine, because they may read images that only it has. Stages that
    measure time (``meta: {alone: true}`` in dvc.yaml) and those after them run last, on this machine, one at a time.

    Args:
        address: of a Ray cluster; None: start one on this machine that ends with the command.
        jobs: number of stages at a time without an address; None: as many as the cores allow.
        cpus: cores per stage, and the number of its threads.
        gpus: GPUs per stage.

    Raises:
        UserError: Ray is not installed, no machine has enough cores or GPUs, a cluster has no DVC remote, a target is
            unknown, or a stage failed.
    """
    if address and jobs:
        raise UserError("--jobs: got it together with --address, expected one of them; a cluster uses all its cores")
    if has_own_stages(project):
        command_output(["dvc", "repro", CODE_STAGE], project)  # before the project is packed for the tasks
    graph = read_graph(project, targets)
    results = _run_tasks(project, graph, address, jobs, cpus, gpus)
    _take_over(project, results, remote=address is not None)
    failed = [result.stage for result in results if not result.ok]
    if failed:
        raise UserError(f"{len(failed)} of {len(graph.parents)} stages did not run: {', '.join(failed)}")
    if graph.alone:
        print(f"one at a time: {', '.join(stage for stage in graph.parents if stage in graph.alone)}", flush=True)
        command_output(["dvc", "repro", *(targets or ())], project)


def _run_tasks(
    project: Path, graph: Graph, address: str | None, jobs: int | None, cpus: int, gpus: float
) -> list[Result]:
    """Run the stages without dependencies here, then all others that need not run alone as Ray tasks."""
    tasks = [stage for stage, before in graph.parents.items() if before and stage not in graph.alone]
    with ExitStack() as stack:
        scratch = None if address else stack.enter_context(tempfile.TemporaryDirectory(prefix="isoflop-"))
        follow = stack.enter_context(watched(scratch)) if scratch else None
        place = place_of(project, graph, remote=address is not None, scratch=scratch)
        ray = stack.enter_context(quiet_ray(address, jobs and jobs * cpus))
        if follow:
            follow()
        check_room(ray, cpus, gpus)
        command_output(["dvc", "repro", *graph.roots], project)
        if address:
            command_output(["dvc", "push", "--run-cache", *graph.roots], project)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=5)(run_stage)
        shared = ray.put(place)
        refs = {root: ray.put(Result(root, _entries(project, [root]), "ran")) for root in graph.roots}
        for stage in tasks:
            refs[stage] = task.remote(stage, shared, *(refs[parent] for parent in graph.parents[stage]))
        return list(_finished(ray, {stage: refs[stage] for stage in tasks}))


def run_stage(stage: str, place: Place, *before: Result) -> Result:
    """Run ``stage`` in a new folder with the project's files and the outputs of the stages ``before`` it."""
    for name in RANKS:  # of a node that was started by several processes: each stage is a process of its own
        os.environ.pop(name, None)
    lock = {name: entry for result in before for name, entry in result.lock.items()}
    if not all(result.ok for result in before):
        return Result(stage, lock, "skipped")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="isoflop-", dir=place.scratch) as folder:
        workspace = Path(folder)
        place.unpack(workspace)
        (workspace / "dvc.lock").write_text(_lock_text(lock))
        restore, pull = (["checkout"], []) if place.shares_cache else (["pull"], ["--pull"])
        try:
            for name, value in place.settings.items():
                command_output(["dvc", "config", "--local", name, value], workspace)
            command_output(["dvc", *restore, *(result.stage for result in before)], workspace)
            output = command_output(["dvc", "repro", *pull, "--single-item", stage], workspace)
            if not place.shares_cache:
                command_output(["dvc", "push", "--run-cache", stage], workspace)
        except UserError as error:
            return Result(stage, lock, "failed", time.monotonic() - began, str(error))
        status = "ran" if f"Running stage '{stage}'" in output else "restored"
        noted = read_log(workspace) if status == "ran" else ""
        return Result(stage, lock | _entries(workspace, [stage]), status, time.monotonic() - began, noted=noted)


def _finished(ray: Any, refs: Mapping[str, Any]) -> Iterator[Result]:
    """Yield each result as soon as it is there and print a line for it."""
    names = {ref: stage for stage, ref in refs.items()}
    waiting = list(names)
    while waiting:
        (ref,), waiting = ray.wait(waiting, num_returns=1)
        try:
            result: Result = ray.get(ref)
        except ray.exceptions.RayError as error:  # its node was lost more often than the task is retried
            result = Result(names[ref], {}, "failed", message=" ".join(str(error).split()))
        counted = f"[{len(refs) - len(waiting)}/{len(refs)}]"
        print(f"{counted} {result.stage}: {result.status} in {result.seconds:.1f} s", flush=True)
        if result.message:
            print(result.message, file=sys.stderr, flush=True)
        yield result


def _take_over(project: Path, results: Sequence[Result], *, remote: bool) -> None:
    """Write the results to dvc.lock and the workspace, also those from before a failure."""
    lock = _locked(project)
    done = [result for result in results if result.ok]
    for result in done:
        lock[result.stage] = result.lock[result.stage]
        append_log(project, result.noted)
    write_atomically(project / "dvc.lock", _lock_text(lock))
    if done:
        command_output(
            ["dvc", "pull" if remote else "checkout", "--force", *(result.stage for result in done)], project
        )
        _ignore_outputs(project, {result.stage for result in done})


def _ignore_outputs(project: Path, stages: set[str]) -> None:
    """Make git ignore the outputs of ``stages``, as `dvc repro` does when it runs a stage."""
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        for stage in repo.index.stages:
            if getattr(stage, "name", None) in stages:
                stage.ignore_outs()


def _entries(project: Path, stages: Sequence[str]) -> Lock:
    entries = _locked(project)
    return {stage: entries[stage] for stage in stages if stage in entries}  # a .dvc file has no entry


def _locked(project: Path) -> Lock:
    """Return the entries of dvc.lock; none before the first stage ran."""
    file = project / "dvc.lock"
    return dict(read_mapping(file).get("stages", {})) if file.exists() else {}


def _lock_text(lock: Lock) -> str:
    return yaml.safe_dump({"schema": "2.0", "stages": lock}, sort_keys=False)
