"""Run the jobs of a sweep, each in a process of its own, so that none can take another down."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from typing import Any

from pipeline.checkpoint.lock import only_writer
from pipeline.errors import InputError, OutputError
from pipeline.manifest import ErrorRecord, read_manifest
from pipeline.steps import all_steps
from pipeline.sweep import child
from pipeline.sweep.ledger import FILE_NAME, Ending, JobLine, Ledger, Listed, SweepLine
from pipeline.sweep.prepare import Asked, PlannedJob, SweepPlan, prepare

Tell = Callable[[PlannedJob, JobLine], None]
"""Is told when a job begins and when it ends."""

_PRELOADED = ("pipeline.sweep.child", "pipeline.plan", "pipeline.run", "pipeline.report.terminal")
"""Imported once, with the steps, in the process that those of the jobs are forked from: nothing that starts
threads, which a fork would lose."""


@dataclass
class _Running:
    job: PlannedJob
    process: BaseProcess
    talk: Connection
    """It says what kept it from having a manifest; a word, or our end, asks it to end."""
    started: float


def run_sweep(
    asked: Asked, plan: SweepPlan, tell: Tell, *, workers: int = 1, fail_fast: bool = False
) -> Ending:
    """Run what is to do, `workers` jobs at a time; the ledger says how each of them ended.

    With `fail_fast`, the first failure ends the others. So do Ctrl-C, SIGTERM and SIGHUP; asked for a
    second time, they end at once. Raises OutputError when the folder cannot be written, or another sweep
    runs in it.
    """
    _make(plan.folder)
    with only_writer(plan.folder / FILE_NAME):
        ledger = Ledger(plan.folder)
        if ledger.bytes() != plan.ledger_bytes:  # another sweep was at work here meanwhile
            plan = prepare(asked)
        ledger.append(_beginning(plan))
        for job in plan.jobs:
            if job.plan is None:
                ledger.append(_as_recorded(plan.folder, job))
        with _asked_to_stop() as stop:
            ending = _supervise(plan, ledger, tell, stop, workers, fail_fast)
        ledger.append(SweepLine(status=ending, recipe=plan.recipe))
    return ending


def _supervise(
    plan: SweepPlan, ledger: Ledger, tell: Tell, stop: int, workers: int, fail_fast: bool
) -> Ending:
    waiting = deque(plan.to_do)
    running: dict[object, _Running] = {}  # by what its process's end can be waited for with
    asked_to_stop = failed = False
    try:
        while running or waiting:
            while waiting and len(running) < workers:
                one = _start(waiting.popleft(), plan.folder, ledger, tell)
                running[one.process.sentinel] = one
            for ready in wait([stop, *(one.process.sentinel for one in running.values())]):
                if ready == stop:
                    os.read(stop, 1)
                    _end(running, at_once=asked_to_stop)
                    asked_to_stop = True
                    waiting.clear()
                    continue
                one = running.pop(ready)
                line = _ended(one, plan.folder)
                ledger.append(line)
                tell(one.job, line)
                _clear_up(one.job, line, plan.folder)
                failed |= line.status != "done"
                if line.status == "failed" and fail_fast:
                    waiting.clear()
                    _end(running)
    finally:
        _end(running)
    if asked_to_stop:
        return "interrupted"
    return "failed" if failed else "done"


def _start(job: PlannedJob, folder: Path, ledger: Ledger, tell: Tell) -> _Running:
    line = JobLine(job=job.recipe.fingerprint, folder=job.folder, status="running")
    ledger.append(line)
    _make(folder / job.folder)
    tell(job, line)
    context = multiprocessing.get_context("forkserver")
    talk, theirs = context.Pipe()
    arguments = (job.request, str(folder / job.folder), theirs)
    process = context.Process(target=child.main, args=arguments)
    process.start()
    theirs.close()
    return _Running(job, process, talk, monotonic())


def _end(running: dict[object, _Running], *, at_once: bool = False) -> None:
    """Ask the jobs to end, as Ctrl-C does; or end them."""
    for one in running.values():
        with suppress(OSError):  # it has ended by itself
            one.talk.send_bytes(b"end")
            if at_once and one.process.pid:
                os.killpg(one.process.pid, signal.SIGKILL)


def _ended(one: _Running, folder: Path) -> JobLine:
    """How a job ended: by its manifest, or by what became of its process."""
    one.process.join()
    told = ""
    with suppress(EOFError, OSError):
        told = one.talk.recv_bytes().decode()
    one.talk.close()
    child.redact_output(folder / one.job.folder)
    line = _as_recorded(folder, one.job)
    if line.status == "running":
        code = one.process.exitcode or 0
        line.status = "interrupted" if code == -signal.SIGTERM else "failed"
        line.why = told or _death(code)
        line.seconds = round(monotonic() - one.started, 3)
    return line


def _clear_up(job: PlannedJob, line: JobLine, folder: Path) -> None:
    """Remove earlier attempts, unless the next one may still go on with what they have finished."""
    if line.status != "interrupted":
        for name in job.leftovers:
            shutil.rmtree(folder / name, ignore_errors=True)


def _as_recorded(folder: Path, job: PlannedJob) -> JobLine:
    """The job by its manifest; `running` when that does not say how it ended."""
    line = JobLine(job=job.recipe.fingerprint, folder=job.folder, status="running")
    try:
        record = read_manifest(folder / job.folder)
    except InputError:
        return line
    line.status, line.seconds, line.metrics = record.status, record.seconds, record.metrics
    line.why = _in_words(record.error) if record.error else ""
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


def _beginning(plan: SweepPlan) -> SweepLine:
    jobs = [
        Listed(
            job=job.recipe.fingerprint,
            overrides=list(job.own),
            folder=job.folder,
            done=job.plan is None,
        )
        for job in plan.jobs
    ]
    overrides = list(plan.overrides)
    return SweepLine(status="running", recipe=plan.recipe, overrides=overrides, jobs=jobs)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or str(error)
        fix = "choose another with hydra.sweep.dir=DIR"
        raise OutputError(f"cannot be made: {reason}", where=folder, fix=fix) from error


@contextmanager
def _asked_to_stop() -> Iterator[int]:
    """A pipe that has a byte for each time that the sweep is asked to stop.

    A signal that raised an exception could do so between the start of a process and the line that notes it.
    """
    reader, writer = os.pipe()
    before: dict[signal.Signals, Any] = {}

    def ask(*_: Any) -> None:
        os.write(writer, b"x")

    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                before[number] = signal.signal(number, signal.SIG_IGN)
        # The process that jobs are forked from begins now, and ignores what is sent to all of a group.
        steps = {step.describe.__module__ for step in all_steps().values()}
        forkserver.set_forkserver_preload([*_PRELOADED, *sorted(steps)])
        forkserver.ensure_running()
        for number in before:
            signal.signal(number, ask)
        yield reader
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(reader)
        os.close(writer)
