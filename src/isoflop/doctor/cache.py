"""Findings about DVC's cache: damaged objects and outputs."""

from __future__ import annotations

from pathlib import Path

from isoflop.doctor.findings import Finding, some
from isoflop.runtime.damage import changed_outputs, copies, damaged_objects, remove


def cache(project: Path, remove_damaged: bool) -> Finding:
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
    replaced = f"; `dvc repro` replaces {some(own)}, changed since: move your own files first" if own else ""
    if remaining:
        reasons = [f"{path} ({why})" for path, why in remaining.items()]
        return Finding("cache", "fail", f"damaged, and not deleted: {some(reasons)}", "delete them by hand")
    if damaged:
        listed = some([*damaged, *copied])
        if remove_damaged:
            cure = f"`dvc repro --pull` restores them from the remote, or makes them again{replaced}"
            return Finding("cache", "warn", f"deleted, because the MD5 did not match: {listed}", cure)
        cure = f"`isoflop doctor --cache --remove-damaged`, then `dvc repro --pull`{replaced}"
        return Finding("cache", "fail", f"MD5 does not match: {listed}", cure)
    if changed:
        cure = "`dvc checkout` restores them, `dvc repro` makes them again, `dvc commit` accepts them"
        found = f"all objects are intact; outputs that differ from dvc.lock: {some(changed)}"
        return Finding("cache", "warn", found, cure)
    return Finding("cache", "ok", f"every object in {folder} and every output matches its MD5")
