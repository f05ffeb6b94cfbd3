"""Progress of a run as plain lines, for logs of other programs, pipes and simple terminals."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TextIO

from pipeline.report.units import duration, printable, size

if TYPE_CHECKING:
    from pipeline.recipe.model import Recipe

SECONDS_BETWEEN_LINES = 5.0
"""A bar writes a line at most this often, so that it stays readable in the log of a batch job."""


class PlainConsole:
    """One line per event, without control codes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._count = ""

    def run_started(self, recipe: Recipe) -> None:
        self._line(f"{recipe.name}: {len(recipe.steps)} steps, into {recipe.run_dir}")

    def step_started(self, number: int, of: int, id: str, summary: str) -> None:
        self._count = f"[{number}/{of}]"
        self._line(f"{self._count} {id}: {summary}")

    def step_done(self, id: str, seconds: float) -> None:
        self._line(f"{self._count} {id}: done in {duration(seconds)}")

    def step_failed(self, id: str, seconds: float, why: str) -> None:
        self._line(f"{self._count} {id}: failed after {duration(seconds)}")
        self._indented(why)

    def note(self, text: str) -> None:
        self._indented(text)

    def warn(self, text: str) -> None:
        self._indented(f"warning: {text}")

    @contextmanager
    def bar(self, label: str, total: float, unit: str = "") -> Iterator[PlainBar]:
        yield PlainBar(self, label, total, unit)

    def _indented(self, text: str) -> None:
        for line in text.splitlines():
            self._line(f"      {line}")

    def _line(self, text: str) -> None:
        with suppress(OSError):  # a run goes on when nobody listens any more
            print(printable(text), file=self._stream, flush=True)


class PlainBar:
    """Says now and then how far a piece of work has come; nothing when it is quick."""

    def __init__(self, console: PlainConsole, label: str, total: float, unit: str) -> None:
        self._console, self._label, self._total, self._unit = console, label, total, unit
        self._done = 0.0
        self._next = time.monotonic() + SECONDS_BETWEEN_LINES
        self._lock = threading.Lock()

    def advance(self, amount: float = 1) -> None:
        with self._lock:
            self._done += amount
            if time.monotonic() < self._next:
                return
            self._next = time.monotonic() + SECONDS_BETWEEN_LINES
            self._console.note(f"{self._label}: {progress(self._done, self._total, self._unit)}")


class QuietConsole(PlainConsole):
    """Says only why a run failed."""

    def run_started(self, recipe: Recipe) -> None: ...

    def step_started(self, number: int, of: int, id: str, summary: str) -> None:
        self._count = f"[{number}/{of}]"

    def step_done(self, id: str, seconds: float) -> None: ...

    def note(self, text: str) -> None: ...

    def warn(self, text: str) -> None: ...


def progress(done: float, total: float, unit: str) -> str:
    """`45 % (1.2 GB of 2.7 GB)`; only the amount when the total is not known."""
    said = [size(n) if unit == "B" else f"{n:g} {unit}".rstrip() for n in (done, total)]
    if total <= 0:
        return said[0]
    return f"{min(done / total, 1) * 100:.0f} % ({said[0]} of {said[1]})"
