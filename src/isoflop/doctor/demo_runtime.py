"""Checks for ``isoflop doctor`` whether a project's demo can get ONNX Runtime, without downloading it."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import requests

from isoflop.demo.onnxruntime_web import PACKAGE
from isoflop.download.fetching import Remote, in_mirror
from isoflop.project.command_output import command_output
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import read_mapping


def find_runtime(project: Path, timeout: float) -> str | None:
    """Return a sentence: not needed, present, or downloadable; None if a run of ``project`` could not get it.

    Args:
        timeout: seconds to wait for servers, including name servers.
    """
    if not _setting(project / "params.yaml", "demo", "enabled", default=True):
        return "not needed: demo.enabled is false"
    outs = _setting(project / "dvc.lock", "stages", "onnxruntime_web", "outs", default=[])
    if outs and all((project / out["path"]).exists() or _is_cached(project, out["md5"]) for out in outs):
        return "ONNX Runtime for browsers is present"
    return "ONNX Runtime for browsers can be downloaded" if _is_reachable(PACKAGE, timeout) else None


def _setting(file: Path, *keys: str, default: Any) -> Any:
    """Return the value at ``keys`` of a YAML file, or ``default`` if it is missing or the file is not readable."""
    try:
        value: Any = read_mapping(file)
        for key in keys:
            value = value[key]
    except (UserError, KeyError, TypeError):
        return default
    return value


def _is_cached(project: Path, md5: str) -> bool:
    try:
        folder = command_output(["dvc", "cache", "dir"], project).strip()
    except UserError:
        return False
    return (project / folder / "files" / "md5" / md5[:2] / md5[2:]).exists()


def _is_reachable(remote: Remote, timeout: float) -> bool:
    """Return whether the mirror folder has the file, or a server answers a HEAD request for it with success."""
    try:
        mirrored = in_mirror(remote)
    except UserError:
        return False
    if isinstance(mirrored, Path):
        return True
    urls = [remote.url, *([mirrored] if mirrored else [])]
    successes = threading.Semaphore(0)
    # daemon threads, because a name lookup has no timeout and must not keep the command from ending
    for url in urls:
        threading.Thread(target=_ask, args=(url, timeout, successes), daemon=True).start()
    return successes.acquire(timeout=timeout)


def _ask(url: str, timeout: float, successes: threading.Semaphore) -> None:
    try:
        if requests.head(url, timeout=timeout, allow_redirects=True).ok:
            successes.release()
    except (requests.RequestException, ValueError):  # ValueError: the mirror is not a valid URL
        return
