"""One job of a sweep, wherever it runs: in a process of its own, its beginning and end in the ledger.

Every launcher has it run by `run_task`, here or in a worker on a machine that has the same folders.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from pipeline.errors import InputError, OutputError
from pipeline.manifest import ErrorRecord, read_manifest
from pipeline.recipe.hydra_app import Request
from pipeline.steps import all_steps
from pipeline.sweep import child
from pipeline.sweep.ledger import JobLine, Ledger
from pipeline.sweep.orders import Order, Orders
from pipeline.sweep.resources import Resources

_PRELOADED = (
    "pipeline.sweep.child",
    "pipeline.plan",
    "pipeline.run",
    "pipeline.report.page",
    "pipeline.report.terminal",
)
"""Imported once, with the steps, in the process that those of the jobs are forked from: nothing that starts
threads, which a fork would lose."""
_SECONDS_BETWEEN_LOOKS = 0.2
_ONE_AT_A_TIME = threading.Lock()
"""Starting a process looks which others have ended; of two threads that look at once, one loses a code."""


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

    Its environment is this process's, with `environment` on top. The job ends when it is told to, and with
    this process. Raises OutputError.
    """
    if task.orders.read() is not Order.GO_ON:
        return None
    ledger = Ledger(task.sweep)
    ledger.append(task.line())
    make_folder(task.sweep / task.folder)
    warm_up()
    context = multiprocessing.get_context("forkserver")
    talk, theirs = context.Pipe()
    surroundings = {**os.environ, **(environment or {})}
    arguments = (task.request, str(task.sweep / task.folder), theirs, str(task.cwd), surroundings)
    started = time.monotonic()
    process = context.Process(target=child.main, args=arguments)
    with _ONE_AT_A_TIME, _without_main():
        process.start()
    theirs.close()
    _supervise(process, talk, task.orders)
    line = _ended(task, process, talk, time.monotonic() - started)
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


def warm_up() -> None:
    """See to it that the process that jobs are forked from is there."""
    steps = {step.describe.__module__ for step in all_steps().values()}
    forkserver.set_forkserver_preload([*_PRELOADED, *sorted(steps)])
    forkserver.ensure_running()


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


@contextmanager
def _without_main() -> Iterator[None]:
    """Keep multiprocessing from running this process's script again in the new one.

    Jobs need nothing of it, and that of a worker imports the whole engine.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _supervise(process: BaseProcess, talk: Connection, orders: Orders) -> None:
    """Wait for the end of a job, and pass on what it is told to do."""
    given = Order.GO_ON
    while not wait([process.sentinel], _SECONDS_BETWEEN_LOOKS):
        order = orders.read()
        if order is given:
            continue
        given = order
        with suppress(OSError):  # it has ended by itself
            talk.send_bytes(b"end")
            if order is Order.KILL and process.pid:
                os.killpg(process.pid, signal.SIGKILL)


def _ended(task: Task, process: BaseProcess, talk: Connection, seconds: float) -> JobLine:
    """How a job ended: by its manifest, or by what became of its process."""
    with _ONE_AT_A_TIME:
        process.join()
    told = ""
    with suppress(EOFError, OSError):
        told = talk.recv_bytes().decode()
    talk.close()
    child.redact_output(task.sweep / task.folder)
    line = as_recorded(task.sweep, task.line())
    if line.status == "running":
        code = process.exitcode or 0
        line.status = "interrupted" if code == -signal.SIGTERM else "failed"
        line.why = told or _death(code)
        line.seconds = round(seconds, 3)
    return line


def _in_words(error: ErrorRecord) -> str:
    return f"{error.where}: {error.what}" if error.where else error.what


def _death(code: int) -> str:
    seen = f"{child.OUTPUT} in its folder has its last words"
    if code == -signal.SIGKILL:
        return f"killed (SIGKILL), as the system does when memory runs out; {seen}"
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}; {seen}"
    return f"its process ended with exit code {code} in the middle; {seen}"
