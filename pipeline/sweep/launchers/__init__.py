"""Where the jobs of a sweep run: on this machine, or handed to an engine that others have made.

A launcher is a context that gives a function, which starts one task and returns a handle on it. All of them
run `run_task`; what it finds out about a job comes back through the handle.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict

from pipeline.errors import COMMAND_LINE, Problem, RecipeError
from pipeline.steps import nearest
from pipeline.sweep.ledger import JobLine
from pipeline.sweep.task import Task


class Handle(Protocol):
    """On a task that was given to a launcher."""

    def done(self) -> bool: ...

    def result(self) -> JobLine | None:
        """How the job ended, or None when it did not begin. Raises what became of its worker."""

    def cancel(self) -> Any:
        """Do not begin it, if it has not."""


Start = Callable[[Task], Handle]


class Options(BaseModel):
    """`launcher.*` on the command line."""

    model_config = ConfigDict(extra="forbid", frozen=True)


@dataclass(frozen=True)
class Launcher:
    """An engine, of which nothing is imported before it is opened."""

    name: str
    library: str | None
    """What has to be installed, as the extra of the launcher's name brings it."""
    at_most: int | None
    """Jobs at a time unless `--workers` says it; None where the engine decides."""
    here: bool = False
    """Whether all jobs run on this machine."""

    @property
    def options(self) -> type[Options]:
        options: type[Options] = self._module().OPTIONS
        return options

    def gpus_there(self, options: Options) -> bool:
        """Whether a job that would take a GPU, if there is one, may ask for it."""
        there: bool = self._module().gpus_there(options)
        return there

    def open(self, options: Options, folder: Path, workers: int) -> AbstractContextManager[Start]:
        """Get ready for `workers` jobs at a time. `folder` is the sweep's, for what the engine writes."""
        opened: AbstractContextManager[Start] = self._module().opened(options, folder, workers)
        return opened

    def _module(self) -> Any:
        return import_module(f"{__name__}.{self.name}")


_KNOWN = (
    Launcher("local", None, at_most=1, here=True),
    Launcher("joblib", "joblib", at_most=1, here=True),
    Launcher("slurm", "submitit", at_most=None),
    Launcher("ray", "ray", at_most=None),
)
LAUNCHERS = {launcher.name: launcher for launcher in _KNOWN}


def launcher_of(name: str) -> Launcher:
    """A launcher that can be used here. Raises RecipeError."""
    launcher = LAUNCHERS.get(name)
    if launcher is None:
        what = f"must be one of {', '.join(LAUNCHERS)}, got {name!r}"
        raise _wrong(what, nearest(name, LAUNCHERS))
    if launcher.library and find_spec(launcher.library) is None:
        raise _wrong(f"{launcher.library} is not installed", f"pip install 'mergeline[{name}]'")
    return launcher


def _wrong(what: str, fix: str | None) -> RecipeError:
    return RecipeError([Problem(what, fix, "--launcher", COMMAND_LINE)])
