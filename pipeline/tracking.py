"""Telling an experiment tracker of a run, through accelerate's trackers.

Off unless a recipe says `tracking: tensorboard | mlflow | wandb | trackio`; each is an extra, as in
`pip install 'mergeline[mlflow]'`. Where a tracker keeps its records is the tracker's own affair
(`MLFLOW_TRACKING_URI`, `WANDB_MODE`), except that TensorBoard's files go into the run's folder.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import secrets
from pipeline.recipe.model import Recipe, Tracker

if TYPE_CHECKING:
    from pipeline.manifest import Manifest

PROJECT = "mergeline"
"""Under this name trackers that gather runs of many folders file ours."""

Setting = str | int | float | bool


def check(name: Tracker) -> str | None:
    """What is missing for this tracker and how to install it, or None. Imports nothing."""
    return None if find_spec(name) else f"{name} is not installed: pip install 'mergeline[{name}]'"


def report(recipe: Recipe, record: Manifest) -> None:
    """Send settings and figures of a finished run, whichever way it ended, to the recipe's tracker."""
    if recipe.tracking is None:
        return
    tracker = _tracker(recipe.tracking, Path(record.run_dir), recipe.tags)
    tracker.start()
    try:
        tracker.store_init_configuration(settings(record))
        tracker.log(figures(record), step=0)
    finally:
        tracker.finish()


def settings(record: Manifest) -> dict[str, Setting]:
    """What the run was asked, flat and without secrets: `steps.save.dtype` -> `float16`."""
    said: dict[str, Any] = {
        "recipe": record.recipe,
        "status": record.status,
        "fingerprint": record.fingerprint,
        **{key: record.resolved[key] for key in ("params", "seed") if key in record.resolved},
        "steps": {step.id: step.settings for step in record.steps},
    }
    return _flat(secrets.redact(said))


def figures(record: Manifest) -> dict[str, float]:
    """Every number of the run: its metrics, and seconds and peak memory of each step."""
    found = {
        name: value for name, value in record.metrics.items() if isinstance(value, int | float)
    }
    for step in record.steps:
        if step.seconds is not None:
            found[f"{step.id}.seconds"] = step.seconds
        if step.peak_memory_bytes is not None:
            found[f"{step.id}.peak_memory_bytes"] = step.peak_memory_bytes
    if record.seconds is not None:
        found["seconds"] = record.seconds
    return {name: float(value) for name, value in found.items()}


def _tracker(name: Tracker, run_dir: Path, tags: tuple[str, ...]) -> Any:
    """An accelerate tracker that has not been started."""
    from accelerate.state import PartialState
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    PartialState()  # some of the trackers log through accelerate, which refuses without it
    kind = LOGGER_TYPE_TO_CLASS[name]
    title = f"{run_dir.parent.name}/{run_dir.name}"
    if name == "tensorboard":
        return kind(name, run_dir)
    if name == "mlflow":
        return kind(experiment_name=PROJECT, run_name=title, tags=dict.fromkeys(tags, "true"))
    if name == "wandb":
        return kind(PROJECT, name=title, tags=list(tags), dir=str(run_dir))
    return kind(PROJECT, name=title)


def _flat(data: Mapping[str, Any], above: str = "") -> dict[str, Setting]:
    """Nested mappings as dotted names; what trackers cannot hold becomes text, and None is left out."""
    found: dict[str, Setting] = {}
    for key, value in data.items():
        name = f"{above}{key}"
        if isinstance(value, Mapping):
            found |= _flat(value, f"{name}.")
        elif isinstance(value, str | int | float | bool):
            found[name] = value
        elif value is not None:
            found[name] = str(value)
    return found
