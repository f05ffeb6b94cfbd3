"""The ledger: whole lines from many writers, whatever became of some of them."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.sweep.ledger import FILE_NAME, JobLine, Ledger, Listed, SweepLine, attempts
from pipeline.sweep.status import read_status


def write_many(folder: str, writer: int) -> None:
    for number in range(50):
        Ledger(Path(folder)).append(
            JobLine(job=f"{writer}", folder=f"{writer}-{number}", status="done", why="x" * 5000)
        )


def test_many_may_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [
        context.Process(target=write_many, args=(str(tmp_path), writer)) for writer in range(4)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = attempts(Ledger(tmp_path).read())
    assert {job: len(lines) for job, lines in found.items()} == {str(n): 50 for n in range(4)}


def test_a_torn_line_spoils_no_other(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    for _ in range(2):
        ledger.append(JobLine(job="a", folder="a", status="running"))
        with (tmp_path / FILE_NAME).open("ab") as file:
            file.write(b'{"event": "job", "job": "a", "fol\xc3')
    ledger.append(JobLine(job="a", folder="a", status="done"))
    assert [getattr(line, "status", "") for line in ledger.read()] == ["running", "running", "done"]


def test_a_folder_that_leads_out_of_the_sweeps_is_not_taken_from_the_file(tmp_path: Path) -> None:
    for folder in ("../elsewhere", "/etc", "..", "."):
        with pytest.raises(ValueError, match="folder"):
            JobLine(job="a", folder=folder, status="failed")


def test_no_secret_gets_into_it(tmp_path: Path) -> None:
    token = "hf_" + "a" * 34
    Ledger(tmp_path).append(
        SweepLine(status="running", recipe="r", overrides=[f"params.token={token}"])
    )
    assert token not in (tmp_path / FILE_NAME).read_text()


def test_the_table_is_rebuilt_from_it_alone(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path)
    jobs = [Listed(job=name, overrides=[f"x={name}"], folder=name) for name in "abcd"]
    ledger.append(SweepLine(status="running", recipe="r", jobs=jobs))
    for name in "abc":
        ledger.append(JobLine(job=name, folder=name, status="running"))
    ledger.append(
        JobLine(job="a", folder="a", status="done", seconds=2, metrics={"evaluate.loss": 1.5})
    )
    ledger.append(JobLine(job="b", folder="b", status="failed", why="no luck"))

    status = read_status(tmp_path)

    assert [job.status for job in status.jobs] == ["done", "failed", "interrupted", "waiting"]
    assert status.status == "interrupted", "nobody holds the lock, and nothing was said of an end"
    assert status.jobs[0].metrics == {"evaluate.loss": 1.5}
    assert status.jobs[1].why == "no luck"


def test_a_folder_without_a_sweep_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no sweep in this folder"):
        read_status(tmp_path)
