"""A command in a fork of the tests' server is what it is as a process of its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from isoflop.runtime.dvc_md5 import dvc_md5
from tests import fork_server
from tests.conftest import ROOT, inherited_environment, run_command

pytestmark = pytest.mark.skipif(fork_server.VARIABLE not in os.environ, reason="no fork server on this machine")

SHOWS = """
import os, signal, sys, threading
import numpy
import torch
print(sys.argv, sys.orig_argv[1:], sys.executable, sys.path, os.getcwd(), __name__, __spec__.name, __file__)
print(sys.modules["__main__"].__dict__ is globals())
print(sys.dont_write_bytecode, sys.flags.isolated, sys.stdout.encoding, sys.stdout.line_buffering)
print(sorted((name, value) for name, value in os.environ.items() if name not in ("_", "SHLVL")))
print({number: signal.getsignal(number) for number in signal.valid_signals() if number < 32})
print(os.umask(0o22), os.isatty(1), threading.active_count(), threading.current_thread() is threading.main_thread())
print(torch.get_num_threads(), torch.get_default_dtype(), numpy.geterr())
print(sys.stdin.read())
"""
ENDS = {
    "returns": "",
    "status": "sys.exit(7)",
    "status beyond a byte": "sys.exit(300)",
    "message": "sys.exit('error: no')",
    "exception": "def fails():\n    raise ValueError('no')\nfails()",
    "interrupt": "raise KeyboardInterrupt",
    "terminated": "os.kill(os.getpid(), signal.SIGTERM)",
    "killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "at exit": "import atexit\natexit.register(print, 'bye')\nprint('end')",
    "thread": "threading.Thread(target=lambda: (time.sleep(0.2), print('late'))).start()",
    "unbuffered end": "print('end', end='')\nsys.stdout.flush()\nos._exit(3)",
    "no such module": None,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """With a package ``stages`` of its own, whose only module is one of the texts above."""
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()
    return tmp_path


def write(project: Path, content: str) -> None:
    (project / "stages" / "probe.py").write_text(f"import os, signal, sys, threading, time\n{content}\n")


def both_ways(project: Path, *arguments: str, **env: str) -> list[tuple[int, str, str]]:
    """Status, output and errors of the probe as a fork and as a process of its own."""
    log = project / "forks"
    results: list[tuple[int, str, str]] = []
    for how in ({"ISOFLOP_FORK_LOG": str(log)}, {fork_server.REAL: "1"}):
        command = f"echo given | exec python -m stages.probe {shlex.join(arguments)}"
        done = run_command("bash", "-o", "pipefail", "-c", command, cwd=project, check=False, **(how | env))
        results.append(
            (done.returncode, done.stdout, re.sub(r"(?m)(^| )\d+ ", "", done.stderr))
        )  # bash shows process ids
    return results


@pytest.mark.parametrize("end", ENDS)
def test_it_ends_the_same_way(project: Path, end: str) -> None:
    content = ENDS[end]
    if content is not None:
        write(project, content)
    forked, real = both_ways(project)
    assert forked == real
    log = (project / "forks").read_text() if (project / "forks").exists() else ""
    assert "refused" not in log
    assert bool(log) == (end not in ("terminated", "killed", "unbuffered end")), "it was no fork"


def test_it_finds_itself_in_the_same_place(project: Path) -> None:
    write(project, SHOWS)
    forked, real = both_ways(project, "--option", "a b", PYTHONPATH=str(project / "more"), ANOTHER="value")
    own = ("ISOFLOP_FORK_LOG", fork_server.REAL, "PATH")  # by which the two differ
    shown = []
    for status, output, errors in (forked, real):
        lines = output.splitlines()
        lines[3] = str([pair for pair in eval(lines[3]) if pair[0] not in own])
        shown.append((status, lines, errors))
    for in_fork, in_process in zip(shown[0][1], shown[1][1], strict=True):
        assert in_fork == in_process
    assert shown[0] == shown[1]
    assert "given" in forked[1] and "('ANOTHER', 'value')" in forked[1]


def test_no_two_have_the_same_random_numbers(project: Path) -> None:
    """Unless they set a seed: as new processes."""
    draws = "random.random(), numpy.random.rand(), torch.initial_seed()"
    write(project, f"import random, numpy, torch\nprint({draws})")
    drawn = {run_command("python", "-m", "stages.probe", cwd=project).stdout for _ in range(2)}
    assert all(first != second for first, second in zip(*(line.split() for line in drawn), strict=True))


def test_a_fork_of_dvc_has_the_checks_of_an_installation(project: Path) -> None:
    write(project, "import dvc.repo\nfrom dvc_data.hashfile.tree import Tree\nprint(hasattr(Tree, 'isoflop_guard'))")
    forked, real = both_ways(project, "dvc", PYTHONPATH=str(ROOT / "src"))
    assert forked == real
    assert forked[1] == "True\n"


@pytest.mark.parametrize("name", ["prune@pruned", "export@base", "report"])
def test_a_stage_makes_the_same_bytes(smoke: Path, clone: Path, name: str) -> None:
    """As a process of its own makes; ``smoke`` was made by forks."""
    log, module = (smoke / ".isoflop" / "forks.log").read_text(), f"-m stages.{name.partition('@')[0]}"
    assert module in log and f"refused '{module}" not in log
    stage = yaml.safe_load((clone / "dvc.lock").read_text())["stages"][name]
    outputs = [out["path"] for out in stage["outs"] if out["path"] != "metrics/throughput.json"]
    for path in outputs:
        run_command("rm", "-r", path, cwd=clone)
    run_command("sh", "-c", stage["cmd"], cwd=clone, ISOFLOP_TESTS_REAL="1")
    assert [dvc_md5(clone / path) for path in outputs] == [dvc_md5(smoke / path) for path in outputs]


def started(project: Path) -> subprocess.Popen[str]:
    """The probe in a fork, once it has written a line."""
    path = os.pathsep.join((os.environ[fork_server.VARIABLE], os.environ["PATH"]))
    command = ["python", "-m", "stages.probe"]
    client = subprocess.Popen(
        [f"{os.environ[fork_server.VARIABLE]}/{command[0]}", *command[1:]],
        cwd=project,
        env=inherited_environment() | {"PATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert client.stdout and client.stdout.readline()
    return client


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_arrives(project: Path, sent: signal.Signals) -> None:
    # the signal may arrive before the write of the line has returned
    write(
        project,
        "try:\n    print('ready', flush=True)\n    time.sleep(60)\nexcept KeyboardInterrupt:\n    sys.exit(130)",
    )
    with started(project) as client:
        client.send_signal(sent)
        assert client.wait(20) == {signal.SIGINT: 130, signal.SIGTERM: -signal.SIGTERM}[sent]


def test_what_is_killed_takes_its_fork_along(project: Path) -> None:
    write(project, "print('ready', flush=True)\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)")
    with started(project) as client:
        while not (project / "pid").exists() or not (project / "pid").read_text():
            time.sleep(0.01)
        pid = int((project / "pid").read_text())
        assert pid != client.pid, "the command was not forked"
        client.kill()
    until = time.monotonic() + 20
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < until, "it still runs"
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("command", "env"),
    [
        (["python", "-c", "print(1)"], {}),
        (["python", "-W", "error", "-m", "stages.probe"], {}),
        (["python", "-m", "stages.probe"], {"PYTHONHASHSEED": "3"}),
        (["python", "-m", "stages.probe"], {"OMP_NUM_THREADS": "2"}),
        (["python", "-m", "stages.probe"], {"LOCAL_RANK": "1"}),
        (["sh", "-c", "ulimit -n 100; python -m stages.probe"], {}),
        (["nice", "python", "-m", "stages.probe"], {}),
        (["python", "-m", "stages.probe"], {}),
    ],
    ids=" ".join,
)
def test_what_a_fork_cannot_be_is_a_process_of_its_own(project: Path, command: list[str], env: dict[str, str]) -> None:
    write(project, "print(1)")
    log = project / "forks"
    done = run_command(*command, cwd=project, check=True, ISOFLOP_FORK_LOG=str(log), **env)
    assert done.stdout == "1\n"
    could_fork = command == ["python", "-m", "stages.probe"] and not env
    assert log.read_text().startswith("refused") == (not could_fork)


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    code = (
        "import os, sys, time\nfrom tests import fork_server\nos.environ.pop(fork_server.VARIABLE, None)\n"
        "with fork_server.running():\n    print(os.environ[fork_server.VARIABLE], flush=True)\n    time.sleep(60)\n"
    )
    root = Path(fork_server.__file__).parents[1]
    with subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True) as tests:
        assert tests.stdout
        folder = Path(tests.stdout.readline().strip())
        until = time.monotonic() + 20
        while not (folder / "socket").exists():
            assert time.monotonic() < until
            time.sleep(0.01)
        tests.kill()
    while folder.exists():
        assert time.monotonic() < until, "it still serves"
        time.sleep(0.01)


def test_imports_of_the_tests_do_not_keep_commands_from_forking(tmp_path: Path) -> None:
    """Libraries set variables that the server would refuse; this suite was half as fast for it."""
    import cv2  # noqa: F401
    import onnxruntime  # noqa: F401
    import pytorch_lightning  # noqa: F401
    import sklearn.datasets  # noqa: F401

    log = tmp_path / "log"
    run_command("dvc", "--version", cwd=tmp_path, ISOFLOP_FORK_LOG=str(log))
    assert "dvc --version" in log.read_text()
    assert "refused" not in log.read_text()
