"""A step that does what users' machines and libraries do to jobs."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import psutil

from pipeline.blueprint import State
from pipeline.errors import Refused
from pipeline.steps import step, step_settings

if TYPE_CHECKING:
    from pipeline.run import RunContext


@step_settings
class MisbehaveSettings:
    """In which way."""

    how: Literal[
        "not",
        "raise",
        "exit",
        "exit at once",
        "kill",
        "kill the worker",
        "crash",
        "memory",
        "unpicklable",
        "sleep",
    ] = "not"
    unless: str = ""
    """Behave when there is a file of this name."""
    data: str = ""
    """A file to read."""
    factor: float = 1.0
    refuse: bool = False
    say: str = ""
    """Print it, as libraries do."""


class UnpicklableError(Exception):
    """Holds what cannot travel between processes."""

    def __init__(self) -> None:
        super().__init__("cannot travel")
        self.lock = threading.Lock()


@step()
def misbehave(settings: MisbehaveSettings, state: State) -> State:
    """Go wrong."""
    if settings.refuse:
        raise Refused("will not", fix="let it be", key="refuse")
    return state


@misbehave.act
def _(settings: MisbehaveSettings, run: RunContext) -> None:
    if settings.data:
        run.used(Path(settings.data))
    print("said", settings.say)
    print("may use", os.environ["OMP_NUM_THREADS"], "threads")
    attempts = len(list(run.dir.parent.glob(f"{run.dir.name.removesuffix('-2')}*")))
    run.metrics({"loss": settings.factor / 2, "attempts": attempts})
    result = run.dir / "result.txt"
    result.write_text(f"{settings.factor}\n", encoding="utf-8")
    run.made(result)
    if settings.unless and Path(settings.unless).exists():
        return
    match settings.how:
        case "raise":
            raise ValueError("went wrong")
        case "exit":
            sys.exit(3)
        case "exit at once":
            os._exit(3)
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "kill the worker":
            Path("killed").touch()
            psutil.Process(os.getppid()).parent().kill()
            time.sleep(60)
        case "crash":
            os.abort()
        case "memory":
            bytearray(1 << 60)
        case "unpicklable":
            raise UnpicklableError
        case "sleep":
            (run.dir / "asleep").write_text(str(os.getpid()), encoding="utf-8")
            time.sleep(60)
