"""The programs `python`, `dvc` and `isoflop` as the tests' commands find them: clients of ``tests.fork_server``.

Each hands its arguments, environment and standard streams to the server, which runs the command in a fork of itself,
passes signals on to it and ends as it ends. What the server does not take runs as the program that it stands for.
The imports are few and in C: this starts in some 10 ms.
"""

from __future__ import annotations

import _signal  # type: ignore[import-not-found]
import _socket
import marshal
import os
import sys
from types import FrameType

_FORWARDED = (_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP, _signal.SIGQUIT, _signal.SIGUSR1, _signal.SIGUSR2)
_INHERITED = ("Umask", "Uid", "Gid", "Groups", "Sig", "Shd", "Cap", "NoNewPrivs", "Seccomp", "Cpus_allowed")
_NOT_INHERITED = ("SigQ", "SigCgt")
_OF_GLIBC = 0b11 << 31  # signals 32 and 33: whether a program ignores them depends on whether its parent had threads


def surroundings() -> list[str]:
    """What a process has from its parent beyond arguments, environment and open files: rights, limits, signals."""
    with open("/proc/self/status") as status, open("/proc/self/limits") as limits:
        lines = [line for line in status if line.startswith(_INHERITED) and not line.startswith(_NOT_INHERITED)]
        lines = [_without_glibc(line) if line.startswith("SigIgn") else line for line in lines]
        namespaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("mnt", "net", "pid", "user")]
        return [*lines, *limits, *namespaces, str(os.nice(0))]


def _without_glibc(line: str) -> str:
    name, mask = line.split()
    return f"{name} {int(mask, 16) & ~_OF_GLIBC:x}"


def main(server: str, programs: str) -> None:
    """Run ``sys.argv`` on the server whose socket is ``server``, or the program of that name in ``programs``."""
    name = os.path.basename(sys.argv[0])
    request = {
        "program": name,
        "arguments": sys.argv[1:],
        "environment": dict(os.environ),
        "cwd": os.getcwd(),
        "surroundings": surroundings(),
    }
    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        _send(connection, server, marshal.dumps(request))
        pid = connection.recv(1)
    except OSError:
        pid = b""
    if pid != b"+":
        connection.close()
        os.execv(os.path.join(programs, name), [os.path.join(programs, name), *sys.argv[1:]])

    def forward(number: int, frame: FrameType | None) -> None:
        connection.send(bytes([number]))

    for number in _FORWARDED:
        if _signal.getsignal(number) is not _signal.SIG_IGN:
            _signal.signal(number, forward)
    said = b""
    while not said.endswith(b"\n"):
        part = connection.recv(16)
        if not part:
            os._exit(125)  # the server is gone, and with it what it ran
        said += part
    status = int(said)
    if status < 0:
        if -status not in (_signal.SIGKILL, _signal.SIGSTOP):
            _signal.signal(-status, _signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    os._exit(status)


def _send(connection: _socket.socket, server: str, content: bytes) -> None:
    """With the standard streams, which go along with the first bytes."""
    connection.connect(server)
    descriptors = b"".join(number.to_bytes(4, sys.byteorder) for number in (0, 1, 2))
    length = len(content).to_bytes(8, "big")
    connection.sendmsg([length], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptors)])
    sent = 0
    while sent < len(content):
        sent += connection.send(content[sent:])
