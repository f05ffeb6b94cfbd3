"""Acting one step after the other, as the runner does, without a recipe file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipeline.blueprint import State
from pipeline.manifest import StepRecord
from pipeline.recipe.model import Recipe
from pipeline.run import RunContext
from pipeline.steps import all_steps


class Silent:
    """A console that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)

    warn = note

    @contextmanager
    def bar(self, label: str, total: float, unit: str = "") -> Iterator[Any]:
        class Bar:
            def advance(self, amount: float = 1) -> None:
                pass

        yield Bar()


class Session:
    """A run that tests lead step by step."""

    def __init__(self, folder: Path) -> None:
        recipe = Recipe("test", folder / "test.yaml", (), run_dir=folder, device="cpu")
        self.run = RunContext(recipe, Silent())  # type: ignore[arg-type]

    @property
    def state(self) -> State:
        return self.run.state

    def describe(self, name: str, /, **settings: Any) -> State:
        """What the state would be after a step; nothing is done."""
        step = all_steps()[name]
        return step.describe(step.settings(**settings), replace(self.state, step_id=name))

    def do(self, name: str, /, **settings: Any) -> StepRecord:
        """Describe a step and act it; returns what the manifest would say of it."""
        step = all_steps()[name]
        typed = step.settings(**settings)
        self.run.state = step.describe(typed, replace(self.state, step_id=name))
        self.run.record = StepRecord(id=name, step=name)
        if step.action is not None:
            step.action(typed, self.run)
            self.run.record.outputs = self.run.take_made()
        return self.run.record


@pytest.fixture
def session(tmp_path: Path) -> Session:
    folder = tmp_path / "run"
    folder.mkdir()
    return Session(folder)


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a data file; returns its path."""

    def writing(name: str, text: str) -> str:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return str(tmp_path / name)

    return writing
