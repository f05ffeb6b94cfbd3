"""A run that is over, as a table."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from pipeline.manifest import ErrorRecord, FileRecord, Manifest, StepRecord
from pipeline.report.run_table import print_end, print_run


def manifest(run_dir: Path, **changes: Any) -> Manifest:
    shards = [
        FileRecord(path=f"merged/model-{n}.safetensors", bytes=400_000_000, blake3=str(n) * 64)
        for n in range(2)
    ]
    weights = FileRecord(
        path="model.safetensors", bytes=9 * 10**8, blake3="c" * 64, repo="org/base", commit="d" * 40
    )
    text = FileRecord(path="generate.jsonl", bytes=120, blake3="e" * 64)
    fields: dict[str, Any] = {
        "status": "done",
        "recipe": "merge_lora",
        "recipe_file": "recipes/merge_lora.yaml",
        "recipe_blake3": "0" * 64,
        "run_dir": str(run_dir),
        "started": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "seconds": 83.0,
        "overrides": ["save.dtype=float16"],
        "fingerprint": "f" * 64,
        "engine": "live",
        "versions": {"mergeline": "0.1.0", "torch": "2.13.0", "numpy": "2.0"},
        "inputs": [weights],
        "steps": [
            StepRecord(
                id="save",
                step="save",
                status="done",
                seconds=80.2,
                peak_memory_bytes=7 * 10**8,
                metrics={"tensors": 290, "changed": 0.5},
                notes=["wrote 2 shards"],
                outputs=[*shards, text],
            ),
            StepRecord(id="last", step="verify", status="skipped", warnings=["watch out"]),
        ],
    }
    return Manifest(**fields | changes)


def shown(text: str) -> list[str]:
    """The lines with each run of blanks made one."""
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


def test_a_run_shows_its_verdict_steps_figures_files_and_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_run(manifest(tmp_path))

    lines = shown(capsys.readouterr().out)
    assert lines[0] == "merge_lora done in 1 min 23 s"
    for expected in [
        "overrides save.dtype=float16",
        "versions mergeline 0.1.0, torch 2.13.0",
        "save done 1 min 20 s 700 MB tensors 290",
        "changed 0.5",
        "last (verify) skipped",
        "wrote 2 shards",
        "! watch out",
        "in 900 MB 1 file org/base at dddddddddddd",
        "out 800 MB 2 files merged/",
        "120 B 1 file generate.jsonl",
    ]:
        assert expected in lines
    assert f"log {tmp_path}/run.log" in " ".join(lines)


def test_a_failed_run_says_where_why_and_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ErrorRecord(type="OutputError", where="out", what="the disk is full", fix="free space")

    print_run(manifest(tmp_path, status="failed", error=error))

    lines = shown(capsys.readouterr().out)
    assert lines[0] == "merge_lora failed in 1 min 23 s"
    assert lines.index("out: the disk is full") + 1 == lines.index("free space")


def test_a_killed_run_is_not_shown_as_running(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_run(manifest(tmp_path, status="running", seconds=None))

    assert shown(capsys.readouterr().out)[0] == "merge_lora not finished (still running, or killed)"


def test_text_of_a_model_cannot_steer_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = StepRecord(
        id="generate",
        step="generate",
        notes=["\x1b[2J[bold]hi[/bold]"],
        metrics={"text": "\x1b[1A"},
    )

    print_run(manifest(tmp_path, steps=[step]))

    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "�[2J[bold]hi[/bold]" in out


def test_the_end_of_a_run_names_its_folder_on_a_line_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / ("x" * 200)

    print_end(manifest(long))

    assert f"  {long}" in capsys.readouterr().out.splitlines()


def test_the_end_of_a_run_leads_to_its_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    page.touch()

    print_end(manifest(tmp_path))

    assert f"  {page}" in capsys.readouterr().out.splitlines()
