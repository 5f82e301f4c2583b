"""``isoflop doctor``: problems of this machine and project, each with its fix."""

from __future__ import annotations

import json
import re
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from isoflop.cli.demo_runtime import find_runtime
from isoflop.cli.findings import Finding, outputs, results
from isoflop.demo.onnxruntime_web import PACKAGE
from isoflop.project.command_output import command_output, in_git
from isoflop.project.graph import read_graph
from isoflop.project.project_files import runs_installed_code
from isoflop.runtime.damage import changed_outputs, copies, damaged_objects, remove
from isoflop.runtime.dvc_guard import is_active
from isoflop.runtime.errors import UserError
from isoflop.runtime.stage_code import CODE_FILE, checkout, code_text, installed, stale_message, stale_stages
from isoflop.training.cpu import computes_in_bf16, processor

_MIN_FREE_BYTES = 2e9
_TIMEOUT = 2.0  # seconds to wait for a server
_RESUME = Path(".isoflop") / "resume"


def examine_machine(folder: Path) -> list[Finding]:
    """Return the findings that need no project."""
    cure = "`isoflop init DIR --images FOLDER` creates one"
    none = Finding("project", "warn", f"no dvc.yaml in {folder} or a parent folder", cure)
    return [*(check(folder) for check in (_python, _packages, _torch, _disk)), none]


def examine(project: Path, *, cache: bool = False, remove_damaged: bool = False) -> list[Finding]:
    """Return all findings, in the order in which to fix them.

    Args:
        cache: also compare every object of the DVC cache and every output with its MD5.
        remove_damaged: delete the damaged ones.
    """
    checks: tuple[Callable[[Path], Finding], ...] = (
        _python,
        _packages,
        _torch,
        _params,
        _code,
        _git,
        _dvc,
        outputs,
        results,
        _remote,
        _disk,
        _demo,
        _interrupted,
    )
    # first, as `dvc status`, which `results` asks, deletes a damaged list of files
    last = [_cache(project, remove_damaged)] if cache else []
    return [*(check(project) for check in checks), *last]


