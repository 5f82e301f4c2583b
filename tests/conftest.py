"""What several test files share: the project's root, and real runs of the smoke pipeline in a temporary clone."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from isoflop.runtime.stage_code import checkout, code_text
from tests import fork_server

ROOT = Path(__file__).resolve().parents[1]
# two test processes with a thread a core each fight for the cores, and are several times slower; set before torch loads
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(ROOT))  # the tests import stages.*, as `python -m stages.NAME` does


# A mirror of this machine must not decide what the tests see.
_NOT_PASSED_ON = ("ISOFLOP_MIRROR",)
# Some libraries set such variables when they are imported here; the command of a user does not have them.
_AT_START = fork_server.read_at_start(os.environ)


def pytest_configure(config: pytest.Config) -> None:
    """One fork server for all test processes."""
    if not hasattr(config, "workerinput"):
        server = contextlib.ExitStack()
        server.enter_context(fork_server.running())
        config.add_cleanup(server.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the smoke project comes first: of two processes one makes it while the other runs its own half."""

    def place(item: pytest.Item) -> int:
        needed = getattr(item, "fixturenames", ())
        return 0 if "wider" in needed else 1 if "smoke" in needed else 2

    items.sort(key=place)


def inherited_environment() -> dict[str, str]:
    """The environment of this process, without what a library or this machine added to it."""
    rest = os.environ.keys() - fork_server.read_at_start(os.environ).keys() - set(_NOT_PASSED_ON)
    return {name: os.environ[name] for name in rest} | _AT_START


def run_command(*command: str, cwd: Path, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command with this environment's programs first on the PATH; its output comes back as text.

    Its Python processes are forks of ``tests.fork_server``; with ``ISOFLOP_TESTS_REAL="1"`` they are processes of
    their own, for a test of what a process does when it starts, is killed, or starts others.
    """
    programs = [str(Path(sys.executable).parent), os.environ["PATH"]]
    if (forks := os.environ.get(fork_server.VARIABLE)) and not env.get(fork_server.REAL):
        programs.insert(0, forks)
        command = ("python" if command[0] == sys.executable else command[0], *command[1:])
    path = os.pathsep.join(programs)
    environment = {**inherited_environment(), "PATH": path, "DVC_NO_ANALYTICS": "1", "COLUMNS": "200", **env}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=1200)
    if check and done.returncode:
        shown = f"{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        raise AssertionError(f"{' '.join(command)} exited {done.returncode}\n{shown}")
    return done


def copy_project(target: Path, preset: str = "smoke") -> Path:
    """A git and DVC repository at ``target`` with the project's files as they are now, and a preset's parameters."""
    listed = run_command("git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    for name in listed:
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, target / name)
    (target / "dvc.lock").unlink(missing_ok=True)
    shutil.copy(ROOT / "presets" / f"{preset}.yaml", target / "params.yaml")
    (target / "code.yaml").write_text(code_text(checkout(target)))  # as `dvc repro code` does
    run_command("git", "init", "-q", "-b", "main", cwd=target)
    commit(target, "start")
    return target


def ship_files(folder: Path) -> dict[str, Path]:
    """Where ``shipping.ship`` is to write, in the new folder ``folder``."""
    folder.mkdir(parents=True)
    names = {"model": "model.onnx", "choice": "choice.json", "card": "MODEL_CARD.md", "sums": "SHA256SUMS"}
    return {kind: folder / name for kind, name in names.items()}


def commit(repository: Path, message: str) -> None:
    """Commit everything, as somebody."""
    run_command("git", "add", "-A", cwd=repository)
    identity = ("-c", "user.name=test", "-c", "user.email=test@example.invalid")
    run_command("git", *identity, "commit", "-q", "--allow-empty", "-m", message, cwd=repository)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """Of all test processes."""
    folder = tmp_path_factory.getbasetemp()
    return folder if worker_id == "master" else folder.parent


@pytest.fixture(scope="session")
def smoke(shared_folder: Path) -> Path:
    """A clone in which the whole smoke pipeline has run, for reading.

    In forks, as all commands here: the tests of launch and of the fork server compare it with what real processes make.
    """

    def make(clone: Path) -> None:
        copy_project(clone)
        done = run_command("dvc", "repro", cwd=clone)
        (clone / ".isoflop").mkdir(exist_ok=True)
        (clone / ".isoflop" / "repro.log").write_text(done.stdout + done.stderr)
        commit(clone, "reproduced")

    return made_once(shared_folder / "smoke", make)


@pytest.fixture
def clone(smoke: Path, tmp_path: Path) -> Path:
    """A copy of the reproduced clone, cache and all, to change."""
    target = tmp_path / "clone"
    shutil.copytree(smoke, target, symlinks=True)
    return target


@pytest.fixture(scope="session")
def wider(smoke: Path, shared_folder: Path) -> Path:
    """A copy of it whose cache also has an experiment with ``train.width`` 24; for reading."""

    def make(clone: Path) -> None:
        shutil.copytree(smoke, clone, symlinks=True)
        done = run_command("dvc", "exp", "run", "-S", "train.width=24", cwd=clone)
        (clone / ".isoflop" / "wider.log").write_text(done.stdout)
        run_command("git", "checkout", "-q", ".", cwd=clone)
        run_command("dvc", "checkout", "-q", cwd=clone)

    return made_once(shared_folder / "wider", make)


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, which the first test process that wants it makes."""
    from filelock import FileLock

    done = folder.with_name(f"{folder.name}.done")
    with FileLock(str(folder.with_name(f"{folder.name}.lock"))):
        if not done.exists():
            make(folder)
            done.touch()
    return folder
