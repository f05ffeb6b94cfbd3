"""Every launcher keeps what a sweep promises: no job takes another down, and the same command goes on."""

from __future__ import annotations

import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest

from pipeline.sweep.launchers import LAUNCHERS
from pipeline.sweep.status import JobRow, read_status
from tests.sweep.conftest import Call, Start, still_running

pytestmark = pytest.mark.slow

DIR = "hydra.sweep.dir=sweep"


def engine(name: str, *options: str) -> object:
    library = LAUNCHERS[name].library
    why = f"{library} is not installed: pip install '.[{name}]'"
    there = library is None or find_spec(library) is not None
    words = ("--launcher", name, *options)
    return pytest.param(words, id=name, marks=pytest.mark.skipif(not there, reason=why))


JOBLIB, RAY = engine("joblib"), engine("ray")
SLURM = engine("slurm", "launcher.executor=local")


def rows(tmp_path: Path) -> dict[str, JobRow]:
    status = read_status(tmp_path / "sweep")
    return {" ".join(job.overrides).replace("misbehave.", ""): job for job in status.jobs}


@pytest.mark.parametrize("launcher", [JOBLIB, SLURM, RAY])
def test_no_job_takes_another_down_and_the_failed_ones_are_tried_again(
    mergeline: Call, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    how = "misbehave.how=not,raise,exit,kill,memory,crash"
    words = ["sweep", "r.yaml", how, "misbehave.factor=1,2", "misbehave.unless=cured", DIR]
    words += ["--workers", "3", *launcher, "resources.memory=100MB"]

    done = mergeline(*words)

    assert done.returncode == 1, done.stderr
    assert "12 jobs: 2 done, 10 failed" in done.stdout
    for how, why in {
        "raise": "ValueError: went wrong",
        "exit": "SystemExit: 3",
        "kill": "killed (SIGKILL), as the system does when memory runs out",
        "memory": "out of memory",
        "crash": "died of SIGABRT",
    }.items():
        for factor in "12":
            assert why in rows(tmp_path)[f"how={how} factor={factor}"].why
    assert "Traceback" not in done.stderr

    (tmp_path / "cured").touch()
    again = mergeline(*words)

    assert again.returncode == 0, again.stderr
    assert "12 jobs, 2 of them done already" in again.stderr
    assert "12 jobs, all done" in again.stdout
    left = {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()}
    assert left - {"submitit"} == {row.folder for row in rows(tmp_path).values()}


@pytest.mark.parametrize("launcher", [JOBLIB, SLURM, RAY])
def test_a_worker_that_is_killed_costs_its_own_job_at_most(
    mergeline: Call, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    words = ["sweep", "r.yaml", "misbehave.how='kill the worker',not", "misbehave.factor=1"]
    words += [DIR, "misbehave.unless=killed", "--workers", "1", *launcher]

    done = mergeline(*words)

    lost, other = rows(tmp_path).values()
    assert other.status == "done"
    if "ray" in launcher:
        assert (lost.status, done.returncode) == ("done", 0), "Ray tries once more"
    else:
        assert (lost.status, done.returncode) == ("failed", 1)
        assert lost.why.startswith("its worker was lost")
        assert mergeline(*words).returncode == 0


@pytest.mark.parametrize("launcher", [JOBLIB, SLURM, RAY])
def test_a_sweep_that_is_killed_goes_on_and_its_jobs_do_not(
    start: Start, mergeline: Call, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    words = ["sweep", "r.yaml", "misbehave.how=not,sleep", "misbehave.unless=cured", DIR, *launcher]
    sweep = start(*words, "--workers", "2")
    sleeper = psutil.Process(int(wait_for("sweep/*/asleep", tmp_path).read_text()))
    sweep.kill()
    sweep.wait(timeout=60)

    (tmp_path / "cured").touch()
    done = mergeline(*words)
    sweep.communicate(timeout=30)  # which returns when nothing is left that could write

    assert done.returncode == 0, done.stderr
    assert [row.status for row in rows(tmp_path).values()] == ["done", "done"]
    assert still_running([sleeper]) == []


@pytest.mark.parametrize("launcher", [JOBLIB, RAY])
def test_ctrl_c_ends_the_running_jobs_in_order(
    start: Start, tmp_path: Path, launcher: tuple[str, ...]
) -> None:
    words = ["sweep", "r.yaml", "misbehave.how=sleep,not", DIR, *launcher, "--workers", "1"]
    sweep = start(*words)
    wait_for("sweep/*/asleep", tmp_path)
    os.killpg(sweep.pid, signal.SIGINT)
    _, told = sweep.communicate(timeout=60)

    assert sweep.returncode == 130, told
    assert "Traceback" not in told
    assert [row.status for row in rows(tmp_path).values()] == ["interrupted", "waiting"]


def wait_for(pattern: str, folder: Path) -> Path:
    """Wait until a job has made a file that is not empty."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for found in folder.glob(pattern):
            if found.stat().st_size:
                return found
        time.sleep(0.02)
    raise TimeoutError(pattern)
