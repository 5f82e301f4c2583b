"""``isoflop launch``: the stages of dvc.yaml as Ray tasks, each in a copy of the project of its own.

Ray schedules, and runs again what a lost node had; DVC keeps the results. What runs on one machine meets in the
project's own cache, what runs on a cluster in its default remote. Afterwards ``dvc repro`` has nothing to execute.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import tarfile
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from isoflop.project.command_output import command_output
from isoflop.project.graph import Graph, read_graph
from isoflop.runtime.errors import UserError
from isoflop.runtime.executions import append_log, read_log
from isoflop.runtime.files import write_atomically
from isoflop.runtime.params import read_params

_LOCAL = Path(".dvc") / "config.local"

Lock = dict[str, Any]  # stage → its entry of dvc.lock


@dataclass(frozen=True)
class Place:
    """What a task needs to know of the project it works for."""

    files: bytes  # a tar of what git tracks or does not ignore
    settings: dict[str, str]  # of DVC, by their dotted names
    shares_cache: bool  # the task's machine has the project's own cache; else results go by the default remote
    scratch: str | None  # a folder for copies of the project; None: the machine's own for such things


@dataclass(frozen=True)
class Result:
    """What became of a stage. ``lock`` has the entries of all stages before it and, where it went well, its own."""

    stage: str
    lock: Lock
    status: str  # "ran", "restored", "failed", "skipped"
    seconds: float = 0.0
    said: str = field(default="", repr=False)
    noted: str = field(default="", repr=False)  # of its execution, for ``isoflop savings``

    @property
    def ok(self) -> bool:
        return self.status in ("ran", "restored")


def launch(
    project: Path, targets: Sequence[str], *, address: str | None, jobs: int | None, cpus: int, gpus: float
) -> None:
    """Run ``targets`` (all stages, if none is named) and what they need; write dvc.lock and check the results out.

    Stages that depend on no other run first, here: they read what this machine alone may have, the user's images. What
    measures time (``meta: {alone: true}`` in dvc.yaml) and what follows from it runs last, here, one by one.

    Args:
        address: of a Ray cluster; None starts one here that ends with the command.
        jobs: stages at a time, where no address is given; None: as many as the cores hold.
        cpus, gpus: of a stage. Ray gives it so many threads, too.

    Raises:
        UserError: Ray is missing, no machine has what a stage is to get, a cluster has no remote to meet in, a target
            is unknown, or a stage failed.
    """
    if address and jobs:
        raise UserError("--jobs: found with --address, where the cluster's cores decide; expected one of them")
    graph = read_graph(project, targets)
    tasks = [stage for stage, before in graph.parents.items() if before and stage not in graph.alone]
    with ExitStack() as stack:
        scratch = None if address else stack.enter_context(tempfile.TemporaryDirectory(prefix="isoflop-"))
        place = _place(project, graph, remote=address is not None, scratch=scratch)
        ray = stack.enter_context(_quiet_ray(address, jobs and jobs * cpus))
        _check_room(ray, cpus, gpus)
        command_output(["dvc", "repro", *graph.roots], project)
        if address:
            command_output(["dvc", "push", "--run-cache", *graph.roots], project)
        task = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=5)(run_stage)
        shared = ray.put(place)
        refs = {root: ray.put(Result(root, _entries(project, [root]), "ran")) for root in graph.roots}
        for stage in tasks:
            refs[stage] = task.remote(stage, shared, *(refs[parent] for parent in graph.parents[stage]))
        results = list(_finished(ray, {stage: refs[stage] for stage in tasks}))
    _take_over(project, results, remote=address is not None)
    failed = [result.stage for result in results if not result.ok]
    if failed:
        raise UserError(f"{len(failed)} of {len(graph.parents)} stages did not run: {', '.join(failed)}")
    if graph.alone:
        print(f"alone: {', '.join(stage for stage in graph.parents if stage in graph.alone)}", flush=True)
        command_output(["dvc", "repro", *(targets or ())], project)


def run_stage(stage: str, place: Place, *before: Result) -> Result:
    """A task: ``stage`` in an empty folder with the project's files and what the stages before it made."""
    lock = {name: entry for result in before for name, entry in result.lock.items()}
    if not all(result.ok for result in before):
        return Result(stage, lock, "skipped")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="isoflop-", dir=place.scratch) as folder:
        workspace = Path(folder)
        with tarfile.open(fileobj=io.BytesIO(place.files)) as archive:
            if hasattr(tarfile, "data_filter"):  # not in Python 3.11.0 to 3.11.3
                archive.extraction_filter = staticmethod(tarfile.data_filter)
            archive.extractall(workspace)
        (workspace / "dvc.lock").write_text(_lock_text(lock))
        restore, pull = (["checkout"], []) if place.shares_cache else (["pull"], ["--pull"])
        try:
            for name, value in place.settings.items():
                command_output(["dvc", "config", "--local", name, value], workspace)
            command_output(["dvc", *restore, *(result.stage for result in before)], workspace)
            said = command_output(["dvc", "repro", *pull, "--single-item", stage], workspace)
            if not place.shares_cache:
                command_output(["dvc", "push", "--run-cache", stage], workspace)
        except UserError as error:
            return Result(stage, lock, "failed", time.monotonic() - began, str(error))
        status = "ran" if f"Running stage '{stage}'" in said else "restored"
        noted = read_log(workspace) if status == "ran" else ""
        return Result(stage, lock | _entries(workspace, [stage]), status, time.monotonic() - began, noted=noted)


