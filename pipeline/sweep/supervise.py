"""Run the jobs of a sweep through a launcher: none can take another down, and the ledger knows each."""

from __future__ import annotations

import shutil
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.accounting.processor import cores
from pipeline.checkpoint.lock import only_writer
from pipeline.errors import MergelineError
from pipeline.sweep.fuse import Pass, passes_of, write_pass
from pipeline.sweep.launchers import LAUNCHERS, Handle, Launcher, Options, Start
from pipeline.sweep.ledger import FILE_NAME, Ending, JobLine, Ledger, Listed, PassLine, SweepLine
from pipeline.sweep.orders import Order, Orders
from pipeline.sweep.prepare import Asked, PlannedJob, SweepPlan, prepare
from pipeline.sweep.resources import Asked as AskedResources
from pipeline.sweep.resources import resources_of
from pipeline.sweep.task import Task, as_recorded, make_folder

Tell = Callable[[PlannedJob, JobLine], None]
"""Is told when a job begins and when it ends."""

_SECONDS_BETWEEN_LOOKS = 0.03


@dataclass(frozen=True)
class Means:
    """With what a sweep is run."""

    launcher: Launcher = LAUNCHERS["local"]
    options: Options = field(default_factory=Options)
    resources: AskedResources = field(default_factory=AskedResources)
    workers: int | None = None
    """Jobs at a time; None leaves it to the launcher."""
    fail_fast: bool = False
    fuse: bool = True
    """Whether the weights of jobs that share a base and this machine are written in one pass."""

    def passes(self, jobs: Sequence[PlannedJob]) -> tuple[Pass, ...]:
        """The jobs to do that go together."""
        return passes_of(jobs) if self.fuse and self.launcher.here else ()


def run_sweep(
    asked: Asked,
    plan: SweepPlan,
    tell: Tell,
    means: Means,
    say: Callable[[str], None] = lambda text: None,
) -> Ending:
    """Run what is to do; the ledger says how each job ended. `say` is told of what is no job's own.

    With `fail_fast`, the first failure ends the others. So do Ctrl-C, SIGTERM and SIGHUP; asked for a second
    time, they end at once, and a third time nothing is waited for. Raises OutputError when the folder cannot
    be written, or another sweep runs in it, and RunError when the launcher cannot be used.
    """
    make_folder(plan.folder)
    with only_writer(plan.folder / FILE_NAME):
        ledger = Ledger(plan.folder)
        if ledger.bytes() != plan.ledger_bytes:  # another sweep was at work here meanwhile
            plan = prepare(asked)
        with opened(plan.folder, means, len(plan.to_do)) as run:
            ledger.append(_beginning(plan))
            for job in plan.jobs:
                if job.plan is None:
                    ledger.append(recorded(job, plan.folder))
            run.write_ahead(plan.to_do, say)
            ending = run.all_of(plan.to_do, tell)
        ledger.append(SweepLine(status=ending, recipe=plan.recipe))
    return ending


