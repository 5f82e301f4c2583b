"""What a task of ``isoflop launch`` gets of its project: the files, and how it exchanges results."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from isoflop.project.command_output import command_output
from isoflop.project.graph import Graph
from isoflop.runtime.errors import UserError

_LOCAL = Path(".dvc") / "config.local"


@dataclass(frozen=True)
class Place:
    """What a task needs to know about its project.

    Attributes:
        files: tar of the files that git tracks or does not ignore.
        settings: DVC settings, by their dotted names.
        shares_cache: the task's machine has the project's cache; otherwise results go through the default remote.
        scratch: folder for copies of the project; None: the machine's temporary folder.
    """

    files: bytes
    settings: dict[str, str]
    shares_cache: bool
    scratch: str | None

    def unpack(self, folder: Path) -> None:
        """Write the files into ``folder``."""
        with tarfile.open(fileobj=io.BytesIO(self.files)) as archive:
            if hasattr(tarfile, "data_filter"):  # not in Python 3.11.0 to 3.11.3
                archive.extraction_filter = staticmethod(tarfile.data_filter)
            archive.extractall(folder)


def place_of(project: Path, graph: Graph, *, remote: bool, scratch: str | None) -> Place:
    """Return what the tasks need.

    Raises:
        UserError: a cluster needs a remote and there is none.
    """
    from dvc.repo import Repo

    with Repo(str(project)) as repo:
        settings = {"core.no_scm": "true"}
        if not remote:
            settings["cache.dir"] = str(Path(repo.cache.local.path).parents[1])  # above files/md5
        elif name := repo.config["core"].get("remote"):
            settings[f"remote.{name}.url"] = str(
                repo.config["remote"][name]["url"]
            )  # absolute, also if the file has a relative path
        else:
            raise UserError(
                ".dvc/config: core.remote: not set; a cluster exchanges results through a remote; "
                "fix: `dvc remote add -d NAME URL`"
            )
    return Place(_packed(project, graph.given), settings, not remote, scratch)


def _packed(project: Path, given: Iterable[str]) -> bytes:
    """Return a tar of the files that git tracks or does not ignore, and of the local DVC settings.

    Leaves out the ``given`` folders: they may hold many images, and only stages that run on this machine read them.
    """
    listed = command_output(["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], project).split(
        "\0"
    )
    left_out = tuple(f"{folder}/" for folder in given)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in [*filter(None, listed), _LOCAL.as_posix()]:
            if name != "dvc.lock" and not name.startswith(left_out) and (project / name).is_file():
                archive.add(project / name, name)
    return buffer.getvalue()
