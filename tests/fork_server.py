"""A process that has imported the libraries and runs the tests' Python commands in forks of itself.

A stage and `dvc` spend most of their time importing torch, Lightning and DVC. A fork has them already. In everything
else it becomes what a new process is: arguments, environment, folder, streams, signals, module path and seeds are those
of the request, and it imports isoflop and the stages itself. The server refuses what a fork would run differently from
a new process: other rights or limits, another value of a variable that a library reads when it loads, `python -c`.
The client then starts the real program. ISOFLOP_TESTS_REAL=1 makes every command a real process.
"""

from __future__ import annotations

import array
import contextlib
import gc
import marshal
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tests import fork_child, fork_client, fork_libraries

_ROOT = Path(__file__).resolve().parents[1]
PROGRAMS = ("python", "dvc", "isoflop")
VARIABLE = "ISOFLOP_TEST_PROGRAMS"  # the folder of the clients
REAL = "ISOFLOP_TESTS_REAL"

# Prefixes of variables that the interpreter or a library reads once, when it starts: a fork has the server's.
_READ_AT_START = (
    "HOME", "LANG", "LC_", "XDG_", "OMP_", "MKL_", "OPENBLAS_", "KMP_", "GOMP_", "LD_", "TORCH", "PYTORCH",
    "CUDA", "MPL", "TQDM_", "GIT_CONFIG", "HF_", "PYTHON", "LOCAL_RANK", "RANK", "NODE_RANK", "WORLD_SIZE",
    "SLURM_", "JSM_", "TZ", "COV_", "KINETO", "ONNX", "ORT_", "PL_", "RAY_",
)  # fmt: skip
_APPLIED = ("PYTHONPATH", "PYTHONDONTWRITEBYTECODE")


def read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    """Of these variables those that a process cannot take over from another later."""
    return {
        name: value for name, value in environment.items() if name.startswith(_READ_AT_START) and name not in _APPLIED
    }


# What follows runs in the tests.


@contextlib.contextmanager
def running() -> Iterator[None]:
    """A server for this process and all that it starts, for the while: ``VARIABLE`` has the folder of its programs.

    It ends when this process ends, however that ends.
    """
    if os.environ.get(VARIABLE) or os.environ.get(REAL) or not _can_fork():
        yield
        return
    folder = Path(tempfile.mkdtemp(prefix="isoflop-tests-"))
    _write_clients(folder)
    environment = {name: value for name, value in os.environ.items() if name not in _APPLIED}
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen(64)
        number = listener.fileno()
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.fork_server", str(folder), str(number)],
            cwd=_ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[number],
            start_new_session=True,
        )  # fmt: skip
    with server:
        os.environ[VARIABLE] = str(folder)
        try:
            yield
        finally:
            del os.environ[VARIABLE]
            assert server.stdin
            server.stdin.close()
    shutil.rmtree(folder, ignore_errors=True)


def _can_fork() -> bool:
    """Linux; and no GPU, whose driver does not survive a fork."""
    return sys.platform == "linux" and not Path("/dev/nvidiactl").exists()


def _write_clients(folder: Path) -> None:
    programs = Path(sys.executable).parent
    client = Path(__file__).with_name("fork_client.py").read_text()
    interpreter = os.path.realpath(sys.executable)  # without the environment's packages it starts sooner
    call = f"main({str(folder / 'socket')!r}, {str(programs)!r})"
    for name in PROGRAMS:
        if (programs / name).exists():
            (folder / name).write_text(f"#!{interpreter} -SEI\n{client}\n\n{call}\n")
            (folder / name).chmod(0o755)


# What follows runs in the server.


