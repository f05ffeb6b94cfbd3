"""Work in a process of its own, forked from one that is warm, which obeys the orders of its sweep."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import ModuleType

from pipeline.steps import all_steps
from pipeline.sweep import child
from pipeline.sweep.orders import Order, Orders

_PRELOADED = (
    "pipeline.sweep.child",
    "pipeline.recipe.hydra_app",
    "pipeline.plan",
    "pipeline.jobs",
    "pipeline.run",
    "pipeline.realise.stream",
    "pipeline.report.page",
    "pipeline.report.terminal",
)
"""Imported once, with the steps, in the process that those of the jobs are forked from: nothing that starts
threads which a fork would lose. Those of numpy end before a fork, and begin again where they are needed."""
_SECONDS_BETWEEN_LOOKS = 0.2
_ONE_AT_A_TIME = threading.Lock()
"""Starting a process looks which others have ended; of two threads that look at once, one loses a code."""


@dataclass(frozen=True)
class End:
    """What became of a process."""

    code: int
    """As multiprocessing gives it: the number of a signal is below zero."""
    told: str
    """What the work raised, in words."""

    @property
    def why(self) -> str:
        """What kept the work from its end, in words."""
        return self.told or _death(self.code)


def in_child(
    work: Callable[[], object],
    folder: Path,
    orders: Orders,
    cwd: Path,
    environment: Mapping[str, str] | None = None,
) -> End:
    """Do work to its end, or until it is told to end; what is printed goes into a file in `folder`.

    Its environment is this process's, with `environment` on top.
    """
    warm_up()
    context = multiprocessing.get_context("forkserver")
    talk, theirs = context.Pipe()
    surroundings = {**os.environ, **(environment or {})}
    arguments = (work, str(folder), theirs, str(cwd), surroundings)
    process = context.Process(target=child.main, args=arguments)
    with _ONE_AT_A_TIME, _without_main():
        process.start()
    theirs.close()
    _supervise(process, talk, orders)
    with _ONE_AT_A_TIME:
        process.join()
    told = ""
    with suppress(EOFError, OSError):
        told = talk.recv_bytes().decode()
    talk.close()
    child.redact_output(folder)
    return End(process.exitcode or 0, told)


def warm_up() -> None:
    """See to it that the process that jobs are forked from is there."""
    steps = {step.describe.__module__ for step in all_steps().values()}
    forkserver.set_forkserver_preload([*_PRELOADED, *sorted(steps)])
    forkserver.ensure_running()


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
    """Wait for the end of the work, and pass on what is ordered."""
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


def _death(code: int) -> str:
    seen = f"{child.OUTPUT} in its folder has its last words"
    if code == -signal.SIGKILL:
        return f"killed (SIGKILL), as the system does when memory runs out; {seen}"
    if code < 0:
        return f"its process died of {signal.Signals(-code).name}; {seen}"
    return f"its process ended with exit code {code} in the middle; {seen}"
