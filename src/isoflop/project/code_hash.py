"""One hash for all of a project's code, which a commit that leaves the code alone leaves alone too."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from isoflop.project.project_files import runs_installed_code
from isoflop.runtime.stage_code import checkout, installed


def project_code_sha256(project: Path) -> str:
    """SHA-256 over the names and the SHA-256 of the Python files that ``project`` runs: its own package and stages, or
    the installed ones where it runs those. They are named as in a checkout, so that both agree on the same code."""
    code = installed() if runs_installed_code(project) else checkout(project)
    files = {file for folder in (code.package, code.stages) for file in folder.rglob("*.py")}
    hashes = {code.name(file): file_sha256(file) for file in files}
    return hashlib.sha256(json.dumps(dict(sorted(hashes.items()))).encode()).hexdigest()


def file_sha256(file: Path) -> str:
    """Of the content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
