"""Sweeps on Ray: on a cluster of two machines, one of which is lost in the middle, and on this one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline.sweep.ledger import JobLine, Ledger
from pipeline.sweep.status import read_status
from tests.fixtures.ray_cluster import lose_machine_of, two_machines
from tests.sweep.conftest import Start, still_running
from tests.sweep.test_launchers import wait_for

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    with two_machines(monkeypatch, Path(__file__).parent / "site") as cluster:
        yield cluster


def test_a_job_whose_machine_is_lost_is_done_on_another(
    cluster: Any, start: Start, tmp_path: Path
) -> None:
    words = ["misbehave.how=sleep,not", "misbehave.unless=cured", "hydra.sweep.dir=sweep"]
    ray = ["--launcher", "ray", f"launcher.address={cluster.address}", "resources.memory=100MB"]
    sweep = start("sweep", "r.yaml", *words, *ray)
    sleeper = psutil.Process(int(wait_for("sweep/*/asleep", tmp_path).read_text()))

    (tmp_path / "cured").touch()
    lose_machine_of(cluster, sleeper)
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
    ports = []
    for process in family:
        with suppress(psutil.NoSuchProcess):  # some of Ray's live only for its start
            open_ones = process.net_connections()
            ports += [one.laddr for one in open_ones if one.status == "LISTEN"]
    sweep.terminate()
    sweep.communicate(timeout=60)

    assert ports
    assert {port.ip for port in ports} <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}
    assert still_running(family) == [], "it ends with the sweep"
