"""Findings about the machine: Python, packages, torch, free space."""

from __future__ import annotations

import shutil
import sys
from importlib import metadata
from pathlib import Path

from isoflop.doctor.findings import Finding
from isoflop.project.project_files import runs_installed_code
from isoflop.training.cpu import computes_in_bf16, processor

_MIN_FREE_BYTES = 2e9


def python(_: Path) -> Finding:
    return Finding("python", "ok", f"{sys.version.split()[0]} at {sys.executable}")


def packages(project: Path) -> Finding:
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
        return Finding("packages", "fail", ", ".join(problems), f"{installation(project)} installs them")
    return Finding("packages", "ok", f"isoflop {metadata.version('isoflop')} and its dependencies")


def installation(project: Path) -> str:
    return "`pip install --upgrade isoflop`" if runs_installed_code(project) else "`make install`"


def torch(project: Path) -> Finding:
    try:
        import torch
    except ImportError as error:
        return Finding("torch", "fail", f"import fails: {error}", installation(project))
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


def disk(project: Path) -> Finding:
    free = shutil.disk_usage(project).free
    found = f"{free / 1e9:.1f} GB free at {project.resolve()}"
    if free < _MIN_FREE_BYTES:
        return Finding("disk", "warn", found, "`dvc gc --workspace --all-branches` frees space")
    return Finding("disk", "ok", found)
