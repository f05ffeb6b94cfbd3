"""The runner: the steps of a planned recipe in order, each timed, recorded and caught."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from pipeline.blueprint import Blueprint, State
from pipeline.recipe.model import Recipe

if TYPE_CHECKING:
    from pipeline.realise.live import LiveModel

log = logging.getLogger("mergeline")

Figure = float | int | str | bool | None
"""A value of a metric."""


class Bar(Protocol):
    """Progress of one piece of long work."""

    def advance(self, amount: float = 1) -> None: ...


class Console(Protocol):
    """What a run tells the person who watches it; `report/terminal.py` has the real ones."""

    def run_started(self, recipe: Recipe) -> None: ...
    def step_started(self, number: int, of: int, id: str, summary: str) -> None: ...
    def step_done(self, id: str, seconds: float) -> None: ...
    def step_failed(self, id: str, seconds: float, why: str) -> None: ...
    def note(self, text: str) -> None: ...
    def warn(self, text: str) -> None: ...
    def bar(self, label: str, total: float, unit: str = "") -> AbstractContextManager[Bar]:
        """Unit `B` shows bytes."""
        ...


class RunContext:
    """What an acting step may use: the state it works on, and ways to tell what it made."""

    recipe: Recipe
    dir: Path
    """The run's folder."""
    console: Console
    state: State
    """As the running step described it: `save` finds its own folder in here."""
    step_id: str

    @property
    def blueprint(self) -> Blueprint:
        """The model as it stands at this step."""
        assert self.state.blueprint is not None
        return self.state.blueprint

    def live(self, blueprint: Blueprint | None = None) -> LiveModel:
        """The model (by default, as it stands at this step) in memory.

        Kept until another one is asked for: one base at a time, always built from the files anew.
        """
        raise NotImplementedError

    def release(self) -> None:
        """Drop the live model, for a step that is about to need the memory."""

    def note(self, text: str) -> None:
        """Say something to the user; it goes to the log and the manifest too."""

    def warn(self, text: str) -> None:
        """Like `note`, for what the user should look into."""

    def metrics(self, figures: Mapping[str, Figure]) -> None:
        """Record figures; in the manifest they stand as `<step id>.<name>`."""

    def made(self, path: Path) -> None:
        """Record a file or folder that this step wrote; its files are hashed into the manifest."""

    def bar(self, label: str, total: float, unit: str = "") -> AbstractContextManager[Bar]:
        """A progress bar."""
        return self.console.bar(label, total, unit)
