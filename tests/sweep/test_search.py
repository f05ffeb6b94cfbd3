"""Searches: what optuna proposes is tried as jobs of a sweep, and the same command goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.sweep.status import read_status
from tests.sweep.conftest import Call, Start
from tests.sweep.test_launchers import wait_for

pytest.importorskip("optuna", reason="optuna is not installed: pip install '.[search]'")

SWEEP = ["sweep", "r.yaml", "hydra.sweep.dir=sweep"]
FACTOR = ["--search", "misbehave.factor=interval(1,3)", "--minimize", "misbehave.loss"]


def factors(tmp_path: Path) -> list[float]:
    jobs = read_status(tmp_path / "sweep").jobs
    return [float(job.overrides[0].partition("=")[2]) for job in jobs]


def test_a_search_finds_the_least_and_goes_on(mergeline: Call, tmp_path: Path) -> None:
    done = mergeline(*SWEEP, *FACTOR, "--trials", "3")
    assert done.returncode == 0, done.stderr
    first = factors(tmp_path)
    more = mergeline(*SWEEP, *FACTOR, "--trials", "5", "--workers", "2")

    assert more.returncode == 0, more.stderr
    tried = factors(tmp_path)
    assert tried[:3] == first, "what was tried is not tried again"
    assert len(set(tried)) == 5
    assert all(1 <= factor <= 3 for factor in tried)
    assert f"best of 5 trials: misbehave.factor={min(tried):g}" in more.stdout
    assert len(list((tmp_path / "sweep").glob("*/manifest.json"))) == 5
    assert "best of 5 trials" in mergeline(*SWEEP, *FACTOR, "--trials", "5").stdout, (
        "nothing is left"
    )


def test_trials_that_fail_or_are_refused_are_recorded_and_passed_over(
    mergeline: Call, tmp_path: Path
) -> None:
    choices = ["misbehave.how=not,raise,exit,not", "misbehave.refuse=false,true,false"]
    goal = ["--maximize", "misbehave.loss", "--trials", "9"]
    done = mergeline(*SWEEP, "--search", *choices, *goal)

    assert done.returncode == 0, done.stderr
    jobs = read_status(tmp_path / "sweep").jobs
    failed = {job.why for job in jobs if job.status == "failed"}
    assert failed >= {"will not", "ValueError: went wrong"}
    assert "best of 9 trials: misbehave.how=not misbehave.refuse=false" in done.stdout


def test_a_search_that_is_killed_goes_on_with_the_trial_that_it_was_at(
    start: Start, mergeline: Call, tmp_path: Path
) -> None:
    words = [*SWEEP, "misbehave.how=sleep", "misbehave.unless=cured", *FACTOR, "--trials", "2"]
    search = start(*words)
    wait_for("sweep/*/asleep", tmp_path)
    begun = factors(tmp_path)
    search.kill()
    search.communicate(timeout=60)

    (tmp_path / "cured").touch()
    assert mergeline(*words).returncode == 0

    assert factors(tmp_path)[0] == begun[0]
    assert [job.status for job in read_status(tmp_path / "sweep").jobs] == ["done", "done"]


def test_a_figure_that_no_job_has_ends_the_search(mergeline: Call, tmp_path: Path) -> None:
    done = mergeline(*SWEEP, *FACTOR[:-1], "misbehave.los", "--trials", "3")
    assert done.returncode == 1
    assert "there is no figure 'misbehave.los'" in done.stderr
    assert "its figures are: misbehave.attempts, misbehave.loss" in done.stderr
    assert len(factors(tmp_path)) == 1
    assert read_status(tmp_path / "sweep").status == "failed"


def test_a_plan_of_a_search_has_the_jobs_at_its_ends(mergeline: Call, tmp_path: Path) -> None:
    done = mergeline(*SWEEP, *FACTOR, "--plan", "--json")
    assert [job["overrides"] for job in json.loads(done.stdout)["jobs"]] == [
        ["misbehave.factor=1"],
        ["misbehave.factor=3"],
    ]
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            ["--search", "misbehave.factor=1", "--minimize", "misbehave.loss"],
            "leaves nothing to search",
        ),
        (
            ["--search", "misbehave.factor=interval(3,1)", "--minimize", "misbehave.loss"],
            "is no interval",
        ),
        (
            ["--search", "misbehave.factr=interval(1,3)", "--minimize", "misbehave.loss"],
            "did you mean",
        ),
        (["--search", "misbehave.refuse=false,true", "--minimize", "misbehave.loss"], "will not"),
        (
            ["misbehave.factor=1,2", "--search", "seed=1,2", "--minimize", "misbehave.loss"],
            "several values",
        ),
        (["--search", "seed=1,2", "--minimize", "misbehaves.loss"], "did you mean 'misbehave'?"),
        (["--search", "misbehave.factor=interval(1,3)"], "--minimize FIGURE or --maximize"),
        ([*FACTOR, "--zip"], "--zip does not go with --search"),
    ],
)
def test_mistakes_are_found_before_anything_runs(
    mergeline: Call, tmp_path: Path, words: list[str], said: str
) -> None:
    done = mergeline(*SWEEP, *words)
    assert done.returncode == 2
    assert said in done.stderr
    assert not (tmp_path / "sweep").exists()