def show(findings: list[Finding], as_json: bool) -> None:
    """Print one line per finding and, below a problem, its fix.

    Raises:
        UserError: a finding has status ``fail``.
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

    requirements = [Requirement(line) for line in metadata.requires("isoflop") or ()]
    problems = []
    for need in requirements:
        if need.marker and not need.marker.evaluate({"extra": ""}):
            continue
        try:
            version = metadata.version(need.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{need.name} is missing")
            continue
        if not need.specifier.contains(version, prereleases=True):
            problems.append(f"{need.name}: got {version}, expected {need.specifier}")
    if problems:
        return Finding("packages", "fail", ", ".join(problems), f"{_installation(project)} installs them")
    return Finding("packages", "ok", f"isoflop {metadata.version('isoflop')} and its dependencies")


def _installation(project: Path) -> str:
    return "`pip install --upgrade isoflop`" if runs_installed_code(project) else "`make install`"


def _torch(project: Path) -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", "fail", f"import fails: {error}", _installation(project))
    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        return Finding("torch", "ok", f"{torch.__version__} on {count} x {torch.cuda.get_device_name()}")
    bf16 = "bf16" if computes_in_bf16() else "fp32 (no bf16 support)"
    found = f"{torch.__version__} on {processor()[0]}, {torch.get_num_threads()} threads, {bf16}"
    if shutil.which("nvidia-smi"):
        return Finding(
            "torch",
            "warn",
            f"{found}; an NVIDIA driver is installed, but torch sees no GPU",
            "install torch for the CUDA version of the driver: https://pytorch.org/get-started/locally",
        )
    return Finding("torch", "ok", found)


def _params(project: Path) -> Finding:
    from isoflop.project.checking import check, stage_schemas

    try:
        schemas = stage_schemas(project)
        check(schemas.values(), project / "params.yaml")
    except UserError as error:
        return Finding("params", "fail", str(error), "edit params.yaml; `isoflop check` lists the remaining errors")
    return Finding("params", "ok", f"params.yaml is valid for all {len(schemas)} stages")


def _code(project: Path) -> Finding:
    if not runs_installed_code(project):
        file = project / CODE_FILE
        if not file.is_file() or file.read_text() != code_text(checkout(project)):
            return Finding("code", "warn", f"changed since {CODE_FILE} was written", "`dvc repro` reruns what changed")
        return Finding("code", "ok", f"part of the project, matches {CODE_FILE}")
    try:
        stale = stale_stages(project)
    except UserError as error:
        return Finding("code", "fail", str(error), "`isoflop upgrade`")
    if stale:
        return Finding("code", "fail", stale_message(stale, project), "`isoflop upgrade`, then `dvc repro`")
    return Finding("code", "ok", f"{installed().package} matches {CODE_FILE}")


def _git(project: Path) -> Finding:
    if not shutil.which("git"):
        return Finding("git", "fail", "not installed", "install git (`apt install git`, `brew install git`)")
    try:
        is_inside = in_git(project)
    except UserError as error:
        found, _, cure = str(error).partition("; fix: ")
        return Finding("git", "fail", found, cure)
    if not is_inside:
        cure = "`git init`, then commit params.yaml, dvc.yaml and dvc.lock"
        return Finding("git", "warn", "no repository; `dvc exp` and sharing need one", cure)
    name, email = (_output(project, "git", "config", f"user.{key}") for key in ("name", "email"))
    if not name or not email:
        cure = "`git config --global user.name 'Your Name'` and `git config --global user.email you@…`"
        return Finding("git", "warn", "no identity; commits and `dvc exp run` will fail", cure)
    if _output(project, "git", "rev-parse", "--verify", "HEAD") is None:
        cure = "`git add -A`, then `git commit -m start`"
        return Finding("git", "fail", "a repository without a commit; the training curves need one", cure)
    return Finding("git", "ok", f"repository, commits by {name} <{email}>")


def _dvc(project: Path) -> Finding:
    if not (project / ".dvc").is_dir():
        return Finding("dvc", "fail", "not initialized", "`dvc init`, or `dvc init --no-scm` outside git")
    lock = project / ".dvc" / "tmp" / "rwlock"
    try:
        json.loads(lock.read_text() if lock.exists() else "{}")
    except ValueError:  # DVC writes it in place; if killed then, all later DVC commands fail
        return Finding("dvc", "fail", f"{lock}: truncated, because DVC was killed", "`rm .dvc/tmp/rwlock`")
    try:
        try:
            read_graph(project)
        except UserError:
            time.sleep(1)  # a running `dvc repro` writes dvc.lock in place
            read_graph(project)
    except UserError as error:
        cure = "correct dvc.yaml; `git diff dvc.yaml` shows your changes"
        if "dvc.lock" in str(error):  # also written in place
            cure = "`rm dvc.lock && dvc repro`, which restores results from the run cache"
        return Finding("dvc", "fail", str(error)[:300], cure)
    if not is_active():
        cure = f"{_installation(project)} installs them"
        return Finding("dvc", "warn", f"{metadata.version('dvc')} without isoflop's checks of what a remote has", cure)
    return Finding("dvc", "ok", f"{metadata.version('dvc')}, initialized")


def _remote(project: Path) -> Finding:
    listed = _output(project, "dvc", "config", "--list") or ""
    settings = dict(re.findall(r"^(?:\S+\t)?([^=\s]+)=(.*)$", listed, flags=re.MULTILINE))
    default = settings.get("core.remote")
    if not default:
        return Finding(
            "remote",
            "warn",
            "none; results stay on this machine",
            "`dvc remote add -d team URL` (a folder, ssh:// or s3://), then `dvc push --run-cache`",
        )
    found = f"{default}, {settings.get(f'remote.{default}.url', 'no URL')}"
    if settings.get(f"remote.{default}.verify", "false").lower() != "true":
        return Finding(
            "remote",
            "warn",
            f"{found}; DVC would not detect corrupt objects in it",
            f"`dvc remote modify {default} verify true`",
        )
    return Finding("remote", "ok", found)


def _disk(project: Path) -> Finding:
    free = shutil.disk_usage(project).free
    found = f"{free / 1e9:.1f} GB free at {project.resolve()}"
    if free < _MIN_FREE_BYTES:
        return Finding("disk", "warn", found, "`dvc gc --workspace --all-branches` frees space")
    return Finding("disk", "ok", found)


def _demo(project: Path) -> Finding:
    if found := find_runtime(project, _TIMEOUT):
        return Finding("demo", "ok", found)
    return Finding(
        "demo",
        "warn",
        f"cannot reach {PACKAGE.url}, which stage onnxruntime_web downloads in the first run",
        f"set `demo.enabled: false` in params.yaml, or ISOFLOP_MIRROR to a folder or URL with {PACKAGE.name}",
    )


def _interrupted(project: Path) -> Finding:
    folders = [folder for folder in (project / _RESUME).glob("*") if folder.is_dir()]
    if not folders:
        return Finding("resume", "ok", "no interrupted trainings")
    size = sum(file.stat().st_size for folder in folders for file in folder.rglob("*") if file.is_file())
    return Finding(
        "resume",
        "ok",
        f"{len(folders)} interrupted trainings ({size / 1e6:.0f} MB); the next `dvc repro` resumes those whose "
        f"parameters are unchanged; {_RESUME} may be deleted",
    )


def _cache(project: Path, remove_damaged: bool) -> Finding:
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(project)) as repo, repo.lock:  # or files that a stage is writing would look damaged
            folder = Path(repo.cache.local.path).parents[1]  # above files/md5
            damaged, changed = damaged_objects(folder), changed_outputs(project)
            copied = copies(project, damaged)
            remaining = remove([*copied, *damaged]) if remove_damaged else {}
    except DvcException as error:
        cure = "try again when the other DVC command has finished"
        return Finding("cache", "fail", " ".join(str(error).split()), cure)
    except OSError as error:
        return Finding("cache", "fail", f"{error.filename}: {error.strerror}", "`chmod -R u+rwX .dvc/cache`")
    own = [output for output in changed if not any(file.is_relative_to(output) for file in copied)]
    replaced = f"; `dvc repro` replaces {_some(own)}, changed since: move your own files first" if own else ""
    if remaining:
        reasons = [f"{path} ({why})" for path, why in remaining.items()]
        return Finding("cache", "fail", f"damaged, and not deleted: {_some(reasons)}", "delete them by hand")
    if damaged:
        listed = _some([*damaged, *copied])
        if remove_damaged:
            cure = f"`dvc repro --pull` restores them from the remote, or makes them again{replaced}"
            return Finding("cache", "warn", f"deleted, because the MD5 did not match: {listed}", cure)
        cure = f"`isoflop doctor --cache --remove-damaged`, then `dvc repro --pull`{replaced}"
        return Finding("cache", "fail", f"MD5 does not match: {listed}", cure)
    if changed:
        cure = "`dvc checkout` restores them, `dvc repro` makes them again, `dvc commit` accepts them"
        found = f"all objects are intact; outputs that differ from dvc.lock: {_some(changed)}"
        return Finding("cache", "warn", found, cure)
    return Finding("cache", "ok", f"every object in {folder} and every output matches its MD5")


def _some(named: Sequence[Path | str]) -> str:
    return ", ".join(map(str, named[:6])) + (f" and {len(named) - 6} more" if len(named) > 6 else "")


def _output(project: Path, *command: str) -> str | None:
    """Return the output of a command, or None if it fails."""
    try:
        return command_output(command, project).strip()
    except UserError:
        return None
