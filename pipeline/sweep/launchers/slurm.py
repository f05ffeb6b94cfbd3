"""SLURM, through submitit: every job of the sweep is a job of the cluster."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from pipeline.sweep.launchers import Options, Start
from pipeline.sweep.ledger import JobLine
from pipeline.sweep.task import Task, run_in_worker

FOLDER = "submitit"
"""In the sweep's folder: scripts, and what SLURM and submitit say."""


class SlurmOptions(Options):
    """What SLURM wants to know of each job; the rest is its site's default."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    minutes: Annotated[int, Field(ge=1)] = 240
    """Longest that a job may take."""
    executor: Literal["slurm", "local"] = "slurm"
    """`local` runs the same scripts on this machine, to try them out."""


OPTIONS = SlurmOptions


class _Handle:
    """submitit's job, as `Handle` wants it."""

    def __init__(self, job: Any) -> None:
        self._job = job

    def done(self) -> bool:
        return bool(self._job.done())

    def result(self) -> JobLine | None:
        line: JobLine | None = self._job.result()
        return line

    def cancel(self) -> None:
        if self._job.state.upper() in ("PENDING", "UNKNOWN"):
            self._job.cancel(check=False)


@contextmanager
def opened(options: SlurmOptions, folder: Path, workers: int) -> Iterator[Start]:
    """At most `workers` jobs in the queue at a time."""
    import submitit

    executor = submitit.AutoExecutor(folder / FOLDER, cluster=options.executor)
    named = {key: getattr(options, key) for key in ("partition", "account", "qos")}
    slurm = {f"slurm_{key}": value for key, value in named.items() if value is not None}

    def start(task: Task) -> _Handle:
        needs = task.resources
        executor.update_parameters(
            name="mergeline",
            timeout_min=options.minutes,
            cpus_per_task=needs.cpus,
            gpus_per_node=needs.gpus,
            mem_gb=math.ceil(needs.memory / 2**30 * 10) / 10,
            **slurm,
        )
        return _Handle(executor.submit(run_in_worker, task))

    yield start


def gpus_there(options: Options) -> bool:
    return False
