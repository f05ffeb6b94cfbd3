"""Sweeps as people run them: whatever a job does, the others finish, and the same command goes on."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.sweep.ledger import JobLine, Ledger, SweepLine
from pipeline.sweep.status import JobRow, read_status
from tests.sweep.conftest import Call, Start

DIR = "hydra.sweep.dir=sweep"
HOW = "raise,exit,'exit at once',kill,crash,memory,unpicklable"


def rows(tmp_path: Path) -> dict[str, JobRow]:
    """The jobs of the sweep by what sets them apart, without the name of the step."""
    status = read_status(tmp_path / "sweep")
    return {" ".join(job.overrides).replace("misbehave.", ""): job for job in status.jobs}


def statuses(tmp_path: Path) -> list[str]:
    return [row.status for row in rows(tmp_path).values()]


def wait_for(pattern: str, tmp_path: Path) -> Path:
    """Wait until a job has made a file."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for found in tmp_path.glob(pattern):
            return found
        time.sleep(0.02)
    raise TimeoutError(pattern)


def test_no_job_takes_another_down_and_the_failed_ones_are_tried_again(
    mergeline: Call, tmp_path: Path
) -> None:
    words = [f"misbehave.how=not,{HOW}", "misbehave.unless=cured", DIR]

    done = mergeline("sweep", "r.yaml", *words, "--workers", "2")

    assert done.returncode == 1, done.stderr
    assert "8 jobs: 1 done, 7 failed" in done.stdout
    found = rows(tmp_path)
    for how, why in {
        "raise": "ValueError: went wrong",
        "exit": "SystemExit: 3",
        "'exit at once'": "ended with exit code 3 in the middle",
        "kill": "killed (SIGKILL), as the system does when memory runs out",
        "crash": "died of SIGABRT",
        "memory": "out of memory",
        "unpicklable": "UnpicklableError: cannot travel",
    }.items():
        assert why in found[f"how={how}"].why
        assert why in done.stdout
        assert why in done.stderr
    assert (
        "Aborted" in (tmp_path / "sweep" / found["how=crash"].folder / "terminal.log").read_text()
    )

    first = (tmp_path / "sweep" / found["how=not"].folder / "manifest.json").stat()
    (tmp_path / "cured").touch()
    planned = mergeline("sweep", "r.yaml", *words, "--plan", "--json")
    again = mergeline("sweep", "r.yaml", *words)

    why = [job["why"] for job in json.loads(planned.stdout)["jobs"]]
    assert why == ["done", "failed before", "failed before", *["failed before"] * 5]
    assert again.returncode == 0, again.stderr
    assert "8 jobs, all done" in again.stdout
    assert "8 jobs, 1 of them done already" in again.stderr
    after = rows(tmp_path)
    assert (tmp_path / "sweep" / after["how=not"].folder / "manifest.json").stat() == first
    left = {path.name for path in (tmp_path / "sweep").iterdir() if path.is_dir()}
    assert left == {row.folder for row in after.values()}, "what failed attempts left is gone"


