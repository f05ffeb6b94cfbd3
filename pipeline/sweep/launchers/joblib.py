"""joblib's workers (loky): processes of this machine that are used again from job to job."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pipeline.sweep.launchers import Handle, Options, Start
from pipeline.sweep.task import Task, end_with_parent, run_in_worker

OPTIONS = Options


@contextmanager
def opened(options: Options, folder: Path, workers: int) -> Iterator[Start]:
    """A pool of workers. One that dies takes the jobs of the others along; the next job gets a new pool."""
    from joblib.externals.loky import ProcessPoolExecutor
    from joblib.externals.loky.process_executor import BrokenProcessPool

    def pool_of_workers() -> ProcessPoolExecutor:
        return ProcessPoolExecutor(workers, initializer=_begin)

    pool = pool_of_workers()

    def start(task: Task) -> Handle:
        nonlocal pool
        try:
            handle: Handle = pool.submit(run_in_worker, task)
        except BrokenProcessPool:
            pool.shutdown(kill_workers=True)
            pool = pool_of_workers()
            handle = pool.submit(run_in_worker, task)
        return handle

    try:
        yield start
    finally:
        pool.shutdown(kill_workers=True)


def gpus_there(options: Options) -> bool:
    return False


def _begin() -> None:
    """In a worker: what a terminal sends to all that it started is for the sweep, which then tells the jobs.

    Jobs are forked as everywhere, by a process that does not know loky's way of starting one. A worker would
    wait for ever for a sweep that was killed.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    multiprocessing.set_start_method("forkserver", force=True)
    end_with_parent()
