"""Detection of damaged files in the workspace and in DVC's cache, by their MD5.

DVC trusts the name of a cached file and never reads its content again: it checks a damaged file out, and even replaces
the fresh output of a stage with it (docs/decisions/009). So each stage compares its inputs with dvc.lock, and
``isoflop doctor --cache`` reads the whole cache.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from isoflop.runtime.dvc_md5 import dvc_md5
from isoflop.runtime.errors import UserError
from isoflop.runtime.progress import tracked

_LOCK = Path("dvc.lock")


def check_inputs(inputs: Iterable[Path]) -> None:
    """Compare the inputs of a stage with dvc.lock; inputs that it does not list are skipped.

    Raises:
        UserError: an input is not what an earlier stage wrote.
    """
    _check(Path(), [path.as_posix() for path in inputs])


def check_outputs(*paths: Path) -> None:
    """Compare outputs that a command reads with dvc.lock of the project around them; other files are skipped.

    Raises:
        UserError: an output is not what a stage wrote.
    """
    for path in paths:
        whole = Path(os.path.abspath(path))
        project = next((folder for folder in whole.parents if (folder / _LOCK).is_file()), None)
        if project:
            _check(Path(os.path.relpath(project)), [whole.relative_to(project).as_posix()])


def _check(project: Path, read: Sequence[str]) -> None:
    """Raise UserError if an output that contains one of the paths ``read``, or is in one, differs from dvc.lock."""
    for name, wanted in locked_outputs(project / _LOCK).items():
        if any(f"{name}/".startswith(f"{path}/") or path.startswith(f"{name}/") for path in read):
            output = project / name
            if (output.is_file() or output.is_dir()) and (found := dvc_md5(output)) not in wanted:
                raise UserError(
                    f"{output}: got MD5 {found}, expected {' or '.join(sorted(wanted))} as in dvc.lock; fix: "
                    "`isoflop doctor --remove-damaged && dvc repro` writes it again, `dvc commit` keeps your edit"
                )


def locked_outputs(lock: Path) -> dict[str, set[str]]:
    """Return the MD5s of each output in dvc.lock (several if a stage was renamed); none if it is unreadable."""
    import yaml  # slow for a command that prints its help

    found: dict[str, set[str]] = {}
    try:
        stages = yaml.load(lock.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
        for stage in stages.values():
            for out in stage.get("outs", []):
                if "md5" in out:
                    found.setdefault(out["path"], set()).add(out["md5"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}
    return found


def changed_outputs(project: Path) -> list[Path]:
    """Return the outputs in the workspace of ``project`` whose content differs from dvc.lock."""
    wanted = {project / output: md5s for output, md5s in locked_outputs(project / _LOCK).items()}
    there = [output for output in wanted if output.exists()]
    with ThreadPoolExecutor() as pool:
        return [
            output for output, md5 in zip(there, pool.map(dvc_md5, there), strict=True) if md5 not in wanted[output]
        ]


def damaged_objects(cache: Path) -> dict[Path, str]:
    """Return the objects of a DVC cache whose content does not match their name, and the MD5 of that content."""
    objects = sorted(_objects(cache))
    with ThreadPoolExecutor() as pool:
        read = tracked(pool.map(dvc_md5, objects), "reading the cache", "files", len(objects))
        found = dict(zip(objects, read, strict=True))
    return {file: md5 for file, md5 in found.items() if file.parent.name + file.name.removesuffix(".dir") != md5}


def copies(damaged: dict[Path, str], outputs: Iterable[Path]) -> list[Path]:
    """Return those of ``outputs`` that contain a copy of, or a link to, a damaged object."""
    bad = set(damaged.values())
    files = {output: output.rglob("*") if output.is_dir() else [output] for output in outputs}
    return [
        output for output, inside in files.items() if any(file.is_file() and dvc_md5(file) in bad for file in inside)
    ]


def remove(outputs: Iterable[Path], objects: Iterable[Path]) -> None:
    """Delete outputs and cache objects, so that DVC restores them or reruns their stages."""
    for output in outputs:
        shutil.rmtree(output) if output.is_dir() and not output.is_symlink() else output.unlink()
    for file in objects:
        file.chmod(0o644)
        file.unlink()


def _objects(cache: Path) -> Iterator[Path]:
    for folder in (cache / "files" / "md5").glob("[0-9a-f][0-9a-f]"):
        yield from (file for file in folder.iterdir() if re.fullmatch(r"[0-9a-f]{30}(\.dir)?", file.name))
