"""A finished run reaches the tracker that its recipe names."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline import tracking
from pipeline.manifest import Manifest, StepRecord
from pipeline.recipe.model import Recipe


def finished_run(run_dir: Path, **changes: Any) -> Manifest:
    step = StepRecord(
        id="evaluate",
        step="evaluate",
        status="done",
        settings={"data": "held_out.txt", "limit": None, "hf_token": "very-secret", "files": ["a"]},
        seconds=2.5,
        peak_memory_bytes=1024,
        metrics={"loss": 1.25, "tokens": 640, "comment": "words are not figures"},
    )
    fields: dict[str, Any] = {
        "status": "done",
        "recipe": "evaluate_adapter",
        "recipe_file": "recipes/evaluate_adapter.yaml",
        "recipe_blake3": "0" * 64,
        "run_dir": str(run_dir),
        "started": datetime(2026, 1, 2, tzinfo=UTC),
        "seconds": 3.5,
        "resolved": {"params": {"base": "some/base"}, "seed": 7},
        "fingerprint": "f" * 64,
        "engine": "live",
        "steps": [step],
    }
    return Manifest(**fields | changes)


def recipe(run_dir: Path, tracker: Any) -> Recipe:
    return Recipe(
        name="evaluate_adapter", path=Path("r.yaml"), steps=(), run_dir=run_dir, tracking=tracker
    )


def test_figures_are_the_numbers_of_the_run_by_step(tmp_path: Path) -> None:
    assert tracking.figures(finished_run(tmp_path)) == {
        "evaluate.loss": 1.25,
        "evaluate.tokens": 640.0,
        "evaluate.seconds": 2.5,
        "evaluate.peak_memory_bytes": 1024.0,
        "seconds": 3.5,
    }


def test_settings_are_flat_and_without_secrets(tmp_path: Path) -> None:
    told = tracking.settings(finished_run(tmp_path))

    assert told["params.base"] == "some/base"
    assert told["steps.evaluate.data"] == "held_out.txt"
    assert told["steps.evaluate.files"] == "['a']"
    assert told["status"] == "done"
    assert "very-secret" not in str(told)
    assert "steps.evaluate.limit" not in told


def test_tensorboard_reads_back_what_was_sent(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record = finished_run(tmp_path)

    tracking.report(recipe(tmp_path, "tensorboard"), record)

    read = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    sent = {tag: [event.value for event in read.Scalars(tag)] for tag in read.Tags()["scalars"]}
    assert sent == {name: [value] for name, value in tracking.figures(record).items()}


def test_a_failed_run_is_told_too(tmp_path: Path) -> None:
    record = finished_run(tmp_path, status="failed", seconds=None)

    assert tracking.settings(record)["status"] == "failed"
    assert "seconds" not in tracking.figures(record)


def test_without_tracking_nothing_is_written(tmp_path: Path) -> None:
    tracking.report(recipe(tmp_path, None), finished_run(tmp_path))

    assert list(tmp_path.iterdir()) == []


def test_a_missing_tracker_is_known_before_the_run_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)

    missing = "mlflow is not installed: pip install 'mergeline[mlflow]'"
    assert tracking.check("mlflow") == missing


def test_an_installed_tracker_needs_no_command() -> None:
    assert tracking.check("tensorboard") is None
