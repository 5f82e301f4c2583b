"""The connection to Ray: on this machine, or to a cluster."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from isoflop.runtime.errors import UserError


@contextmanager
def quiet_ray(address: str | None, cpus: int | None) -> Iterator[Any]:
    """Connect to Ray; the output of its workers is not printed.

    Raises:
        UserError: Ray is not installed, or no cluster answers at ``address``.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # future default, which Ray would warn about
    os.environ.setdefault("RAY_process_group_cleanup_enabled", "1")  # a stage is killed together with its task
    try:
        import ray
    except ImportError:
        raise UserError("isoflop launch needs Ray; fix: `pip install 'isoflop[cluster]'`") from None
    if address:
        _check_address(address)
    here = {} if address else {"num_cpus": cpus, "include_dashboard": False}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="ERROR", **here)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise UserError(f"--address: got {address}, where Ray reports: {' '.join(str(error).split())[:300]}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _check_address(address: str) -> None:
    """Raise UserError if nothing answers at ``address``; Ray itself would try for a minute."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"--address: got {address!r}, expected HOST:PORT as printed by `ray start --head`")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise UserError(f"--address: got {address!r}, where no Ray cluster answers ({error})") from None


def check_room(ray: Any, cpus: int, gpus: float) -> None:
    """Check that a machine has enough cores and GPUs: Ray would wait forever.

    Raises:
        UserError: no machine has.
    """
    has = [(node["Resources"].get("CPU", 0), node["Resources"].get("GPU", 0)) for node in ray.nodes() if node["Alive"]]
    if not any(cpus <= cores and gpus <= devices for cores, devices in has):
        most = ", ".join(f"{cores:g} cores and {devices:g} GPUs" for cores, devices in has)
        raise UserError(
            f"--cpus, --gpus: got {cpus} and {gpus:g} per stage, expected no more than a machine has: {most}"
        )