def test_one_failure_ends_all_when_asked(mergeline: Call, tmp_path: Path) -> None:
    words = ["misbehave.how=sleep,raise,not", DIR, "--fail-fast", "--workers", "2"]
    done = mergeline("sweep", "r.yaml", *words)
    assert done.returncode == 1
    assert statuses(tmp_path) == ["interrupted", "failed", "waiting"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_running_jobs_in_order_and_the_rest_goes_on_later(
    start: Start, mergeline: Call, tmp_path: Path, number: signal.Signals
) -> None:
    words = ["misbehave.how=not,sleep,raise", "misbehave.unless=cured", DIR]
    sweep = start("sweep", "r.yaml", *words)
    wait_for("sweep/*/asleep", tmp_path)

    live = mergeline("sweep", "--status", "sweep")
    other = mergeline("sweep", "r.yaml", *words)
    os.killpg(sweep.pid, number)  # as a terminal or a scheduler does, to all that it started
    _, told = sweep.communicate(timeout=60)

    assert "3 jobs: 1 done, 1 running, 1 waiting" in live.stdout
    assert "1/1 misbehave" in live.stdout
    assert other.returncode == 1
    assert "another run is writing it now" in other.stderr
    assert sweep.returncode == 130, told
    assert "Traceback" not in told
    assert statuses(tmp_path) == ["done", "interrupted", "waiting"]
    assert read_status(tmp_path / "sweep").status == "interrupted"
    (tmp_path / "cured").touch()
    assert mergeline("sweep", "r.yaml", *words).returncode == 0
    assert statuses(tmp_path) == ["done", "done", "done"]
    slept = rows(tmp_path)["how=sleep"]
    assert slept.metrics["misbehave.attempts"] == 2, "the first could be gone on with"
    assert len(list((tmp_path / "sweep").glob("sleep-*"))) == 1, "and is gone now"


def test_a_sweep_that_is_killed_leaves_no_job_behind_and_goes_on(
    start: Start, mergeline: Call, tmp_path: Path
) -> None:
    words = ["misbehave.how=not,sleep", "misbehave.unless=cured", DIR]
    sweep = start("sweep", "r.yaml", *words)
    run_dir = wait_for("sweep/*/asleep", tmp_path).parent
    sweep.kill()
    sweep.communicate(timeout=60)

    deadline = time.monotonic() + 30
    while manifest(run_dir)["status"] == "running" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert manifest(run_dir)["status"] == "interrupted", "the job ends when its sweep is gone"
    assert statuses(tmp_path) == ["done", "interrupted"]

    (tmp_path / "cured").touch()
    done = mergeline("sweep", "r.yaml", *words)
    assert "2 jobs, 1 of them done already" in done.stderr
    assert statuses(tmp_path) == ["done", "done"]


def manifest(run_dir: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((run_dir / "manifest.json").read_text())
    return data


def test_what_is_done_is_done_again_when_anything_that_it_rests_on_has_changed(
    mergeline: Call, tmp_path: Path
) -> None:
    for name in "abcde":
        (tmp_path / name).write_text("data")
    words = ["sweep", "r.yaml", "misbehave.data=a,b,c,d,e", DIR]
    assert mergeline(*words).returncode == 0
    folders = {text.removeprefix("data="): row.folder for text, row in rows(tmp_path).items()}

    (tmp_path / "b").write_text("DATA")
    (tmp_path / "sweep" / folders["c"] / "result.txt").write_text("9.9\n")
    (tmp_path / "sweep" / folders["d"] / "result.txt").unlink()
    receipt = tmp_path / "sweep" / folders["e"] / "manifest.json"
    receipt.write_text(receipt.read_text().replace('"torch": "', '"torch": "1.'))
    planned = mergeline(*words, "--plan", "--json")

    why = [job["why"] for job in json.loads(planned.stdout)["jobs"]]
    assert why[0] == "done"
    assert why[1] == f"the input {tmp_path / 'b'} has changed"
    assert why[2].endswith("result.txt has changed")
    assert why[3].endswith("result.txt is gone")
    assert why[4].startswith("torch was 1.")
    assert mergeline(*words).returncode == 0
    assert json.loads(mergeline(*words, "--plan", "--json").stdout)["bytes"] == 0
    assert {row.folder for row in rows(tmp_path).values()} == {
        folders["a"],
        *(f"{folders[name]}-2" for name in "bcde"),
    }
    assert (tmp_path / "sweep" / folders["b"]).exists(), "a finished run is never removed"


@pytest.mark.slow
def test_a_grid_of_two_hundred_jobs(mergeline: Call, tmp_path: Path) -> None:
    grid = ("misbehave.factor=range(1,51)", "misbehave.say=a,b,c,d", DIR)
    ledger = Ledger(tmp_path / "sweep")

    done = mergeline("sweep", "r.yaml", *grid, "--workers", "4")

    assert done.returncode == 0, done.stderr
    assert "200 jobs, all done" in done.stdout
    folders = [row.folder for row in rows(tmp_path).values()]
    assert len(set(folders)) == 200
    for name, row in rows(tmp_path).items():
        (line,) = (line for line in done.stdout.splitlines() if f" {row.folder} " in f"{line} ")
        assert " done " in line
        assert row.metrics["misbehave.loss"] == float(name.split()[0].partition("=")[2]) / 2
    first, *jobs, last = ledger.read()
    assert isinstance(first, SweepLine)
    assert [job.folder for job in first.jobs] == folders
    assert isinstance(last, SweepLine)
    assert last.status == "done"
    told: dict[str, list[str]] = {name: [] for name in folders}
    for line in jobs:
        assert isinstance(line, JobLine)
        told[line.folder].append(line.status)
    assert all(statuses == ["running", "done"] for statuses in told.values())

    seen = ledger.bytes()
    made = {file: file.stat() for file in tmp_path.glob("sweep/*/*")}
    again = mergeline("sweep", "r.yaml", *grid)

    assert again.returncode == 0, again.stderr
    assert "200 jobs, 200 of them done already" in again.stderr
    assert "200 jobs, all done" in again.stdout
    assert {file: file.stat() for file in tmp_path.glob("sweep/*/*")} == made
    since = [line.status for line in ledger.read_on(seen)[0] if isinstance(line, JobLine)]
    assert since == ["done"] * 200, "told once more, and not one of them begun"


def test_force_does_all_again(mergeline: Call, tmp_path: Path) -> None:
    words = ["sweep", "r.yaml", "misbehave.factor=1,2", DIR]
    assert mergeline(*words).returncode == 0
    done = mergeline(*words, "--force")
    assert "[2/2] misbehave.factor=2: done" in done.stderr
    assert all(row.folder.endswith("-2") for row in rows(tmp_path).values())


def test_the_same_command_finds_its_folder_and_another_has_another(
    start: Start, mergeline: Call, tmp_path: Path
) -> None:
    both = [
        start("sweep", "r.yaml", f"misbehave.factor={values}", "--quiet")
        for values in ("1,2", "3,4")
    ]
    folders = [sweep.communicate(timeout=60)[0].strip() for sweep in both]
    again = mergeline("sweep", "r.yaml", "misbehave.factor=1,2", "--quiet")

    assert folders[0] != folders[1]
    assert again.stdout.strip() == folders[0]
    assert len(list((tmp_path / folders[0]).glob("*/manifest.json"))) == 2


def test_a_job_is_recorded_as_the_run_that_it_is(mergeline: Call, tmp_path: Path) -> None:
    (tmp_path / "jobs.csv").write_text("misbehave.factor,misbehave.how\n1,\n2,raise\n")
    mergeline("sweep", "r.yaml", "--jobs", "jobs.csv", 'hydra.sweep.dir="it\'s, here"')
    status = json.loads(mergeline("sweep", "--status", "it's, here", "--json").stdout)
    first, second = status["jobs"]
    assert first["overrides"] == ["misbehave.factor=1"]
    assert first["metrics"] == {"misbehave.loss": 0.5, "misbehave.attempts": 1}
    assert (first["status"], second["status"]) == ("done", "failed")
    shown = mergeline("show", f"it's, here/{first['folder']}")
    assert "misbehave.factor=1" in shown.stdout


def test_every_job_is_checked_before_one_runs(mergeline: Call, tmp_path: Path) -> None:
    words = ["misbehave.factor=1,x", "misbehave.refuse=true,false"]
    done = mergeline("sweep", "r.yaml", *words)
    assert done.returncode == 2
    assert "got 'x' (with misbehave.factor=x misbehave.refuse=true and 1 more)" in done.stderr
    assert "will not (with misbehave.factor=1 misbehave.refuse=true)" in done.stderr
    assert not (tmp_path / "outputs").exists()


def test_no_secret_stays_in_what_a_job_told(mergeline: Call, tmp_path: Path) -> None:
    token = "hf_" + "a" * 34
    mergeline("sweep", "r.yaml", f"misbehave.say={token},other", DIR)
    told = [file.read_text() for file in (tmp_path / "sweep").glob("*/terminal.log")]
    assert len(told) == 2
    assert any("said other" in text for text in told)
    assert token not in "".join(told)


def test_two_jobs_that_are_the_same_are_refused(mergeline: Call) -> None:
    done = mergeline("sweep", "r.yaml", "misbehave.factor=2,2")
    assert done.returncode == 2
    assert "misbehave.factor=2 and misbehave.factor=2 are the same job" in done.stderr


@pytest.mark.parametrize("words", [("--json",), ("--workers", "0"), ("--status",)])
def test_arguments_that_mean_nothing_are_refused(mergeline: Call, words: tuple[str, ...]) -> None:
    assert mergeline("sweep", "r.yaml", *words).returncode == 2
