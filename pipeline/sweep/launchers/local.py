"""Processes of this machine, packed by memory and GPUs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from pipeline.memory import free_bytes
from pipeline.sweep.launchers import Options, Start
from pipeline.sweep.ledger import JobLine
from pipeline.sweep.orders import Order
from pipeline.sweep.process import warm_up
from pipeline.sweep.resources import Resources, local_gpus
from pipeline.sweep.task import Task, run_task

OPTIONS = Options
_SECONDS_BETWEEN_LOOKS = 0.2


class Room:
    """What the jobs that run at a time may take together."""

    def __init__(self, memory: int | None, gpus: list[int]) -> None:
        self._memory = memory
        self._gpus = set(gpus)
        self._running: list[tuple[Resources, set[int]]] = []
        self._changed = threading.Condition()

    def enter(self, task: Task) -> set[int] | None:
        """Wait until there is room for a task, and return the GPUs that it gets; None when asked to end.

        One that takes more memory than there is, runs when no other does.
        """
        with self._changed:
            while task.orders.read() is Order.GO_ON:
                gpus = self._fits(task.resources)
                if gpus is not None:
                    self._running.append((task.resources, gpus))
                    return gpus
                self._changed.wait(_SECONDS_BETWEEN_LOOKS)
        return None

    def leave(self, task: Task, gpus: set[int]) -> None:
        with self._changed:
            self._running.remove((task.resources, gpus))
            self._changed.notify_all()

    def _fits(self, needs: Resources) -> set[int] | None:
        taken = sum(one.memory for one, _ in self._running)
        if self._running and self._memory is not None and taken + needs.memory > self._memory:
            return None
        free = self._gpus - {gpu for _, gpus in self._running for gpu in gpus}
        if needs.gpu is not None:
            free &= {needs.gpu}
        wanted = min(
            needs.gpus, len(self._gpus)
        )  # what no GPU serves fails by itself, with a reason
        return set(sorted(free)[:wanted]) if len(free) >= wanted else None


@contextmanager
def opened(options: Options, folder: Path, workers: int) -> Iterator[Start]:
    """`workers` jobs at a time, fewer where their memory or the GPUs do not suffice for all."""
    gpus = local_gpus()
    room = Room(free_bytes(), gpus)
    warm_up()
    with ThreadPoolExecutor(workers) as pool:
        try:
            yield lambda task: pool.submit(_run, task, room, hides=bool(gpus))
        finally:
            pool.shutdown(cancel_futures=True)


def gpus_there(options: Options) -> bool:
    return bool(local_gpus())


def _run(task: Task, room: Room, *, hides: bool) -> JobLine | None:
    gpus = room.enter(task)
    if gpus is None:
        return None
    try:
        named = task.resources.gpu is not None  # the recipe counts GPUs as they are
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, sorted(gpus)))}
        return run_task(task, visible if hides and not named else None)
    finally:
        room.leave(task, gpus)
