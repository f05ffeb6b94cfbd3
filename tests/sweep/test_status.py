"""How far the jobs of a sweep that runs have come."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.checkpoint.lock import has_writer, only_writer
from pipeline.manifest import Manifest, StepRecord
from pipeline.sweep.child import OUTPUT
from pipeline.sweep.ledger import FILE_NAME, JobLine, Ledger, Listed, SweepLine
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
