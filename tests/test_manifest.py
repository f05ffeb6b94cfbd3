"""The manifest: a typed record that can be read back, with a schema."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import jsonschema
import pytest

from pipeline import manifest
from pipeline.errors import InputError
from pipeline.manifest import FileRecord, Manifest, StepRecord, read_manifest


@pytest.fixture
def record(tmp_path: Path) -> Manifest:
    return Manifest(
        recipe="r",
        recipe_file="r.yaml",
        recipe_blake3="0" * 64,
        run_dir=str(tmp_path),
        started=datetime(2026, 1, 2, tzinfo=UTC),
        fingerprint="1" * 64,
        engine="live",
        steps=[
            StepRecord(
                id="save",
                step="save",
                metrics={"bytes": 3, "dtype": "bfloat16", "loss": 0.5},
                outputs=[FileRecord(path="m/w", bytes=3, blake3="2" * 64)],
            )
        ],
        versions=manifest.versions(),
    )


def test_what_is_written_is_read_back(record: Manifest, tmp_path: Path) -> None:
    record.write()
    assert read_manifest(tmp_path) == record
    assert read_manifest(tmp_path / "manifest.json") == record
    assert record.metrics == {"save.bytes": 3, "save.dtype": "bfloat16", "save.loss": 0.5}


def test_a_manifest_follows_its_schema(record: Manifest, tmp_path: Path) -> None:
    record.write()
    data = json.loads((tmp_path / "manifest.json").read_text())
    jsonschema.validate(data, manifest.schema())
    data["steps"][0]["status"] = "perhaps"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, manifest.schema())


def test_versions_name_the_libraries_that_can_change_bytes() -> None:
    assert {"mergeline", "python", "torch", "transformers", "peft", "bitsandbytes"} <= set(
        manifest.versions()
    )


def test_a_folder_without_a_run_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run in this folder") as caught:
        read_manifest(tmp_path)
    assert caught.value.fix


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 3}', "\x00"])
def test_a_damaged_manifest_is_a_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match="not a manifest"):
        read_manifest(tmp_path)


def test_the_git_commit_is_that_of_the_folder(tmp_path: Path) -> None:
    assert manifest.git_commit(tmp_path) is None
