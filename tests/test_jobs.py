"""Folders of runs, and how the problems of a grid are told."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline import jobs
from pipeline.errors import RecipeError
from pipeline.recipe.hydra_app import Request, grid


@pytest.fixture
def request_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> type[Request]:
    monkeypatch.chdir(tmp_path)
    Path("r.yaml").write_text(
        "params: {base: x}\nsteps:\n  - load_base: {model: '${params.base}'}\n  - save\n"
    )
    return Request


def test_a_folder_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    names = [jobs.claim(tmp_path / "new" / "run").name for _ in range(3)]
    assert names == ["run", "run-2", "run-3"]


def test_runs_that_start_together_never_share_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(16) as pool:
        folders = list(pool.map(lambda _: jobs.claim(tmp_path / "run"), range(64)))
    assert len(set(folders)) == 64


def test_a_grid_is_every_combination_in_folders_of_their_own(request_of: type[Request]) -> None:
    overrides = (
        "save.dtype=float16,bfloat16",
        "load_base=nf4,int8",
        "seed=3",
        "hydra.sweep.dir=it's here",
    )
    found = grid(request_of(Path("r.yaml"), overrides))
    assert [job[:2] for job in found] == [
        ["steps.save.dtype=float16", "step/load_base@steps.load_base=nf4"],
        ["steps.save.dtype=float16", "step/load_base@steps.load_base=int8"],
        ["steps.save.dtype=bfloat16", "step/load_base@steps.load_base=nf4"],
        ["steps.save.dtype=bfloat16", "step/load_base@steps.load_base=int8"],
    ]
    loaded = [jobs.load_request(request_of(Path("r.yaml"), tuple(job))) for job in found]
    assert [str(recipe.run_dir) for recipe in loaded] == [
        f"it's here/{number}" for number in range(4)
    ]


def test_every_job_is_checked_before_one_runs(request_of: type[Request], tmp_path: Path) -> None:
    request = request_of(
        Path("r.yaml"), ("save.dtype=float16,float17", "load_base.model=nowhere,neither")
    )
    with pytest.raises(RecipeError) as error:
        jobs.run_many(request)
    told = str(error.value)
    assert "got 'float17' (with save.dtype=float17 load_base.model=nowhere and 1 more)" in told
    assert not (tmp_path / "outputs").exists()


def test_a_folder_that_cannot_be_made_is_said_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RecipeError, match="cannot be made") as error:
        jobs.claim(tmp_path / "file" / "run")
    assert error.value.problems[0].key == "hydra.run.dir"
