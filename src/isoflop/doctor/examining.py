"""``isoflop doctor``: problems of this machine and project, each with its fix."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from isoflop.demo.onnxruntime_web import PACKAGE
from isoflop.doctor import machine
from isoflop.doctor.cache import cache as examine_cache
from isoflop.doctor.demo_runtime import find_runtime
from isoflop.doctor.findings import Finding, outputs, results
from isoflop.dvc_guard.guard import is_active
from isoflop.project.command_output import command_output, in_git
from isoflop.project.graph import read_graph
from isoflop.project.project_files import runs_installed_code
from isoflop.runtime.errors import UserError
from isoflop.runtime.files import json_text
from isoflop.runtime.stage_code import CODE_FILE, checkout, code_text, installed, stale_message, stale_stages
from isoflop.runtime.terminal import without_credentials

_TIMEOUT = 2.0  # seconds to wait for a server
_RESUME = Path(".isoflop") / "resume"


def examine_machine(folder: Path) -> list[Finding]:
    """Return the findings that need no project."""
    cure = "`isoflop init DIR --images FOLDER` creates one"
    none = Finding("project", "warn", f"no dvc.yaml in {folder} or a parent folder", cure)
    return [*(check(folder) for check in (machine.python, machine.packages, machine.torch, machine.disk)), none]


def examine(project: Path, *, cache: bool = False, remove_damaged: bool = False) -> list[Finding]:
    """Return all findings, in the order in which to fix them.

    Args:
        cache: also compare every object of the DVC cache and every output with its MD5.
        remove_damaged: delete the damaged ones.
    """
    checks: tuple[Callable[[Path], Finding], ...] = (
        machine.python,
        machine.packages,
        machine.torch,
        _params,
        _code,
        _git,
        _dvc,
        outputs,
        results,
        _remote,
        machine.disk,
        _demo,
        _interrupted,
    )
    # first, as `dvc status`, which `results` asks, deletes a damaged list of files
    last = [examine_cache(project, remove_damaged)] if cache else []
    return [*(check(project) for check in checks), *last]


def show(findings: list[Finding], as_json: bool) -> None:
    """Print one line per finding and, below a problem, its fix.

    Raises:
        UserError: a finding has status ``fail``.
    """
    if as_json:
        print(json_text({"findings": [asdict(finding) for finding in findings]}))
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
        cure = f"{machine.installation(project)} installs them"
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
    found = f"{default}, {without_credentials(settings.get(f'remote.{default}.url', 'no URL'))}"
    if settings.get(f"remote.{default}.verify", "false").lower() != "true":
        return Finding(
            "remote",
            "warn",
            f"{found}; DVC would not detect corrupt objects in it",
            f"`dvc remote modify {default} verify true`",
        )
    return Finding("remote", "ok", found)


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


def _output(project: Path, *command: str) -> str | None:
    """Return the output of a command, or None if it fails."""
    try:
        return command_output(command, project).strip()
    except UserError:
        return None
