"""How a sweep stands, or how it ended: from its ledger, and while it runs from the manifests of its jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from pipeline.checkpoint.lock import has_writer
from pipeline.errors import InputError
from pipeline.manifest import FILE_NAME as MANIFEST
from pipeline.manifest import Figure, read_manifest
from pipeline.sweep.child import OUTPUT
from pipeline.sweep.ledger import (
    FILE_NAME,
    AddedLine,
    JobLine,
    Ledger,
    Line,
    Listed,
    PassLine,
    SweepLine,
)

JobStatus = Literal["waiting", "running", "done", "failed", "interrupted"]

_LAST_WORDS = 4096
"""Bytes at the end of a job's output in which its last line is looked for."""


class JobRow(BaseModel):
    """One job of a sweep."""

    overrides: list[str]
    """Those that set it apart."""
    status: JobStatus
    folder: str
    """In the sweep's folder."""
    seconds: float | None = None
    """How long it took, or runs already."""
    metrics: dict[str, Figure] = {}
    why: str = ""
    """Why it is not done."""
    progress: str = ""
    """How far a running job has come."""


class SweepStatus(BaseModel):
    """A whole sweep."""

    folder: str
    recipe: str
    status: Literal["running", "done", "failed", "interrupted"]
    started: datetime
    jobs: list[JobRow]

    def count(self, status: JobStatus) -> int:
        return sum(job.status == status for job in self.jobs)


def read_status(folder: Path) -> SweepStatus:
    """The sweep that ran, or runs, in a folder. Raises InputError when there is none."""
    lines = Ledger(folder).read()
    begun = [
        at
        for at, line in enumerate(lines)
        if isinstance(line, SweepLine) and line.status == "running"
    ]
    if not begun:
        raise InputError(
            "there is no sweep in this folder",
            where=folder,
            fix="name the folder that `mergeline sweep` wrote its ledger into",
        )
    first = lines[begun[-1]]
    assert isinstance(first, SweepLine)
    after = lines[begun[-1] + 1 :]
    added = [job for line in after if isinstance(line, AddedLine) for job in line.jobs]
    alive = has_writer(folder / FILE_NAME)
    ends = [line.status for line in after if isinstance(line, SweepLine)]
    return SweepStatus(
        folder=str(folder),
        recipe=first.recipe,
        status=ends[-1] if ends else "running" if alive else "interrupted",
        started=first.time,
        jobs=[_row(folder, listed, after, alive) for listed in [*first.jobs, *added]],
    )


def _row(folder: Path, listed: Listed, lines: Sequence[Line], alive: bool) -> JobRow:
    row = JobRow(overrides=listed.overrides, status="waiting", folder=listed.folder)
    said = [line for line in lines if isinstance(line, JobLine) and line.job == listed.job]
    if not said:
        written = [one for one in lines if isinstance(one, PassLine) and row.folder in one.folders]
        if alive and written and written[-1].status == "running":
            row.status, row.seconds = "running", _seconds_since(written[-1])
            row.progress = f"one pass over {written[-1].base}{_amount(folder, written[-1].time)}"
        return row
    last = said[-1]
    row.status, row.folder, row.seconds = last.status, last.folder, last.seconds
    row.metrics, row.why = last.metrics, last.why
    if last.status == "running":
        row.seconds = _seconds_since(last)
        row.progress = _progress(folder / last.folder)
        if not alive:
            row.status, row.why, row.seconds = "interrupted", "the sweep was cut short", None
    return row


def _progress(folder: Path) -> str:
    """`4/6 save: merging: 45 % (1.2 GB of 2.7 GB)`."""
    if not (folder / MANIFEST).exists():
        return "starting"
    try:
        steps = read_manifest(folder).steps
    except InputError:
        return ""
    at = next((n for n, step in enumerate(steps) if step.status == "running"), None)
    if at is None:
        return "finishing"
    return f"{at + 1}/{len(steps)} {steps[at].id}{_amount(folder)}"


def _amount(folder: Path, since: datetime | None = None) -> str:
    """`: merging: 45 % (1.2 GB of 2.7 GB)`, if that is what was told there last, and not before `since`."""
    words = _last_line(folder / OUTPUT, since.timestamp() if since else 0)
    return f": {words}" if re.search(r": \d+ %|: [\d.]+ [kMGT]?B", words) else ""


def _seconds_since(line: Line) -> float:
    return round((datetime.now(UTC) - line.time).total_seconds(), 3)


def _last_line(file: Path, since: float) -> str:
    try:
        with file.open("rb") as stream:
            if os.fstat(stream.fileno()).st_mtime < since:
                return ""
            stream.seek(max(0, file.stat().st_size - _LAST_WORDS))
            lines = stream.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return lines[-1].strip() if lines else ""
