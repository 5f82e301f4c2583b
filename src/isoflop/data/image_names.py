"""The table of prepared images: which file of the source each one was. CSV, in the order of each split.

It is not part of a split: a renamed file changes no training.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from isoflop.download.image_folders import visible
from isoflop.runtime.errors import UserError, unmade

_COLUMNS = ("split", "name")


def write_names(rows: Iterable[tuple[str, str]], file: Path) -> None:
    """Write (split, name) of every image; control characters and bytes that are not valid Unicode are escaped."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(_COLUMNS)
        writer.writerows((split, visible(name)) for split, name in rows)


def read_names(file: Path, split: str, count: int) -> list[str]:
    """Return the names of the ``count`` images of a split, in order.

    Raises:
        UserError: the file is missing, or lists another number of images.
    """
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            names = [visible(row["name"]) for row in csv.DictReader(stream) if row["split"] == split]
    except FileNotFoundError:
        raise unmade(file) from None
    except (KeyError, ValueError, csv.Error) as error:
        raise UserError(f"{file}: not a readable table of names ({error}); fix: `dvc checkout` restores it") from None
    if len(names) != count:
        raise UserError(
            f"{file}: got {len(names)} names for split {split}, expected {count}; fix: `dvc checkout` restores it"
        )
    return names