class Server:
    """Takes requests one at a time; of each that runs it knows the process and the connection of its client."""

    def __init__(self, folder: Path, listener: socket.socket) -> None:
        self.folder = folder
        self.surroundings = fork_client.surroundings()
        self.environment = read_at_start(os.environ)
        self.path = sys.path[1:]  # without the folder of the tests
        self.selector = selectors.DefaultSelector()
        self.listener = listener
        self.running: dict[int, socket.socket] = {}
        self.ended, wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.owned = [self.ended, wakes, self.listener.fileno()]
        signal.signal(signal.SIGCHLD, lambda number, frame: None)
        signal.set_wakeup_fd(wakes)
        for watched in (self.listener, self.ended, sys.stdin.fileno()):
            self.selector.register(watched, selectors.EVENT_READ)

    def serve(self) -> None:
        """Until the standard input ends, which is when the tests' process does."""
        while True:
            for key, _ in self.selector.select():
                if key.fileobj is self.listener:
                    self._take(self.listener.accept()[0])
                elif key.fileobj == self.ended:
                    self._reap()
                elif key.fileobj == sys.stdin.fileno():
                    return
                else:
                    self._hear(key.data)

    def stop(self) -> None:
        for pid in self.running:
            _kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _take(self, connection: socket.socket) -> None:
        try:
            connection.settimeout(30)
            request, streams = _received(connection)
            connection.settimeout(None)
        except (OSError, EOFError, ValueError, TypeError):
            connection.close()
            return
        refusal = self._refusal(request)
        if refusal and (log := request["environment"].get(fork_child.LOG)):
            with open(log, "a") as file:
                file.write(f"refused {' '.join(request['arguments'])[:80]!r}: {refusal}\n")
        pid = None if refusal else self._fork(request, streams, connection)
        for stream in streams:
            os.close(stream)
        if pid is None:
            connection.close()  # which says no
            return
        self.running[pid] = connection
        self.selector.register(connection, selectors.EVENT_READ, pid)
        with contextlib.suppress(OSError):
            connection.sendall(b"+")

    def _refusal(self, request: dict[str, Any]) -> str:
        """Why a fork cannot be what a new process would be; empty if it can."""
        module = fork_child.module_of(request)
        if request["program"] == "python" and not (module == "dvc" or module.startswith(("stages.", "isoflop."))):
            return "another program"
        if "launch" in request["arguments"][:3]:
            return "Ray keeps track of its processes by their parents"
        if other := set(request["surroundings"]) ^ set(self.surroundings):
            return f"surroundings {sorted(other)}"
        if other := read_at_start(request["environment"]).items() ^ self.environment.items():
            return f"environment {sorted(other)}"
        is_dvc = "dvc" in (request["program"], module)
        fork_libraries.load(self.folder / "parsed", of_stages=not is_dvc)
        if len(threads := os.listdir("/proc/self/task")) > 1:
            return f"the server has {len(threads)} threads, and a fork has one"
        return ""

    def _fork(self, request: dict[str, Any], streams: list[int], connection: socket.socket) -> int:
        gc.freeze()  # a fork then copies no page to look for garbage in it
        pid = os.fork()
        if pid:
            return pid
        try:
            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            self.selector.close()
            for number in self.owned:
                os.close(number)
            for other in (connection, *self.running.values()):
                other.close()
            fork_child.become(request, streams, self.path)
        finally:
            os._exit(124)

    def _reap(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.ended, 4096)
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if connection := self._forget(ended[0]):
                    with contextlib.suppress(OSError), connection:
                        connection.sendall(f"{os.waitstatus_to_exitcode(ended[1])}\n".encode())

    def _hear(self, pid: int) -> None:
        """Signals, or that the client is gone."""
        if pid not in self.running:
            return
        try:
            said = self.running[pid].recv(64)
        except OSError:
            said = b""
        for number in said:
            os.kill(pid, number)  # it is there, if only as a zombie: nothing else reaps it
        if not said and (connection := self._forget(pid)):
            connection.close()
            _kill(pid, signal.SIGKILL)

    def _forget(self, pid: int) -> socket.socket | None:
        connection = self.running.pop(pid, None)
        if connection:
            self.selector.unregister(connection)
        return connection


def _received(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    numbers = array.array("i")
    head, rights, _, _ = connection.recvmsg(8, socket.CMSG_SPACE(3 * numbers.itemsize))
    for level, kind, content in rights:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            numbers.frombytes(content)
    streams, missing = list(numbers), int.from_bytes(head, "big")
    parts = []
    while missing:
        part = connection.recv(min(missing, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        missing -= len(part)
    if len(streams) != 3:
        raise ValueError(f"{len(streams)} streams")
    return marshal.loads(b"".join(parts)), streams


def _kill(pid: int, number: int) -> None:
    """A command and what it has started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, number)


if __name__ == "__main__":
    server = Server(Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2])))
    try:
        server.serve()
    finally:
        server.stop()
