"""When a run no longer stands for a job; the rest is in test_sweep.py, on runs that were made."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.checkpoint.hashes import hash_file
from pipeline.checkpoint.source import Source, locate
from pipeline.manifest import FileRecord, Manifest, versions
from pipeline.sweep.done import why_again

HUB = Source("owner/base", None, "owner/base", "c" * 40, {"model.safetensors": 9})


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    return folder


@pytest.fixture
def done(tmp_path: Path, adapter: Path) -> Path:
    """The folder of a run that is done, and read a base of the Hub and an adapter of this machine."""
    file = adapter / "adapter_config.json"
    inputs = [
        FileRecord(path="model.safetensors", bytes=9, repo=HUB.repo, commit=HUB.commit),
        FileRecord(path=str(file), bytes=2, blake3=hash_file(file)),
    ]
    (tmp_path / "run").mkdir()
    record = Manifest(
        status="done",
        recipe="r",
        recipe_file="r.yaml",
        recipe_blake3="0" * 64,
        run_dir=str(tmp_path / "run"),
        started=datetime.now(UTC),
        fingerprint="f",
        engine="stream",
        inputs=inputs,
        versions=versions(),
    )
    record.write()
    return tmp_path / "run"


def test_what_has_not_changed_is_done(done: Path, adapter: Path) -> None:
    assert why_again(done, "f", [HUB, locate(str(adapter))]) is None


def test_another_recipe_is_another_job(done: Path, adapter: Path) -> None:
    assert why_again(done, "g", [HUB]) == "another recipe was run in its folder"


def test_a_base_that_moved_on_is_another_input(done: Path, adapter: Path) -> None:
    moved = replace(HUB, commit="d" * 40)
    assert why_again(done, "f", [moved]) == "owner/base is at another commit"


def test_a_file_that_came_is_a_change(done: Path, adapter: Path) -> None:
    (adapter / "chat_template.jinja").write_text("{{ messages }}")
    why = why_again(done, "f", [HUB, locate(str(adapter))])
    assert why == f"the input {adapter / 'chat_template.jinja'} is new"


def test_a_change_of_equal_size_is_found(done: Path, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("[]")
    why = why_again(done, "f", [HUB, locate(str(adapter))])
    assert why == f"the input {adapter / 'adapter_config.json'} has changed"


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    assert why_again(tmp_path, "f", []) == "there is no run in this folder"
