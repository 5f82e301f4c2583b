"""Which results are stale: computed from other parameters, code or data than those that are there now.

dvc.lock records what each stage read. It is compared with params.yaml, code.yaml, dvc.yaml and the MD5s of the files,
as `dvc status` does, but DVC takes seconds to start. What follows from a stale stage is stale, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from isoflop.project.declared_stages import Declared, declared_stages
from isoflop.project.dependency_hashes import DependencyHashes
from isoflop.runtime import plain_yaml
from isoflop.runtime.errors import UserError
from isoflop.runtime.params import PARAMS_FILE
from isoflop.runtime.stage_code import CODE_FILE, CODE_STAGE, checkout, code_text, has_own_stages

_QUICKLY = 512 * 1024**2  # bytes of a dependency that a command reads to warn
_MOST_NAMED = 3  # causes of one file, stages
_Locked = Mapping[str, Any]  # a stage of a dvc.lock
_Differs = Callable[[_Locked], bool]  # whether a dependency of a stage has other content now
Cause = tuple[str, str]  # a file or folder, and its key if it is a parameter file


@dataclass(frozen=True)
class Stale:
    """Why an output is stale: the stage that wrote it, and what changed after it or a stage before it ran."""

    stage: str
    causes: tuple[Cause, ...]


def stale_outputs(project: Path, most_bytes: int | None = None) -> dict[str, Stale]:
    """Return the stale outputs of ``project``, by path. Empty if nothing ran yet.

    Args:
        most_bytes: larger dependencies with a new state are compared by size; None: all are read.

    Raises:
        UserError: a YAML file of the project is invalid.
    """
    if not (project / "dvc.lock").is_file():
        return {}
    contents = {file: _parsed(project / file) for file in (str(PARAMS_FILE), CODE_FILE.name)}
    locked = read_lock((project / "dvc.lock").read_text())
    declared = _declared(project, contents[str(PARAMS_FILE)])
    if declared is not None:
        locked = {name: stage for name, stage in locked.items() if name in declared}  # not of a variant of before
    hashes = DependencyHashes(project, most_bytes)
    current = _code_now(project, locked, hashes)
    if current is not None:
        contents[CODE_FILE.name] = plain_yaml.parse(current)[0]
    outputs = {out["path"] for stage in locked.values() for out in stage.get("outs", [])}

    def differs(dep: _Locked) -> bool:
        if dep["path"] == CODE_FILE.name and current is not None:
            return bool(dep.get("md5") != hashlib.md5(current.encode(), usedforsecurity=False).hexdigest())
        inside = (out for out in outputs if out.startswith(f"{dep['path']}/"))
        # a folder that lacks outputs, in a clone that pulled some, says nothing about the results
        return hashes.differs(dep) and all((project / out).exists() for out in inside)

    found = _stale(locked, contents, differs, declared or {})
    hashes.keep()
    return {path: stale for path, stale in found.items() if stale.stage != CODE_STAGE}


def stale_in_lock(lock: str, contents: Mapping[str, Any]) -> dict[str, Stale]:
    """Return the stale outputs of a commit, by path, as far as its own files tell.

    Args:
        lock: the text of its dvc.lock.
        contents: its parameter files, parsed, by name.
    """
    stages = read_lock(lock)
    written = {out["path"]: out.get("md5") for stage in stages.values() for out in stage.get("outs", [])}
    return _stale(stages, contents, lambda dep: dep.get("md5") != written.get(dep["path"], dep.get("md5")), {})


def staleness_warning(path: Path) -> str | None:
    """Return one line if an output that a command reads is stale; None if not, or if that cannot be told quickly.

    Args:
        path: an output of the pipeline, a file in one, or a folder of several.
    """
    whole = Path(os.path.abspath(path))
    project = next((folder for folder in whole.parents if (folder / "dvc.lock").is_file()), None)
    if project is None:
        return None
    name = whole.relative_to(project).as_posix()
    with contextlib.suppress(UserError, OSError):  # the command may answer anyway
        stale = [one for out, one in stale_outputs(project, _QUICKLY).items() if _overlap(out, name)]
        if stale:
            shown = Path(os.path.relpath(project)) / name.partition("/")[0]
            return f"{shown}/ is older than {causes_in_words(stale)}: `dvc repro` updates it"
    return None


def read_lock(text: str) -> dict[str, _Locked]:
    """Return the stages of a dvc.lock; none if it is damaged, which DVC reports."""
    try:
        return dict(plain_yaml.parse(text)[0]["stages"])  # like DVC: PyYAML reads 1e-05 as a string
    except (KeyError, TypeError, ValueError):
        return {}


def stale_note(found: Iterable[Stale]) -> str:
    """Return a sentence that names what changed, the stale stages, and the command that updates them."""
    found = list(found)
    named = list(dict.fromkeys(stale.stage for stale in found))
    return f"{causes_in_words(found)} changed after {_listed(named, 6)} ran; fix: `dvc repro` updates the results"


def causes_in_words(found: Iterable[Stale]) -> str:
    """``params.yaml (prepare.image_size, train.width), the code of train, data/images``."""
    keys: dict[str, list[str]] = {}
    for file, key in dict.fromkeys(cause for stale in found for cause in stale.causes):
        keys.setdefault(file, []).append(key)
    order = [PARAMS_FILE.name, CODE_FILE.name]
    files = sorted(keys, key=lambda file: order.index(file) if file in order else len(order))
    return _listed([_cause_in_words(file, keys[file]) for file in files], _MOST_NAMED)


def _cause_in_words(file: str, keys: list[str]) -> str:
    if file == CODE_FILE.name:
        stages = [key.removeprefix("stages.") for key in keys if key]
        return f"the code of {_listed(stages, _MOST_NAMED)}" if stages else "the code"
    return f"{file} ({_listed(keys, _MOST_NAMED)})" if any(keys) else file


def _listed(names: list[str], most: int) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _parsed(file: Path) -> Any:
    try:
        return plain_yaml.parse(file.read_text())[0] if file.is_file() else {}
    except ValueError as error:
        raise UserError(f"{file.name}: {error}") from None


def _declared(project: Path, params: Any) -> dict[str, Declared] | None:
    """Return the stages of dvc.yaml; None if only DVC can read it."""
    with contextlib.suppress(ValueError, OSError):
        return declared_stages(plain_yaml.parse((project / "dvc.yaml").read_text())[0], params)
    return None


def _code_now(project: Path, locked: Mapping[str, _Locked], hashes: DependencyHashes) -> str | None:
    """Return the code.yaml that the next `dvc repro` writes in a checkout whose code changed; None if it did not."""
    stage = locked.get(CODE_STAGE)
    if stage and has_own_stages(project) and any(map(hashes.differs, stage.get("deps", []))):
        with contextlib.suppress(UserError):  # a module that does not parse
            return code_text(checkout(project))
    return None


def _stale(
    locked: Mapping[str, _Locked],
    contents: Mapping[str, Any],
    differs: _Differs,
    declared: Mapping[str, Declared],
) -> dict[str, Stale]:
    stages = {name: stage for name, stage in locked.items() if name != CODE_STAGE}
    causes = {name: dict.fromkeys(_causes(name, stage, contents, differs, declared.get(name)))
              for name, stage in stages.items()}  # fmt: skip
    made = {out["path"]: name for name, stage in stages.items() for out in stage.get("outs", [])}
    before = {name: {made[out] for dep in stage.get("deps", []) for out in made if _overlap(out, dep["path"])} - {name}
              for name, stage in stages.items()}  # fmt: skip
    grows = True
    while grows:
        sizes = {name: len(found) for name, found in causes.items()}
        for name, earlier in before.items():
            for one in earlier:
                causes[name] = causes[one] | causes[name]
        grows = sizes != {name: len(found) for name, found in causes.items()}
    return {path: Stale(name, _roots(causes[name], made)) for path, name in made.items() if causes[name]}


def _roots(causes: Iterable[Cause], made: Iterable[str]) -> tuple[Cause, ...]:
    """Leave out outputs that changed, if parameters, code or data did, and folders of one that is named."""
    causes = tuple(causes)
    roots = tuple((file, key) for file, key in causes if not any(_overlap(out, file) for out in made))
    return roots or tuple(one for one in causes if not any(other[0].startswith(f"{one[0]}/") for other in causes))


def _causes(
    name: str, stage: _Locked, contents: Mapping[str, Any], differs: _Differs, declared: Declared | None
) -> Iterator[Cause]:
    """Yield what changed after a stage ran."""
    if declared and declared.frozen:
        return
    recorded = stage.get("params") or {}
    for file, values in recorded.items():
        if file in contents:
            for key, value in values.items():
                yield from ((file, changed) for changed in _changed_keys(value, _value(contents[file], key), key))
    deps = stage.get("deps", [])
    if declared:
        known = {(file, key) for file, values in recorded.items() for key in values}
        is_new = set(declared.params) - known or set(declared.deps) - {dep["path"] for dep in deps}
        if is_new or declared.cmd.split() != str(stage["cmd"]).split():
            yield "dvc.yaml", f"stage {name}"
    yield from ((dep["path"], "") for dep in deps if differs(dep))


def _changed_keys(old: Any, new: Any, key: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in old | new:
            yield from _changed_keys(old.get(name), new.get(name), f"{key}.{name}")
    elif old != new:
        yield key


def _value(content: Any, dotted: str) -> Any:
    for part in dotted.split("."):
        content = content.get(part) if isinstance(content, dict) else None
    return content


def _overlap(one: str, other: str) -> bool:
    """Return whether one path is the other or is inside of it."""
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")
