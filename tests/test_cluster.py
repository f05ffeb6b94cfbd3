"""Clusters of Ray that are not there."""

from __future__ import annotations

import socket
import time

import pytest

from pipeline.cluster import AUTO, connected
from pipeline.errors import RunError


def closed_port() -> int:
    """One of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port


def failure(address: str) -> RunError:
    """What entering a cluster raises, at once."""
    started = time.monotonic()
    with (
        pytest.raises(RunError) as caught,
        connected(address, where="here", fix="start one"),
    ):
        pass
    assert time.monotonic() - started < 10, "Ray itself tries for minutes"
    assert (caught.value.where, caught.value.fix) == ("here", "start one")
    return caught.value


def test_an_address_where_nothing_answers_is_told_at_once() -> None:
    address = f"127.0.0.1:{closed_port()}"
    assert failure(address).what == f"no Ray cluster answers at {address}: Connection refused"


def test_so_is_one_that_the_environment_names(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"127.0.0.1:{closed_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert f"answers at RAY_ADDRESS={address}: " in failure(AUTO).what


@pytest.mark.parametrize("address", ["nonsense", "head:", ":6379", "head:ssh", "head:70000"])
def test_an_address_must_be_host_and_port(address: str) -> None:
    assert failure(address).what == f"{address} is no HOST:PORT of a Ray cluster"
