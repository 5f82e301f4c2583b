"""Download a published data set and check it. The list of data sets, ``PUBLISHED``, is in ``sources``."""

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
    """A data set as published by its authors: single files, or one archive with a folder of files."""

    url: str  # of the archive, or of the folder with the files
    archive_checksum: str | None  # None: single files
    folder: str  # the folder in the archive; also the folder with the files on a mirror
    files: dict[str, str]  # name → checksum
    manifest: Manifest


def download_published(dataset: Published, raw: Path) -> None:
    """Download the files of ``dataset``, unchanged, into the folder ``raw``.

    Raises:
        UserError: a file cannot be downloaded or has another checksum.
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
    """Return the files of the archive from the mirror; None if the mirror lacks one of them."""
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
        raise UserError(f"{archive}: got no {', '.join(missing)}, expected all files of {dataset.folder}")