class Run:
    """Jobs on their way through a launcher."""

    def __init__(
        self, folder: Path, orders: Orders, start: Start, means: Means, at_most: int
    ) -> None:
        self._folder = folder
        self._ledger = Ledger(folder)
        self._orders = orders
        self._start = start
        self._means = means
        self.at_most = at_most
        """Jobs at a time."""
        self.asked_to_stop = 0
        """How often."""

    def stop(self, *_: Any) -> None:
        """Ask the jobs to end, as Ctrl-C does; the second time at once."""
        self.asked_to_stop += 1
        if self.asked_to_stop == 1:
            self._orders.end()
        else:
            self._orders.kill()

    def write_ahead(self, jobs: Sequence[PlannedJob], say: Callable[[str], None]) -> None:
        """Write the weights of jobs that go together, before they begin."""
        for one in self._means.passes(jobs):
            if not self.goes_on():
                return
            say(f"the weights of {len(one.saves)} jobs are written in one pass over {one.base}")
            line = PassLine(status="running", base=one.base, folders=list(one.saves))
            self._ledger.append(line)
            why = write_pass(one, jobs, self._folder, self._orders)
            ending: Ending = (
                "done" if why is None else "failed" if self.goes_on() else "interrupted"
            )
            self._ledger.append(PassLine(**dict(line) | {"status": ending, "why": why or ""}))
            if why and self.goes_on():
                say(f"the pass ended early, and each job goes on by itself: {why}")

    def all_of(self, jobs: Sequence[PlannedJob], tell: Tell) -> Ending:
        """Run these jobs, and return when all are over, or those that had begun when asked to stop."""
        waiting, running = deque(jobs), dict[str, tuple[PlannedJob, Handle]]()
        begun, endings = set[str](), set[str]()
        seen = self._ledger.bytes()
        while waiting or running:
            while waiting and self.goes_on() and len(running) < self.at_most:
                job = waiting.popleft()
                running[job.recipe.fingerprint] = (job, self._started(job))
            over = [name for name, (_, handle) in running.items() if handle.done()]
            lines, seen = self._ledger.read_on(seen)
            for line in lines:
                if isinstance(line, JobLine) and line.job in running and line.job not in begun:
                    begun.add(line.job)
                    tell(running[line.job][0], line.model_copy(update={"status": "running"}))
            for name in over:
                job, handle = running.pop(name)
                ended = self._ended(job, handle)
                if ended is None:
                    continue
                tell(job, ended)
                self._clear_up(job, ended)
                endings.add(ended.status)
                if ended.status == "failed" and self._means.fail_fast:
                    self._orders.end()
            if self.asked_to_stop > 2 or not (self.goes_on() or running.keys() & begun):
                break
            if not over:
                time.sleep(_SECONDS_BETWEEN_LOOKS)
        for name, (_, handle) in running.items():
            if name not in begun:
                handle.cancel()
        if self.asked_to_stop:
            return "interrupted"
        return "done" if endings <= {"done"} and not waiting else "failed"

    def goes_on(self) -> bool:
        """Whether nobody has asked the jobs to end."""
        return self._orders.read() is Order.GO_ON

    def _started(self, job: PlannedJob) -> Handle:
        assert job.plan is not None
        launcher, asked = self._means.launcher, self._means.resources
        cpus = cores(self.at_most) if launcher.here else 1
        gpus_there = launcher.gpus_there(self._means.options)
        needs = resources_of(job.plan, asked, cpus=cpus, gpus_there=gpus_there)
        task = Task(
            job=job.recipe.fingerprint,
            request=job.request,
            sweep=self._folder.absolute(),
            folder=job.folder,
            cwd=Path.cwd(),
            orders=self._orders,
            resources=needs,
        )
        try:
            return self._start(task)
        except Exception as error:  # of an engine, about this one job
            refused = Future[JobLine | None]()
            refused.set_exception(error)
            return refused

    def _ended(self, job: PlannedJob, handle: Handle) -> JobLine | None:
        """How a job ended; None when it was not to begin any more."""
        try:
            line = handle.result()
            if line is not None or not self.goes_on():
                return line
            why = f"its worker does not see {self._folder.absolute()}, where it is told to go on"
        except Exception as error:  # whatever engines raise for a worker that is gone
            why = _lost(error)
        line = recorded(job, self._folder)
        if line.status in ("running", "interrupted"):
            line.status = "failed" if self.goes_on() else "interrupted"
            line.why = why
        self._ledger.append(line)
        return line

    def _clear_up(self, job: PlannedJob, line: JobLine) -> None:
        """Remove earlier attempts, unless the next one may still go on with what they have finished."""
        if line.status != "interrupted":
            for name in job.leftovers:
                shutil.rmtree(self._folder / name, ignore_errors=True)


def recorded(job: PlannedJob, folder: Path) -> JobLine:
    """A job by its manifest; `running` when that does not say how it ended."""
    line = JobLine(job=job.recipe.fingerprint, folder=job.folder, status="running")
    return as_recorded(folder, line)


def listed(job: PlannedJob) -> Listed:
    """A job for the beginning of a ledger."""
    return Listed(
        job=job.recipe.fingerprint,
        overrides=list(job.own),
        folder=job.folder,
        done=job.plan is None,
    )


def _lost(error: Exception) -> str:
    if isinstance(error, MergelineError):
        return f"{error.where}: {error.what}" if error.where else error.what
    words = str(error).strip().partition("\n")[0]
    return f"its worker was lost: {type(error).__name__}{': ' if words else ''}{words}"


def _beginning(plan: SweepPlan) -> SweepLine:
    jobs = [listed(job) for job in plan.jobs]
    overrides = list(plan.overrides)
    return SweepLine(status="running", recipe=plan.recipe, overrides=overrides, jobs=jobs)


@contextmanager
def opened(folder: Path, means: Means, jobs: int) -> Iterator[Run]:
    """A launcher for as many jobs, and the signals that ask to stop them.

    A signal that raised an exception could do so between the start of a process and the line that notes it.
    """
    orders = Orders(folder)
    before: dict[signal.Signals, Any] = {}
    at_most = max(1, min(jobs, means.workers or means.launcher.at_most or jobs))
    orders.begin()
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                before[number] = signal.signal(number, signal.SIG_IGN)
        # What the launcher starts begins now, and ignores what is sent to all of a group.
        with means.launcher.open(means.options, folder, at_most) as start:
            run = Run(folder, orders, start, means, at_most)
            for number in before:
                signal.signal(number, run.stop)
            try:
                yield run
            finally:
                orders.end()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        orders.clear()
