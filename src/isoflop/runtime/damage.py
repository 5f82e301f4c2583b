"""Detection of damaged files in the workspace and in DVC's cache, by their MD5.

DVC trusts the name of a cached file and never reads its content again: it checks a damaged file out, and even replaces
the fresh output of a stage with it (docs/decisions/009). So each stage compares its inputs with dvc.lock, and
``isoflop doctor --cache`` reads the whole cache.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
                    found.setdefault(str(out["path"]), set()).add(str(out["md5"]))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return {}
    return found


def changed_outputs(project: Path) -> list[Path]:
    """Return the outputs in the workspace of ``project`` whose content differs from dvc.lock."""
    wanted = _outputs_inside(project)
    there = [output for output in wanted if output.is_file() or output.is_dir()]  # reading a pipe would never end
    with ThreadPoolExecutor() as pool:
        return [
            output for output, md5 in zip(there, pool.map(dvc_md5, there), strict=True) if md5 not in wanted[output]
        ]


def damaged_objects(cache: Path) -> dict[Path, str]:
    """Return the objects of a DVC cache whose content does not match their name, and the MD5 of that content.

    The MD5 is empty for an object that is not a file, such as a pipe or a broken link.
    """
    objects = sorted(_objects(cache))
    with ThreadPoolExecutor() as pool:
        read = tracked(pool.map(_object_md5, objects), "reading the cache", "files", len(objects))
        found = dict(zip(objects, read, strict=True))
    return {file: md5 for file, md5 in found.items() if file.parent.name + file.name.removesuffix(".dir") != md5}


def copies(project: Path, damaged: Mapping[Path, str]) -> list[Path]:
    """Return the files of outputs that DVC copied or linked from a damaged object.

    A copy has the content of the object that dvc.lock lists in its place. An empty file is not evidence of a copy.
    """
    stored = {file.parent.name + file.name: file for file in damaged}
    if not stored:
        return []
    objects = next(iter(damaged)).parents[1]
    return [
        file
        for output, md5s in _outputs_inside(project).items()
        if _without_links(output.parent, project)
        for file, md5 in _listed(output, md5s, objects)
        if md5 in stored and _is_copy(file, stored[md5], damaged[stored[md5]])
    ]


def remove(files: Iterable[Path]) -> dict[Path, str]:
    """Delete files and links, never a folder or the target of a link. Return those that remain, and why."""
    remaining = {}
    for file in files:
        try:
            file.unlink()
        except OSError as error:
            remaining[file] = error.strerror or str(error)
    return remaining


def _outputs_inside(project: Path) -> dict[Path, set[str]]:
    """Return the outputs that dvc.lock lists inside of ``project``, and their MD5s."""
    return {
        project / os.path.normpath(name): md5s
        for name, md5s in locked_outputs(project / _LOCK).items()
        if not os.path.isabs(name) and os.path.normpath(name).split(os.sep)[0] not in ("..", ".")
    }


def _without_links(folder: Path, project: Path) -> bool:
    """Return whether no part of the path from ``project`` to ``folder`` is a link."""
    return folder.resolve() == project.resolve() / folder.relative_to(project)


def _listed(output: Path, md5s: Iterable[str], objects: Path) -> Iterator[tuple[Path, str]]:
    """Yield each file of an output in the workspace and the MD5 that it should have."""
    for md5 in md5s:
        if not md5.endswith(".dir"):
            yield output, md5
            continue
        try:
            entries = json.loads((objects / md5[:2] / md5[2:]).read_bytes())
            wanted = {entry["relpath"]: entry["md5"] for entry in entries}
        except (OSError, ValueError, TypeError, KeyError):
            continue
        for folder, _, names in () if output.is_symlink() else os.walk(output):
            for file in (Path(folder, name) for name in names):
                if (name := file.relative_to(output).as_posix()) in wanted:
                    yield file, wanted[name]


def _is_copy(file: Path, damaged: Path, md5: str) -> bool:
    if file.exists() and damaged.exists() and file.samefile(damaged):  # DVC made a link
        return True
    return not file.is_symlink() and file.is_file() and file.stat().st_size > 0 and dvc_md5(file) == md5


def _objects(cache: Path) -> Iterator[Path]:
    for folder in (cache / "files" / "md5").glob("[0-9a-f][0-9a-f]"):
        if not folder.is_symlink():
            yield from (file for file in folder.iterdir() if re.fullmatch(r"[0-9a-f]{30}(\.dir)?", file.name))


def _object_md5(file: Path) -> str:
    return dvc_md5(file) if file.is_file() else ""
