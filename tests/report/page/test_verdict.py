"""What the head of the page says of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.manifest import ErrorRecord, FileRecord, Manifest, StepRecord
from pipeline.report.page.verdict import verdict
from tests.fixtures.manifests import failed, manifest


def step(id: str, **fields: Any) -> StepRecord:
    return StepRecord(**{"id": id, "step": id.partition("_")[0], "status": "done", **fields})


def ended(folder: Path, *steps: StepRecord, **changes: Any) -> Manifest:
    return manifest(folder, steps=list(steps), **changes)


SAVE = step("save", settings={"path": "a"})
SAVE_2 = step("save_2", settings={"path": "b"})


@pytest.mark.parametrize(
    ("steps", "tone", "headline"),
    [
        ([SAVE, step("verify")], "good", "The saved model is the one that was trained"),
        (
            [SAVE, step("verify"), SAVE_2, step("verify_2")],
            "good",
            "The saved models are those that were trained",
        ),
        ([SAVE], "warn", "Saved, not proven"),
        ([SAVE, SAVE_2, step("verify")], "warn", "Not all that was saved is proven"),
        (
            [SAVE, SAVE_2, step("verify", settings={"folder": "a"}), step("verify_2")],
            "good",
            "The saved models are those that were trained",
        ),
        ([step("load_base"), step("generate")], "plain", "Done"),
    ],
)
def test_only_what_was_verified_is_called_right(
    tmp_path: Path, steps: list[StepRecord], tone: str, headline: str
) -> None:
    said = verdict(ended(tmp_path, *steps))

    assert (said.tone, said.headline) == (tone, headline)


def test_a_model_that_nobody_verified_is_named(tmp_path: Path) -> None:
    said = verdict(ended(tmp_path, SAVE, SAVE_2, step("verify")))

    assert said.details[-1] == "Not verified: a"


def receipt(folder: str) -> list[FileRecord]:
    return [FileRecord(path=f"{folder}/mergeline.json", bytes=1)]


@pytest.mark.parametrize(
    ("saved", "looked_at"),
    [
        (step("save", settings={"path": "a"}), step("verify", settings={"folder": "./b/../a"})),
        (
            step("save", settings={"path": "a"}, outputs=receipt("/models/a")),
            step("verify", settings={"folder": "/models/a"}, outputs=receipt("/models/a")),
        ),
        (
            step("save", settings={"path": "/models/a"}, outputs=receipt("/models/a")),
            step("verify", settings={"folder": "../a"}, outputs=receipt("/models/a")),
        ),
    ],
    ids=["two relative paths", "a relative and an absolute one", "the other way round"],
)
def test_a_folder_is_the_same_however_it_is_spelled(
    tmp_path: Path, saved: StepRecord, looked_at: StepRecord
) -> None:
    assert verdict(ended(tmp_path, saved, looked_at)).tone == "good"


def test_a_folder_of_the_run_is_not_one_of_that_name_elsewhere(tmp_path: Path) -> None:
    saved = step("save", settings={"path": "a"}, outputs=receipt("a"))
    other = step("verify", settings={"folder": "a"}, outputs=receipt("/models/a"))

    said = verdict(ended(tmp_path, saved, other))

    assert (said.tone, said.details[-1]) == ("warn", "Not verified: a")


def test_a_failed_proof_and_a_failed_run_are_told_apart(tmp_path: Path) -> None:
    unlike = verdict(failed(tmp_path))
    broken = verdict(
        ended(
            tmp_path,
            step("save", status="failed"),
            status="failed",
            error=ErrorRecord(type="OutputError", what="the disk is full"),
        )
    )

    assert unlike.headline == "The saved model is not the one that was trained"
    assert (broken.headline, broken.details) == ("The run failed", ("At the step save.",))
    assert unlike.tone == broken.tone == "bad"


def test_only_verify_says_that_a_model_is_another_one(tmp_path: Path) -> None:
    error = ErrorRecord(type="VerificationError", what="no way to merge gives finite numbers")
    compared = step("compare_merges", step="compare_merges", status="failed", error=error)

    said = verdict(ended(tmp_path, compared, status="failed", error=error))

    assert (said.headline, said.details) == ("The run failed", ("At the step compare_merges.",))


@pytest.mark.parametrize(
    ("status", "headline", "detail"),
    [
        ("interrupted", "Interrupted", "At the step save."),
        ("running", "Not finished", "It is still running, or was killed, at save."),
    ],
)
def test_a_run_that_did_not_end_says_how_far_it_came(
    tmp_path: Path, status: Any, headline: str, detail: str
) -> None:
    said = verdict(ended(tmp_path, step("save", status=status), status=status))

    assert (said.tone, said.headline, said.details) == ("warn", headline, (detail,))


def test_a_figure_that_is_short_of_all_is_not_told_as_all(tmp_path: Path) -> None:
    said = verdict(ended(tmp_path, SAVE, step("verify", metrics={"top1": 0.99999})))

    assert said.details == ("verify: the same likeliest token at 99.99 % of the positions.",)
