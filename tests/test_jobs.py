"""Folders of runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import jobs
from pipeline.errors import RecipeError


def test_a_folder_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    names = [jobs.claim(tmp_path / "new" / "run").name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]


def test_runs_that_start_together_never_share_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: jobs.claim(tmp_path / "run"), range(64)))
    assert len(set(folders)) == 64


def test_a_folder_that_cannot_be_made_is_said_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RecipeError, match="cannot be made") as error:
        jobs.claim(tmp_path / "file" / "run")
    assert error.value.problems[0].key == "hydra.run.dir"
