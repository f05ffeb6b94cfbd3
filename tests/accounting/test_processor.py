"""How many threads a process takes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pipeline.accounting import processor


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Eight processors that this process may run on, and nothing else that limits it."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.setattr(processor, "_QUOTA", tmp_path / "cpu.max")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def test_processes_that_work_beside_each_other_share_the_processors() -> None:
    assert [processor.cores(count) for count in (1, 2, 3, 8, 100)] == [8, 4, 2, 1, 1]


@pytest.mark.parametrize(
    ("said", "count"), [("3", 3), ("16", 8), ("2,4", 2), ("", 8), ("0", 8), ("all", 8)]
)
def test_they_are_no_more_than_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, said: str, count: int
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert processor.cores() == count
    assert processor.cores(8) == 1


@pytest.mark.parametrize(
    ("quota", "count"),
    [("max 100000", 8), ("300000 100000", 3), ("50000 100000", 1), ("6400000 100000", 8)],
)
def test_they_are_no_more_than_a_container_may_keep_busy(
    tmp_path: Path, quota: str, count: int
) -> None:
    (tmp_path / "cpu.max").write_text(f"{quota}\n")
    assert processor.cores() == count