def _place(project: Path, graph: Graph, *, remote: bool, scratch: str | None) -> Place:
    """Raises UserError where machines are to meet in a remote and there is none."""
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        settings = {"core.no_scm": "true"}
        if not remote:
            settings["cache.dir"] = str(Path(repo.cache.local.path).parents[1])  # above files/md5
        elif name := repo.config["core"].get("remote"):
            settings[f"remote.{name}.url"] = str(repo.config["remote"][name]["url"])  # a relative one made absolute
        else:
            raise UserError(
                ".dvc/config: core.remote: not set; the machines of a cluster meet in a remote: `dvc remote add -d`"
            )
    return Place(_packed(project, graph.given), settings, not remote, scratch)


def _check_room(ray: Any, cpus: int, gpus: float) -> None:
    """Ray would wait for such a machine for ever."""
    has = [(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    if not any(cpus <= cores and gpus <= devices for cores, devices in has):
        most = ", ".join(f"{cores:g} and {devices:g}" for cores, devices in has)
        raise UserError(f"--cpus, --gpus: found {cpus} and {gpus:g} for a stage, and the machines have {most}")


def _finished(ray: Any, refs: Mapping[str, Any]) -> Iterator[Result]:
    """Each result as it comes, with a line for it."""
    names = {ref: stage for stage, ref in refs.items()}
    waiting = list(names)
    while waiting:
        (ref,), waiting = ray.wait(waiting, num_returns=1)
        try:
            result: Result = ray.get(ref)
        except ray.exceptions.RayError as error:  # lost more often than it is tried again
            result = Result(names[ref], {}, "failed", said=" ".join(str(error).split()))
        counted = f"[{len(refs) - len(waiting)}/{len(refs)}]"
        print(f"{counted} {result.stage}: {result.status} in {result.seconds:.1f} s", flush=True)
        if result.said:
            print(result.said, file=sys.stderr, flush=True)
        yield result


def _take_over(project: Path, results: Sequence[Result], *, remote: bool) -> None:
    """The results into dvc.lock and the workspace; those of before a failure too."""
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
    """In git, as `dvc repro` does where it runs a stage."""
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        for stage in repo.index.stages:
            if getattr(stage, "name", None) in stages:
                stage.ignore_outs()


def _entries(project: Path, stages: Sequence[str]) -> Lock:
    entries = _locked(project)
    return {stage: entries[stage] for stage in stages if stage in entries}  # a .dvc file has none


def _locked(project: Path) -> Lock:
    """The entries of dvc.lock; none where nothing but .dvc files has been reproduced yet, which makes none."""
    file = project / "dvc.lock"
    return dict(read_params(file).get("stages", {})) if file.exists() else {}


def _lock_text(lock: Lock) -> str:
    return yaml.safe_dump({"schema": "2.0", "stages": lock}, sort_keys=False)


def _packed(project: Path, given: Iterable[str]) -> bytes:
    """What git tracks or does not ignore, as it is now, and this machine's settings of DVC; without the ``given``
    folders, which only stages read that run here, and which may be as large as images are."""
    listed = command_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], project).split(
        "\0"
    )
    apart = tuple(f"{folder}/" for folder in given)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in [*filter(None, listed), _LOCAL.as_posix()]:
            if name != "dvc.lock" and not name.startswith(apart) and (project / name).is_file():
                archive.add(project / name, name)
    return buffer.getvalue()


@contextmanager
def _quiet_ray(address: str | None, cpus: int | None) -> Iterator[Any]:
    """Ray, connected; its workers' lines stay out of this command's."""
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what it will do by itself, and warns of
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "1")  # a stage ends with its task
    try:
        import ray
    except ImportError:
        raise UserError("isoflop launch takes Ray: `pip install 'isoflop[cluster]'`") from None
    if address:
        _check_address(address)
    here = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(f"--address: Ray said of {address}: {' '.join(str(error).split())[:300]}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Ray itself asks for a minute."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--address: found {address!r}, expected HOST:PORT, as `ray start --head` prints it")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"--address: found {address!r}, where no Ray cluster answers ({error})") from None
