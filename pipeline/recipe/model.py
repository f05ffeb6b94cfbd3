"""What a composed and checked recipe is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pipeline.blueprint import Engine
from pipeline.errors import COMMAND_LINE, Place
from pipeline.steps import Step

Tracker = Literal["tensorboard", "mlflow", "wandb", "trackio"]
Workers = Literal["ray"]


@dataclass(frozen=True)
class StepCall:
    """One line of a recipe's `steps`, composed with its preset and the overrides, and typed. A line after a
    `for_each` has one for each branch, side by side."""

    id: str
    step: Step[Any]
    preset: str | None
    settings: Any
    """An instance of `step.settings`."""
    place: Place
    """The step's line in the recipe file."""
    branch: tuple[str, ...] = ()
    """One name for each `for_each` that leads here; none before the first."""

    @property
    def line(self) -> str:
        """The id of the step in the recipe file, which its branches share."""
        return self.id.removesuffix("." + "-".join(self.branch)) if self.branch else self.id


@dataclass(frozen=True)
class Recipe:
    """A recipe that has been composed by Hydra and found free of mistakes of form."""

    name: str
    path: Path
    """The recipe file."""
    steps: tuple[StepCall, ...]
    run_dir: Path
    """Where a run of it puts its manifest, log and, by default, its results."""
    params: Mapping[str, Any] = field(default_factory=dict)
    engine: Engine = "auto"
    device: str = "auto"
    """`auto`, `cpu`, `cuda`, `cuda:1`, `mps`: where live models go when `device_map` says nothing."""
    seed: int = 0
    tags: tuple[str, ...] = ()
    tracking: Tracker | None = None
    workers: Workers | None = None
    overrides: tuple[str, ...] = ()
    """As the user typed them."""
    resolved: Mapping[str, Any] = field(default_factory=dict)
    """The whole composed recipe as plain data, interpolations resolved."""
    fingerprint: str = ""
    """SHA-256 (hex) of `resolved` without the run's own folder: equal recipes have equal ones."""
    places: Mapping[str, Place] = field(default_factory=dict)
    """Where each key stands: `save.dtype` -> recipe file and line, or the command line."""

    def place(self, key: str) -> Place:
        """The place of a key, or of the nearest key above it that has one."""
        while key:
            if key in self.places:
                return self.places[key]
            key = key.rpartition(".")[0]
        return Place(str(self.path)) if self.path else COMMAND_LINE
