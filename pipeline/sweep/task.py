"""One job of a sweep, wherever it runs: in a process of its own, its beginning and end in the ledger.

Every launcher has it run by `run_task`, here or in a worker on a machine that has the same folders.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from pipeline.accounting.processor import cores
from pipeline.errors import InputError, OutputError
from pipeline.jobs import run_one
from pipeline.manifest import ErrorRecord, read_manifest
from pipeline.recipe.hydra_app import Request
from pipeline.sweep.ledger import JobLine, Ledger
from pipeline.sweep.orders import Order, Orders
from pipeline.sweep.process import in_child
from pipeline.sweep.resources import Resources

_SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Task:
    """A job as it travels to the process that runs it: plain data."""

    job: str
    """Fingerprint of its resolved recipe."""
    request: Request
    sweep: Path
    """The sweep's folder, absolute."""
    folder: str
    """The job's own in it."""
    cwd: Path
    """Where relative paths of the recipe start from."""
    orders: Orders
    resources: Resources

    def line(self) -> JobLine:
        """The job as it begins."""
        return JobLine(job=self.job, folder=self.folder, status="running")


def run_task(task: Task, environment: Mapping[str, str] | None = None) -> JobLine | None:
    """Run a job to its end and return how it ended; None when it was not to begin any more.

    Its environment is this process's, with the threads that it was given, and `environment` on top. The
    job ends when it is told to, and with this process. Raises OutputError.
    """
    if task.orders.read() is not Order.GO_ON:
        return None
    ledger = Ledger(task.sweep)
    ledger.append(task.line())
    make_folder(task.sweep / task.folder)
    work, folder = partial(run_one, task.request), task.sweep / task.folder
    started = time.monotonic()
    # One that has all there is goes as without a sweep: of itself, torch takes one thread for each real core.
    cpus = task.resources.cpus
    threads = {} if cpus == cores() else {"OMP_NUM_THREADS": str(cpus)}
    own = {**threads, **(environment or {})}
    end = in_child(work, folder, task.orders, task.cwd, own)
    line = as_recorded(task.sweep, task.line())
    if line.status == "running":
        line.status = "interrupted" if end.code == -signal.SIGTERM else "failed"
        line.why = end.why
        line.seconds = round(time.monotonic() - started, 3)
    ledger.append(line)
    return line


def run_in_worker(task: Task) -> JobLine | None:
    """`run_task` in a worker of an engine."""
    end_with_parent()
    return run_task(task)


@cache
def end_with_parent() -> None:
    """Let this process not outlive who started it: a sweep that was killed, or a machine that was lost."""
    threading.Thread(target=_end_after, args=(os.getppid(),), daemon=True).start()


def _end_after(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    os._exit(1)


def as_recorded(folder: Path, line: JobLine) -> JobLine:
    """How a job ended, by its manifest; `line` as it is when that does not say."""
    try:
        record = read_manifest(folder / line.folder)
    except InputError:
        return line
    return line.model_copy(
        update={
            "status": record.status,
            "seconds": record.seconds,
            "metrics": record.metrics,
            "why": _in_words(record.error) if record.error else "",
        }
    )


def make_folder(folder: Path) -> None:
    """Make a folder and those above it. Raises OutputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "choose another with hydra.sweep.dir=DIR"
        raise OutputError(f"cannot be made: {reason}", where=folder, fix=fix) from error


def _in_words(error: ErrorRecord) -> str:
    return f"{error.where}: {error.what}" if error.where else error.what
