"""What is in DVC's cache and in the workspace against the MD5s that they should have.

DVC itself does not look: it takes a file of its cache for whole by its name, hands it out, and even puts it in the
place of what a stage has just written (docs/decisions/009). So stages check what they read against dvc.lock, and
``isoflop doctor --cache`` reads all of the cache again.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import yaml

from isoflop.runtime.dvc_md5 import dvc_md5
from isoflop.runtime.errors import UserError
from isoflop.runtime.progress import tracked

_LOCK = Path("dvc.lock")


def check_inputs(inputs: Iterable[Path]) -> None:
    """Compare what a stage is about to read with what dvc.lock says of it; what is not in there is not looked at.

    Raises:
        UserError: an input is not what the stage before it wrote.
    """
    read = [path.as_posix() for path in inputs]
    for output, wanted in locked_outputs(_LOCK).items():
        if any(output == path or output.startswith(f"{path}/") for path in read) and Path(output).exists():
            found = dvc_md5(Path(output))
            if found not in wanted:
                raise UserError(
                    f"{output}: found MD5 {found}, expected {' or '.join(sorted(wanted))} by dvc.lock: changed since "
                    "(`dvc repro` makes it again, `dvc commit` keeps it), or damaged in a cache (`isoflop doctor "
                    "--cache` says so)"
                )


def locked_outputs(lock: Path) -> dict[str, set[str]]:
    """Output → its MD5s in dvc.lock, several where a stage was renamed; nothing where that cannot be read."""
    found: dict[str, set[str]] = {}
    try:
        stages = yaml.load(lock.read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))["stages"]
        for stage in stages.values():
            for out in stage.get("outs", []):
                found.setdefault(out["path"], set()).add(out["md5"])
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}
    return found


def changed_outputs(project: Path) -> list[Path]:
    """Outputs in the workspace of ``project`` that are not what dvc.lock says."""
    wanted = {project / output: md5s for output, md5s in locked_outputs(project / _LOCK).items()}
    there = [output for output in wanted if output.exists()]
    with ThreadPoolExecutor() as pool:
        return [
            output for output, md5 in zip(there, pool.map(dvc_md5, there), strict=True) if md5 not in wanted[output]
        ]


def damaged_objects(cache: Path) -> dict[Path, str]:
    """Objects of a DVC cache whose content is not what their name says, and the MD5 that it has."""
    objects = sorted(_objects(cache))
    with ThreadPoolExecutor() as pool:
        read = tracked(pool.map(dvc_md5, objects), "reading the cache", "files", len(objects))
        found = dict(zip(objects, read, strict=True))
    return {file: md5 for file, md5 in found.items() if file.parent.name + file.name.removesuffix(".dir") != md5}


def copies(damaged: dict[Path, str], outputs: Iterable[Path]) -> list[Path]:
    """Those of ``outputs`` that hold a copy of, or a link to, a damaged object: theirs is no content of anybody's."""
    bad = set(damaged.values())
    files = {output: output.rglob("*") if output.is_dir() else [output] for output in outputs}
    return [
        output for output, inside in files.items() if any(file.is_file() and dvc_md5(file) in bad for file in inside)
    ]


def remove(outputs: Iterable[Path], objects: Iterable[Path]) -> None:
    """Delete outputs and objects of the cache, for DVC to restore them or to run their stages again."""
    for output in outputs:
        shutil.rmtree(output) if output.is_dir() and not output.is_symlink() else output.unlink()
    for file in objects:
        file.chmod(0o644)
        file.unlink()


def _objects(cache: Path) -> Iterator[Path]:
    for folder in (cache / "files" / "md5").glob("[0-9a-f][0-9a-f]"):
        yield from (file for file in folder.iterdir() if re.fullmatch(r"[0-9a-f]{30}(\.dir)?", file.name))
