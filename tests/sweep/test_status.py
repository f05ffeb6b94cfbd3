"""How far the jobs of a sweep that runs have come."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.checkpoint.lock import has_writer, only_writer
from pipeline.manifest import Manifest, StepRecord
from pipeline.sweep.child import OUTPUT
from pipeline.sweep.ledger import FILE_NAME, JobLine, Ledger, Listed, PassLine, SweepLine
from pipeline.sweep.status import read_status


def test_a_lock_tells_whether_somebody_writes(tmp_path: Path) -> None:
    assert not has_writer(tmp_path / "x")
    with only_writer(tmp_path / "x"):
        assert has_writer(tmp_path / "x")
    assert not has_writer(tmp_path / "x")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("[2/2] save: model -> merged\n", "2/2 save"),
        ("      writing: 45 % (1.2 GB of 2.7 GB)\n", "2/2 save: writing: 45 % (1.2 GB of 2.7 GB)"),
    ],
)
def test_a_running_job_tells_its_step_and_how_much_of_it(
    tmp_path: Path, said: str, told: str
) -> None:
    ledger = Ledger(tmp_path)
    ledger.append(
        SweepLine(status="running", recipe="r", jobs=[Listed(job="a", overrides=[], folder="a")])
    )
    ledger.append(JobLine(job="a", folder="a", status="running"))
    (tmp_path / "a").mkdir()
    Manifest(
        recipe="r",
        recipe_file="r.yaml",
        recipe_blake3="0" * 64,
        run_dir=str(tmp_path / "a"),
        started=datetime.now(UTC),
        fingerprint="a",
        engine="stream",
        steps=[
            StepRecord(id="merge", step="merge", status="done"),
            StepRecord(id="save", step="save", status="running"),
        ],
    ).write()
    (tmp_path / "a" / OUTPUT).write_text(said)
    with only_writer(tmp_path / FILE_NAME):
        status = read_status(tmp_path)
    assert status.status == "running"
    assert status.jobs[0].progress == told


def test_jobs_run_while_their_weights_are_written_in_one_pass(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    jobs = [Listed(job=name, overrides=[], folder=name) for name in "abc"]
    ledger.append(SweepLine(status="running", recipe="r", jobs=jobs))
    begins = PassLine(status="running", base="./base", folders=["a", "b"])
    ledger.append(begins)
    said = tmp_path / OUTPUT
    said.write_text("      merging into 2 models: 45 % (1.2 GB of 2.7 GB)\n")

    def told() -> list[tuple[str, str]]:
        return [(job.status, job.progress) for job in read_status(tmp_path).jobs]

    with only_writer(tmp_path / FILE_NAME):
        os.utime(said, (0, begins.time.timestamp() - 60))
        early = told()
        os.utime(said, (0, begins.time.timestamp() + 60))
        late = told()
        seconds = [job.seconds for job in read_status(tmp_path).jobs]
    killed = told()
    with only_writer(tmp_path / FILE_NAME):
        ledger.append(PassLine(status="done", base="./base", folders=["a", "b"]))
        after = told()
        ledger.append(JobLine(job="a", folder="a", status="done"))
        later = told()

    running = ("running", "one pass over ./base")
    assert early == [running, running, ("waiting", "")], "an earlier pass told how far it was"
    amount = ": merging into 2 models: 45 % (1.2 GB of 2.7 GB)"
    assert late[0] == late[1] == ("running", f"one pass over ./base{amount}")
    assert [second is not None for second in seconds] == [True, True, False]
    assert killed == after == [("waiting", "")] * 3, "none of them has begun"
    assert later == [("done", ""), ("waiting", ""), ("waiting", "")]
