"""The published data sets: where their files are, what is in them, and the checksums that they must have."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from isoflop.download.archives import archive_entries, naming_damage
from isoflop.download.fetching import Remote, discard, fetched, from_mirror
from isoflop.download.raw_format import Manifest
from isoflop.runtime.errors import UserError


@dataclass(frozen=True)
class Published:
    """A data set as its authors publish it, in single files or in one archive that unpacks to a folder of them."""

    url: str  # of the archive, or of the folder that has the files
    archive_checksum: str | None
    folder: str  # what the archive unpacks to; where a mirror has the files
    files: dict[str, str]  # name → checksum
    manifest: Manifest


def download_published(dataset: Published, raw: Path) -> None:
    """Put the files of ``dataset`` into the folder ``raw``, as they are published.

    Raises:
        UserError: a file cannot be had or has another checksum.
    """
    remotes = {
        name: Remote(f"{dataset.folder}/{name}", f"{dataset.url}/{name}", checksum)
        for name, checksum in dataset.files.items()
    }
    if dataset.archive_checksum is None:
        for name, remote in remotes.items():
            with fetched(remote) as file:
                shutil.copyfile(file, raw / name)
    elif (files := _all_from_mirror(remotes)) is not None:
        for name, file in files.items():
            shutil.copyfile(file, raw / name)
            discard(file)
    else:
        archive = Remote(dataset.url.rpartition("/")[2], dataset.url, dataset.archive_checksum)
        with fetched(archive) as file:
            _unpack(file, dataset, raw)


def _all_from_mirror(remotes: dict[str, Remote]) -> dict[str, Path] | None:
    """The files of the folder that an archive unpacks to, if the mirror has it."""
    files = {}
    for name, remote in remotes.items():
        file = from_mirror(remote)
        if file is None:
            return None
        files[name] = file
    return files


def _unpack(archive: Path, dataset: Published, raw: Path) -> None:
    with naming_damage(archive):
        for entry in archive_entries(archive):
            folder, _, name = entry.name.rpartition("/")
            if folder == dataset.folder and name in dataset.files:
                with entry.open() as source, (raw / name).open("wb") as target:
                    shutil.copyfileobj(source, target, 1 << 20)
    missing = [name for name in dataset.files if not (raw / name).exists()]
    if missing:
        raise UserError(f"{archive}: found no {', '.join(missing)}, expected all files of {dataset.folder}")
