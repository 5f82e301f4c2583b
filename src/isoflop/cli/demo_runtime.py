"""Whether the demo of a project will get its ONNX Runtime, known without getting it: for ``isoflop doctor``."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import requests

from isoflop.demo.onnxruntime_web import PACKAGE
from isoflop.download.fetching import Remote, in_mirror
from isoflop.project.command_output import command_output
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import read_params


def where_runtime_is(project: Path, patience: float) -> str | None:
    """In words: not wanted, here already, or to be had; None where a run of ``project`` would fail to get it.

    Args:
        patience: seconds for servers to answer; a name server that is silent, too.
    """
    if not _setting(project / "params.yaml", "demo", "enabled", default=True):
        return "not wanted: demo.enabled is false"
    outs = _setting(project / "dvc.lock", "stages", "onnxruntime_web", "outs", default=[])
    if outs and all((project / out["path"]).exists() or _is_cached(project, out["md5"]) for out in outs):
        return "ONNX Runtime for browsers is here"
    return "ONNX Runtime for browsers can be had" if _is_within_reach(PACKAGE, patience) else None


def _setting(file: Path, *keys: str, default: Any) -> Any:
    """What a YAML file says under ``keys``; ``default`` where it says nothing or cannot be read."""
    try:
        found: Any = read_params(file)
        for key in keys:
            found = found[key]
    except (UserError, KeyError, TypeError):
        return default
    return found


def _is_cached(project: Path, md5: str) -> bool:
    try:
        folder = command_output(["dvc", "cache", "dir"], project).strip()
    except UserError:
        return False
    return (project / folder / "files" / "md5" / md5[:2] / md5[2:]).exists()


def _is_within_reach(remote: Remote, patience: float) -> bool:
    """Whether the mirror has a file of that name, or a server says yes to the header alone."""
    try:
        mirrored = in_mirror(remote)
    except UserError:
        return False
    if isinstance(mirrored, Path):
        return True
    urls = [remote.url, *([mirrored] if mirrored else [])]
    answers = threading.Semaphore(0)  # that said yes
    # daemons: to look up a host's name takes no timeout, and may go on after all is said
    for url in urls:
        threading.Thread(target=_ask, args=(url, patience, answers), daemon=True).start()
    return answers.acquire(timeout=patience)


def _ask(url: str, patience: float, answers: threading.Semaphore) -> None:
    try:
        if requests.head(url, timeout=patience, allow_redirects=True).ok:
            answers.release()
    except (requests.RequestException, ValueError):  # ValueError: the mirror is no URL after all
        return
