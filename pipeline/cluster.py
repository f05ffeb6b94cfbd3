"""Clusters of Ray: to be in one that is there, or in one of this machine alone."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from pipeline.errors import RunError

AUTO = "auto"
"""The address of the cluster that `RAY_ADDRESS` names, or that this machine is part of."""
LOCAL = "local"
"""The address of a cluster that is started here, only this machine can reach, and ends with its use."""
_SECONDS_TO_ANSWER = 5.0


@contextmanager
def connected(address: str, *, where: str, fix: str) -> Iterator[None]:
    """Be in the cluster of that address: `local`, `auto`, or `HOST:PORT`.

    Raises RunError, with the setting that it came from and what to do, when there is none.
    """
    _check_answers(address, where, fix)
    # Read when Ray is imported. Without it, Ray listens on all addresses when it is given 127.0.0.1.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    ours = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    quiet = {"log_to_driver": False, "logging_level": "ERROR"}
    try:
        if address == LOCAL:
            ray.init(address=LOCAL, include_dashboard=False, _node_ip_address="127.0.0.1", **quiet)
        else:
            ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError) as error:
        raise RunError(f"no Ray cluster could be used: {error}", where=where, fix=fix) from error
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str, where: str, fix: str) -> None:
    """Raise RunError when nothing listens at an address that is given; Ray would try for minutes."""
    from_environment = os.environ.get("RAY_ADDRESS", "") if address == AUTO else ""
    said = f"RAY_ADDRESS={from_environment}" if from_environment else address
    address = from_environment or address
    if address in (LOCAL, AUTO):
        return
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise RunError(f"{said} is no HOST:PORT of a Ray cluster", where=where, fix=fix)
    try:
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()
    except OSError as error:
        what = f"no Ray cluster answers at {said}: {error.strerror or error}"
        raise RunError(what, where=where, fix=fix) from error


def has_room(needs: Mapping[str, float]) -> bool:
    """Whether some machine of the cluster can take a task of these needs, in Ray's words.

    One that none can ever take would wait for ever.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return any(all(node.get(key, 0) >= much for key, much in needs.items()) for node in nodes)
