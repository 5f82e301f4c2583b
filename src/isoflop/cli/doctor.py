"""``isoflop doctor``: what this machine and this project lack, each with its cure."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from isoflop.cli.demo_runtime import where_runtime_is
from isoflop.demo.onnxruntime_web import PACKAGE
from isoflop.project.command_output import command_output
from isoflop.project.graph import read_graph
from isoflop.project.project_files import runs_installed_code
from isoflop.runtime.damage import changed_outputs, copies, damaged_objects, remove
from isoflop.runtime.errors import UserError
from isoflop.runtime.stage_code import CODE_FILE, installed, stale_message, stale_stages
from isoflop.training.cpu import computes_in_bf16, processor

_LITTLE_DISK = 2e9  # bytes
_PATIENCE = 2.0  # seconds for a server to answer
_RESUME = Path(".isoflop") / "resume"


@dataclass(frozen=True)
class Finding:
    """``fail``: the pipeline cannot run; ``warn``: it can, and something of it cannot."""

    about: str
    status: Literal["ok", "warn", "fail"]
    found: str
    cure: str = ""


def examine_machine(folder: Path) -> list[Finding]:
    """What can be said where there is no project."""
    none = Finding("project", "warn", f"none at {folder} or above", "`isoflop init DIR --images FOLDER` lays one")
    return [*(check(folder) for check in (_python, _packages, _torch, _disk)), none]


def examine(project: Path, *, cache: bool = False, remove_damaged: bool = False) -> list[Finding]:
    """What there is and what lacks, in the order in which to mend it.

    Args:
        cache: read every object of DVC's cache and every output again, and compare it with its MD5.
        remove_damaged: delete those that do not have theirs.
    """
    checks: tuple[Callable[[Path], Finding], ...] = (
        _python,
        _packages,
        _torch,
        _params,
        _code,
        _git,
        _dvc,
        _remote,
        _disk,
        _demo,
        _killed,
    )
    found = [check(project) for check in checks]
    return [*found, _cache(project, remove_damaged)] if cache else found


def show(findings: list[Finding], as_json: bool) -> None:
    """A line each, and below what is amiss its cure.

    Raises:
        UserError: something fails, so that the exit status says so.
    """
    if as_json:
        print(json.dumps({"findings": [asdict(finding) for finding in findings]}, indent=1))
    else:
        from rich.console import Console
        from rich.text import Text

        console = Console(soft_wrap=True, highlight=False)
        for finding in findings:
            color = {"ok": "green", "warn": "yellow", "fail": "red"}[finding.status]
            console.print(Text.assemble((f"{finding.status:5}", color), f"{finding.about:9} {finding.found}"))
            if finding.cure:
                console.print(Text(f"{15 * ' '}{finding.cure}"))
    failed = [finding.about for finding in findings if finding.status == "fail"]
    if failed:
        raise UserError(f"the pipeline cannot run here: {', '.join(failed)}")


def _python(_: Path) -> Finding:
    return Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def _packages(project: Path) -> Finding:
    from packaging.requirements import Requirement

    wanted = [Requirement(line) for line in metadata.requires("isoflop") or ()]
    amiss = []
    for need in wanted:
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            amiss.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(version, prereleases=True):
            amiss.append(f"{need.name} {version} is not {need.specifier}")
    if amiss:
        return Finding("packages", "fail", ", ".join(amiss), f"{_installation(project)} brings them")
    return Finding("packages", "ok", f"isoflop {metadata.version('isoflop')}, and what it needs")


def _installation(project: Path) -> str:
    return "`pip install --upgrade isoflop`" if runs_installed_code(project) else "`make install`"


def _torch(project: Path) -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", "fail", f"cannot be imported: {error}", _installation(project))
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return Finding("torch", "ok", f"{torch.__version__} on {count} x {torch.cuda.get_device_name()}")
    bf16 = "bf16" if computes_in_bf16() else "fp32, as it has no bf16"
    found = f"{torch.__version__} on {processor()[0]}, {torch.get_num_threads()} threads, {bf16}"
    if shutil.which("nvidia-smi"):
        return Finding(
            "torch",
            "warn",
            f"{found}; there is an NVIDIA driver, but torch sees no GPU",
            "install a torch built for its CUDA version: https://pytorch.org/get-started/locally",
        )
    return Finding("torch", "ok", found)


def _params(project: Path) -> Finding:
    from isoflop.project.checking import check, stage_schemas

    try:
        schemas = stage_schemas(project)
        check(schemas.values(), project / "params.yaml")
    except UserError as error:
        return Finding("params", "fail", str(error), "`isoflop check` after each change says what is left")
    return Finding("params", "ok", f"params.yaml fits all {len(schemas)} stages")


def _code(project: Path) -> Finding:
    if not runs_installed_code(project):
        return Finding("code", "ok", "the project's own, which DVC looks at")
    try:
        stale = stale_stages(project)
    except UserError as error:
        return Finding("code", "fail", str(error), "`isoflop upgrade`")
    if stale:
        return Finding("code", "fail", stale_message(stale, project), "`isoflop upgrade`, then `dvc repro`")
    return Finding("code", "ok", f"{installed().package} is what {CODE_FILE} says")


def _git(project: Path) -> Finding:
    if not shutil.which("git"):
        return Finding("git", "fail", "not installed", "install git (`apt install git`, `brew install git`)")
    if _output(project, "git", "rev-parse", "--is-inside-work-tree") is None:
        return Finding(
            "git",
            "warn",
            "not a repository: `dvc exp` and sharing need one",
            "`git init`, then commit params.yaml, dvc.yaml and dvc.lock",
        )
    name, email = (_output(project, "git", "config", f"user.{key}") for key in ("name", "email"))
    if not name or not email:
        return Finding(
            "git",
            "warn",
            "no identity: commits and `dvc exp run` will fail",
            "`git config --global user.name 'Your Name'` and `git config --global user.email you@…`",
        )
    if _output(project, "git", "rev-parse", "--verify", "HEAD") is None:
        cure = "`git add -A`, then `git commit -m start`"
        return Finding("git", "fail", "a repository without a commit: the training's curves need one", cure)
    return Finding("git", "ok", f"repository, commits by {name} <{email}>")


def _dvc(project: Path) -> Finding:
    if not (project / ".dvc").is_dir():
        return Finding("dvc", "fail", "not initialized here", "`dvc init`, or `dvc init --no-scm` outside git")
    lock = project / ".dvc" / "tmp" / "rwlock"
    try:
        json.loads(lock.read_text() if lock.exists() else "{}")
    except ValueError:  # DVC writes it in place: killed at that moment, no later command of DVC gets past it
        return Finding("dvc", "fail", f"{lock}: cut short, by a kill of DVC", "`rm .dvc/tmp/rwlock`")
    try:
        try:
            read_graph(project)
        except UserError:
            time.sleep(1)  # a `dvc repro` at work writes dvc.lock in place
            read_graph(project)
    except UserError as error:
        cure = "mend dvc.yaml; `git diff dvc.yaml` shows what changed"
        if "dvc.lock" in str(error):  # written in place, too
            cure = "`rm dvc.lock && dvc repro`: the run cache has what ran"
        return Finding("dvc", "fail", str(error)[:300], cure)
    return Finding("dvc", "ok", f"{metadata.version('dvc')}, initialized")


def _remote(project: Path) -> Finding:
    listed = _output(project, "dvc", "config", "--list") or ""
    settings = dict(re.findall(r"^(?:\S+\t)?([^=\s]+)=(.*)$", listed, flags=re.MULTILINE))
    default = settings.get("core.remote")
    if not default:
        return Finding(
            "remote",
            "warn",
            "none: what is computed here stays here",
            "`dvc remote add -d team URL` (a folder, ssh:// or s3://), then `dvc push --run-cache`",
        )
    found = f"{default}, {settings.get(f'remote.{default}.url', 'without a url')}"
    if settings.get(f"remote.{default}.verify", "false").lower() != "true":
        return Finding(
            "remote",
            "warn",
            f"{found}; a corrupt object in it would be taken for whole",
            f"`dvc remote modify {default} verify true`",
        )
    return Finding("remote", "ok", found)


def _disk(project: Path) -> Finding:
    free = shutil.disk_usage(project).free
    found = f"{free / 1e9:.1f} GB free at {project.resolve()}"
    if free < _LITTLE_DISK:
        return Finding("disk", "warn", found, "`dvc gc --workspace --all-branches` removes what no branch needs")
    return Finding("disk", "ok", found)


def _demo(project: Path) -> Finding:
    if found := where_runtime_is(project, _PATIENCE):
        return Finding("demo", "ok", found)
    return Finding(
        "demo",
        "warn",
        f"no {PACKAGE.url}, which stage onnxruntime_web gets in the first run",
        f"`demo.enabled: false` in params.yaml, or ISOFLOP_MIRROR set to a folder or URL with {PACKAGE.name}",
    )


def _killed(project: Path) -> Finding:
    folders = [folder for folder in (project / _RESUME).glob("*") if folder.is_dir()]
    if not folders:
        return Finding("killed", "ok", "no training waits to be taken up")
    size = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    return Finding(
        "killed",
        "ok",
        f"{len(folders)} trainings were cut off ({size / 1e6:.0f} MB); the next `dvc repro` "
        f"takes up those that still are what params.yaml says; {_RESUME} may be removed",
    )


def _cache(project: Path, remove_damaged: bool) -> Finding:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(project)) as repo, repo.lock:  # what a stage is writing would look damaged
            folder = Path(repo.cache.local.path).parents[1]  # above files/md5
            damaged, changed = damaged_objects(folder), changed_outputs(project)
            copied = copies(damaged, changed)
            if remove_damaged:
                remove(copied, damaged)
    except DvcException as error:
        return Finding("cache", "fail", " ".join(str(error).split()), "try again when DVC is through with what it does")
    if damaged:
        named = [str(path) for path in (*damaged, *copied)]
        listed = ", ".join(named[:6]) + (f" and {len(named) - 6} more" if len(named) > 6 else "")
        if remove_damaged:
            cure = "`dvc repro --pull` restores them from the remote, or makes them again"
            return Finding("cache", "warn", f"removed, as they were not what their MD5 says: {listed}", cure)
        cure = "`isoflop doctor --cache --remove-damaged`, then `dvc repro --pull`"
        return Finding("cache", "fail", f"not what their MD5 says: {listed}", cure)
    if changed:
        listed = ", ".join(map(str, changed[:6]))
        cure = "`dvc checkout` restores them, `dvc repro` makes them again, `dvc commit` keeps them"
        return Finding(
            "cache", "warn", f"every object is whole; outputs that are not what dvc.lock says: {listed}", cure
        )
    return Finding("cache", "ok", f"every object in {folder} and every output is what its MD5 says")


def _output(project: Path, *command: str) -> str | None:
    """What a command prints; None where it fails."""
    try:
        return command_output(command, project).strip()
    except UserError:
        return None
