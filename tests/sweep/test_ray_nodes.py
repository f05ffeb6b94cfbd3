"""Sweeps on Ray: on a cluster of two machines, one of which is lost in the middle, and on this one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.sweep.ledger import JobLine, Ledger
from pipeline.sweep.status import read_status
from tests.sweep.conftest import Start, still_running
from tests.sweep.test_launchers import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Two nodes with a processor each, and a head with none; all of it on loopback, and behind a token."""
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", os.urandom(32).hex())
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
    from ray.cluster_utils import Cluster

    there = {"node_ip_address": "127.0.0.1", "include_dashboard": False}
    # As on machines of their own: what a job needs is installed there.
    path = os.pathsep.join([str(Path(__file__).parent / "site"), str(Path(__file__).parents[2])])
    monkeypatch.setenv("PYTHONPATH", path)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **there})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1, **there)
        yield cluster
    finally:
        cluster.shutdown()


def test_a_job_whose_machine_is_lost_is_done_on_another(
    cluster: Any, start: Start, tmp_path: Path
) -> None:
    words = ["misbehave.how=sleep,not", "misbehave.unless=cured", "hydra.sweep.dir=sweep"]
    ray = ["--launcher", "ray", f"launcher.address={cluster.address}", "resources.memory=100MB"]
    sweep = start("sweep", "r.yaml", *words, *ray)
    sleeper = psutil.Process(int(wait_for("sweep/*/asleep", tmp_path).read_text()))
    above = {process.pid for process in sleeper.parents()}
    (node,) = (n for n in cluster.worker_nodes if raylet_of(n) in above)

    (tmp_path / "cured").touch()
    cluster.remove_node(node, allow_graceful=False)
    out, told = sweep.communicate(timeout=100)

    assert sweep.returncode == 0, told
    assert "2 jobs, all done" in out
    first = read_status(tmp_path / "sweep").jobs[0]
    lines = Ledger(tmp_path / "sweep").read()
    begun = [line for line in lines if isinstance(line, JobLine) and line.folder == first.folder]
    assert [line.status for line in begun].count("running") == 2, "once on each machine"
    assert still_running([sleeper]) == [], "the job did not outlive its machine"


def test_ray_on_this_machine_can_be_reached_from_nowhere_else(start: Start, tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray is not installed: pip install '.[ray]'")
    words = ["misbehave.how=sleep,not", "hydra.sweep.dir=sweep", "--launcher", "ray"]
    sweep = start("sweep", "r.yaml", *words)
    wait_for("sweep/*/asleep", tmp_path)
    family = [psutil.Process(sweep.pid), *psutil.Process(sweep.pid).children(recursive=True)]
    ports = [one.laddr for p in family for one in p.net_connections() if one.status == "LISTEN"]
    sweep.terminate()
    sweep.communicate(timeout=60)

    assert ports
    assert {port.ip for port in ports} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert still_running(family) == [], "it ends with the sweep"


def raylet_of(node: Any) -> int:
    pid: int = node.all_processes["raylet"][0].process.pid
    return pid
